"""The Edit tab, the LoRA list, the history and the Compare tab as a person uses them."""

import base64
import io
import json
import re

import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import expect

RESULT = "#result .pictures > button:first-child img"
DROP = """(target, [name, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: 'image/png'}));
    target.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""

SHAPE = """selector => {
    const {naturalWidth, naturalHeight} = document.querySelector(selector);
    return naturalWidth / naturalHeight;
}"""


def source(page, selector=RESULT):
    return page.locator(selector).first.get_attribute("src")


def difference(one, other):
    """Mean absolute difference of two pictures of the page, in levels."""
    pictures = [Image.open(io.BytesIO(base64.b64decode(each.split(",")[1]))).convert("RGB") for each in (one, other)]
    return sum(ImageStat.Stat(ImageChops.difference(*pictures)).mean) / 3


def expect_change(page, before, selector=RESULT):
    """Wait for another picture and until it stands still; returns it."""
    expect(page.locator(selector).first).not_to_have_attribute("src", before, timeout=30_000)
    seen = None
    while seen != source(page, selector):
        seen = source(page, selector)
        page.wait_for_timeout(700)
    return seen


def stroke(page, *points, canvas="#canvas"):
    """Draw through points given as fractions of the canvas."""
    box = page.locator(f"{canvas} canvas.mask").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def drop(page, selector, path):
    """Drop a PNG on an element, which is waited for."""
    page.locator(selector).first.evaluate(DROP, [path.name, base64.b64encode(path.read_bytes()).decode()])


def move_slider(page, selector, value):
    page.fill(f"{selector} input[type=number]", str(value))
    page.keyboard.press("Tab")


@pytest.fixture
def edit(page):
    """A page with the Edit tab open and its first picture."""
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector(RESULT)
    return page


def test_the_picture_follows_strokes_slider_lora_and_saved_png(edit, tmp_path):
    page = edit
    white = source(page)
    page.click("[data-colour='#e0312e']")
    stroke(page, (0.2, 0.2), (0.8, 0.3), (0.5, 0.8))
    drawn = expect_change(page, white)
    move_slider(page, "#strength", 0.1)
    weaker = expect_change(page, drawn)
    page.click('.lora[data-id="waves"] .toggle')
    styled = expect_change(page, weaker)
    weight = page.get_by_label("Weight of Waves")
    weight.focus()
    weight.press("Home")
    expect(page.locator('.lora[data-id="waves"] .weight output')).to_have_text("-1.00")
    final = expect_change(page, styled)
    expect(page.locator("#edit-info")).to_contain_text("total")
    with page.expect_download() as download:
        page.click("#save-edit")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with Image.open(saved) as picture:
        values = json.loads(picture.text["yoso"])
    assert (values["kind"], values["strength"]) == ("edit", 0.1)
    assert values["loras"] == [{"name": "waves", "weight": -1.0}]
    move_slider(page, "#strength", 0.9)
    drop(page, "#header", saved)
    expect(page.locator("#strength input[type=number]")).to_have_value("0.1")
    expect(page.locator('.lora[data-id="waves"] .weight output')).to_have_text("-1.00")
    again = expect_change(page, "")
    assert difference(again, final) < 0.2 * difference(styled, final)  # the canvas holds it in other pixels


def test_undo_redo_and_clear(edit):
    page = edit
    white = source(page)
    stroke(page, (0.1, 0.5), (0.9, 0.5))
    drawn = expect_change(page, white)
    page.click("#canvas [data-do=undo]")
    assert expect_change(page, drawn) == white
    page.click("#canvas [data-do=redo]")
    assert expect_change(page, white) == drawn
    page.click("#canvas [data-do=clear]")
    assert expect_change(page, drawn) == white


def test_only_what_is_masked_is_repainted(edit):
    page = edit
    white = source(page)
    stroke(page, (0.1, 0.5), (0.9, 0.5))
    before = expect_change(page, white)
    page.click("[data-tool=mask]")
    page.locator("#canvas .brush input").fill("120")
    stroke(page, (0.3, 0.3), (0.6, 0.6))
    masked = expect_change(page, before)
    page.click("#mask-more button")
    page.click("#invert input")
    inverted = expect_change(page, masked)
    page.click("#canvas [data-do=nomask]")
    assert expect_change(page, inverted) == before


def test_a_picture_that_is_opened_keeps_its_shape_and_what_is_done_to_it_is_told(edit, tmp_path):
    Image.radial_gradient("L").convert("RGB").resize((200, 100)).save(tmp_path / "wide.png")
    before = source(edit)
    edit.set_input_files("#canvas input[type=file]", tmp_path / "wide.png")
    expect_change(edit, before)
    assert edit.evaluate("() => document.querySelector('#canvas .picture').width") > 700
    assert abs(edit.evaluate(SHAPE, RESULT) - 2) < 0.2  # sides are multiples of 8
    expect(edit.locator(".canvas-note")).to_have_text("")
    edit.click("#mask-more button")
    edit.locator("#fit label", has_text="crop").click()
    expect(edit.locator(".canvas-note")).to_contain_text("200 x 100: cropped to its middle")
    edit.wait_for_function(f"({SHAPE})({json.dumps(RESULT)}) === 1")
    after = expect_change(edit, "")
    move_slider(edit, "#compare", 1)
    uncovered = "getComputedStyle(document.querySelector('#result .before')).clipPath.startsWith('inset(0px 0% ')"
    edit.wait_for_function(uncovered)
    (tmp_path / "text.png").write_text("no picture")
    edit.set_input_files("#canvas input[type=file]", tmp_path / "text.png")
    expect(edit.locator(".canvas-note")).to_contain_text("This is no PNG")
    assert source(edit) == after


def test_lines_are_followed_and_shown(edit):
    stroke(edit, (0.2, 0.2), (0.8, 0.8))
    edit.click("#follow button")
    edit.locator("#annotator label", has_text="Scribble").click()
    expect(edit.locator("#result .map")).to_be_visible(timeout=30_000)
    before = source(edit)
    move_slider(edit, "#control-strength", 2)
    expect_change(edit, before)


def test_the_result_goes_on_as_the_next_input(edit):
    stroke(edit, (0.2, 0.2), (0.8, 0.8))
    edit.wait_for_timeout(500)
    before = source(edit)
    edit.click("#onward")
    expect_change(edit, before)


def test_pictures_go_from_generate_and_history_to_the_canvas(page):
    page.click("#to-edit")
    page.wait_for_selector(RESULT)
    before = source(page)
    page.get_by_role("tab", name="Generate").click()
    page.fill("#prompt textarea", "a blue hat")
    kept = page.locator("#history .strip img").first
    expect(kept).to_have_attribute("alt", re.compile("a blue hat"), timeout=30_000)
    kept.click()
    page.click("#history .one [data-do=edit]")
    expect_change(page, before)
    # The picture itself, not a thumbnail of it.
    side = page.evaluate("() => document.querySelector('#history .strip img').naturalWidth")
    assert side == page.evaluate("() => document.querySelector('#stage img').naturalWidth") > 160


def test_the_strip_survives_a_reload_and_restores_what_was_set(page):
    page.fill("#prompt textarea", "a blue hat")
    one = page.locator("#history .strip button", has=page.get_by_alt_text(re.compile("^a blue hat, 3d, seed 0")))
    expect(one).to_have_count(1, timeout=30_000)
    page.reload()
    page.fill("#prompt textarea", "a red bus")
    page.locator("#style label", has_text="flat").click()
    one.click()
    page.click("#history .one [data-do=restore]")
    expect(page.locator("#prompt textarea")).to_have_value("a blue hat")
    expect(page.locator("#style label.selected")).to_have_text("3d")
    expect(page.locator("#keep input")).not_to_be_checked()
    strip = page.locator("#history .strip button")
    page.wait_for_timeout(1500)
    count = strip.count()
    page.click("#history [data-do=clear]")
    expect(strip).to_have_count(0)
    page.locator("#said button", has_text="Undo").click()
    expect(strip).to_have_count(count)


def test_a_link_reopens_the_studio_with_its_drawing(edit, browser, studio):
    page = edit
    page.fill("#prompt textarea", "a green boat")
    stroke(page, (0.2, 0.2), (0.8, 0.8))
    move_slider(page, "#strength", 0.3)
    page.wait_for_timeout(3000)
    kept = page.locator("#history .strip button", has=page.get_by_alt_text(re.compile("^a green boat")))
    kept.first.click()
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
    page.click("#history .one [data-do=link]")
    link = page.locator("#history .link input")
    expect(link).to_be_focused()
    # Nothing may be claimed of a clipboard that can't be written to.
    expect(page.locator("#history .link p")).to_have_text("Copy this link.")
    assert page.evaluate("() => getSelection().toString() || document.activeElement.selectionEnd") not in ("", 0)
    other = browser.new_page()
    other.goto(link.input_value())
    expect(other.locator("#strength input[type=number]")).to_have_value("0.3")
    expect(other.locator("#prompt textarea")).to_have_value("a green boat")
    other.wait_for_selector(RESULT)
    dark = "() => document.querySelector('#canvas .picture').getContext('2d').getImageData(256, 256, 1, 1).data[0]"
    other.wait_for_function(f"({dark})() < 60")
    assert "s=" not in other.evaluate("location.href")
    other.close()


def test_ladder_and_grid_fill(page):
    page.get_by_role("tab", name="Compare").click()
    page.click("#climb")
    expect(page.locator("#ladder img")).to_have_count(5, timeout=60_000)
    expect(page.locator("#ladder")).to_contain_text("50 evaluations")
    page.click("#fill")
    expect(page.locator("#grid img")).to_have_attribute("alt", "grid of 12 pictures", timeout=60_000)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser, studio):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(studio)
    page.wait_for_selector("#stage img")
    for tab in ("Edit", "Translate", "Compare"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), tab
    page.close()
