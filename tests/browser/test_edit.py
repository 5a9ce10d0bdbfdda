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

# Until nothing is in the making and nothing moves, and the page has stayed the same for more frames than its own short
# timers take. A machine that is busy has longer ones.
SETTLED = """async () => {
    let still = 0;
    const ends = performance.now() + 30000, watch = new MutationObserver(() => { still = 0; });
    const moves = each => each.playState === 'running' && each.effect.getComputedTiming().endTime !== Infinity;
    watch.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
    for (; still < 15; still++) {
        if (performance.now() > ends) throw new Error('the page does not come to rest');
        await new Promise(requestAnimationFrame);
        if (document.querySelector('.pending') || document.getAnimations().some(moves)) still = -1;
    }
    watch.disconnect();
}"""
# Whether the newest picture that is kept is the one that stands there.
KEPT = "selector => document.querySelector('#history .strip img')?.src === document.querySelector(selector).src"
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
    """Wait for another picture and until no other follows; returns it."""
    expect(page.locator(selector).first).not_to_have_attribute("src", before, timeout=30_000)
    page.bring_to_front()  # a page behind another gets a frame a second, and this counts frames
    page.evaluate(SETTLED)
    return source(page, selector)


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


def test_the_picture_follows_strokes_slider_lora_and_saved_png(edit, tmp_path, tiny_lora):
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
    # A file that is opened is switched on; what was used last comes first; what was opened can be removed.
    page.click("#add-lora button")
    page.set_input_files("#add-lora input[type=file]", tiny_lora.path)
    opened = page.locator(".lora", has=page.locator(".gone:not([hidden])"))
    expect(opened).to_have_class(re.compile(r"\bon\b"))
    opened.locator(".toggle").click()
    opened.locator(".toggle").click()
    expect(page.locator(".lora:has(~ [data-id=waves]) .gone:not([hidden])")).to_have_count(1)
    page.click('.lora[data-id="waves"] .toggle')
    expect(page.locator("[data-id=waves] ~ .lora .gone:not([hidden])")).to_have_count(1)
    opened.locator(".gone").click()
    expect(opened).to_have_count(0)


def test_undo_redo_clear_and_masks(edit):
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

    # Only what is masked is repainted.
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


PEN = """([from, to, y]) => {
    const mask = document.querySelector('#canvas .mask'), {left, top, width, height} = mask.getBoundingClientRect();
    const pen = (kind, part) => mask.dispatchEvent(new PointerEvent(kind, {
        pointerId: 7, pointerType: 'pen', bubbles: true, pressure: part,
        clientX: left + (from + (to - from) * part) * width, clientY: top + y * height}));
    pen('pointerdown', .05);
    for (let part = .1; part <= 1; part += .1) pen('pointermove', part);
    pen('pointerup', 1);
}"""
INK = "document.querySelector('#canvas .ink').getContext('2d')"
ALPHA = f"([x, y]) => {INK}.getImageData(512 * x, 512 * y, 1, 1).data[3]"
THICK = (
    f"x => {INK}.getImageData(512 * x, 0, 1, 512).data.filter((value, index) => index % 4 === 3 && value > 128).length"
)
PLACE = "() => ['scrollLeft', 'scrollTop'].map(name => document.querySelector('#canvas .canvas-view')[name])"


def test_the_tools_of_the_canvas(edit, tmp_path):
    """A pen's pressure, a soft brush, the eraser, the eyedropper, keys, zoom and layers."""
    page, brush = edit, edit.locator("#canvas .brush input")
    assert page.locator("#save-edit").bounding_box()["x"] + 124 <= sum(
        page.locator("#result").bounding_box()[side] for side in ("x", "width")
    )
    brush.fill("60")
    page.evaluate(PEN, [0.1, 0.9, 0.3])
    thin, thick = page.evaluate(THICK, 0.2), page.evaluate(THICK, 0.85)
    assert 0 < thin < 30 < thick <= 61
    expect(page.locator("#canvas .layers")).to_be_hidden()  # there is no picture below
    page.click("#canvas [data-colour='#3b82f6']")
    page.click("#canvas .soft input")
    stroke(page, (0.2, 0.7), (0.8, 0.7))
    rim, middle = page.evaluate(ALPHA, [0.5, 0.7 + 22 / 512]), page.evaluate(ALPHA, [0.5, 0.7])
    assert 0 < rim < 0.6 * middle
    page.click("#canvas .soft input")
    page.keyboard.press("e")
    stroke(page, (0.5, 0.6), (0.5, 0.8))
    assert page.evaluate(ALPHA, [0.5, 0.7]) == 0 < page.evaluate(ALPHA, [0.3, 0.7])
    page.keyboard.press("i")
    stroke(page, (0.85, 0.3))
    colour = page.locator("#canvas input[type=color]")
    expect(colour).to_have_value("#1c1917")
    expect(page.locator("#canvas [data-tool=paint]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("x")
    expect(colour).to_have_value("#3b82f6")
    page.keyboard.press("[")
    expect(brush).to_have_value("54")
    # A ring as wide as the brush goes with the pointer, and not with the eyedropper.
    ring, box = page.locator("#canvas .ring"), page.locator("#canvas .mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    place = ring.bounding_box()
    assert abs(place["width"] - 54 / 512 * box["width"]) < 3 and abs(place["width"] - place["height"]) < 1
    assert abs(place["x"] + place["width"] / 2 - box["x"] - box["width"] / 2) < 2
    page.keyboard.press("]")
    assert ring.bounding_box()["width"] > place["width"] + 2
    page.keyboard.press("i")
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 4)
    expect(ring).to_be_hidden()
    page.keyboard.press("b")

    # A picture under the drawing, which can be left out: what is traced goes on alone.
    Image.new("RGB", (60, 60), "#ff0000").save(tmp_path / "red.png")
    page.set_input_files("#canvas input[type=file]", tmp_path / "red.png")
    expect(page.locator("#canvas .invite")).to_be_hidden()
    page.wait_for_function(f"!({ALPHA})([.3, .7])")
    stroke(page, (0.3, 0.7), (0.7, 0.7))
    both = expect_change(page, "")
    page.click("#canvas [data-layer=picture]")
    expect_change(page, both)
    page.keyboard.press("i")
    stroke(page, (0.1, 0.1))
    expect(colour).to_have_value("#ffffff")  # what is seen there
    page.click("#canvas [data-layer=picture]")

    # Closer: what is under the pointer stays; Space drags.
    box = page.locator("#canvas .canvas-view").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    page.keyboard.down("Control")
    for _ in range(4):
        page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    expect(page.locator("#canvas [data-do=zoom]")).to_contain_text("Zoom 2")
    left, top = page.evaluate(PLACE)
    assert min(left, top) > 0.8 * box["width"]
    assert ring.bounding_box()["width"] > 2 * place["width"]
    page.keyboard.down(" ")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9 + 30, box["y"] + box["height"] * 0.9 + 30)
    page.mouse.up()
    page.keyboard.up(" ")
    assert page.evaluate(PLACE)[0] < left
    assert page.locator("#canvas .canvas-view").bounding_box() == box  # the page stays as it is


def test_a_picture_that_is_opened_keeps_its_shape_and_what_is_done_to_it_is_told(edit, tmp_path):
    wide = Image.new("RGB", (200, 100), "#00ff00")
    wide.paste("#ff0000", (50, 0, 150, 100))
    wide.save(tmp_path / "wide.png")
    before = source(edit)
    edit.set_input_files("#canvas input[type=file]", tmp_path / "wide.png")
    expect_change(edit, before)
    assert edit.evaluate("() => document.querySelector('#canvas .picture').width") > 700
    assert abs(edit.evaluate(SHAPE, RESULT) - 2) < 0.2  # sides are multiples of 8
    expect(edit.locator(".canvas-note")).to_have_text("")
    # How it is made to fit acts at once.
    edit.click("#mask-more button")
    edit.locator("#fit label", has_text="crop").click()
    expect(edit.locator(".canvas-note")).to_contain_text("200 x 100: cropped to its middle")
    edit.wait_for_function(f"({SHAPE})({json.dumps(RESULT)}) === 1")
    left = "() => document.querySelector('#canvas .picture').getContext('2d').getImageData(9, 9, 1, 1).data[0]"
    assert edit.evaluate(left) > 200
    edit.locator("#fit label", has_text="fit").click()
    edit.wait_for_function(f"({left})() < 50")
    after = expect_change(edit, "")
    move_slider(edit, "#compare", 1)
    uncovered = "getComputedStyle(document.querySelector('#result .before')).clipPath.startsWith('inset(0px 0% ')"
    edit.wait_for_function(uncovered)
    (tmp_path / "text.png").write_text("no picture")
    edit.set_input_files("#canvas input[type=file]", tmp_path / "text.png")
    expect(edit.locator(".canvas-note")).to_contain_text("This is no PNG")
    assert source(edit) == after


def test_lines_are_followed_and_the_result_goes_on(edit):
    stroke(edit, (0.2, 0.2), (0.8, 0.8))
    edit.click("#follow button")
    edit.locator("#annotator label", has_text="Scribble").click()
    lines = edit.locator("#result .map img")
    expect(lines).to_be_visible()
    edit.click("#result .map")
    expect(lines).to_be_hidden()
    edit.click("#result .map")
    expect(lines).to_be_visible()
    before = source(edit)
    move_slider(edit, "#control-strength", 2)
    followed = expect_change(edit, before)
    # The result goes on as the next input.
    edit.click("#onward")
    expect_change(edit, followed)


def test_pictures_go_to_the_canvas_and_the_strip_survives_a_reload_and_restores(page):
    page.click("#to-edit")
    page.wait_for_selector(RESULT)
    before = source(page)
    page.get_by_role("tab", name="Generate").click()
    page.locator("#style label", has_text="3d").click()
    page.fill("#prompt textarea", "a blue hat")
    kept = page.locator("#history .strip img").first
    expect(kept).to_have_attribute("alt", re.compile("a blue hat"), timeout=30_000)
    kept.click()
    page.click("#history .one [data-do=edit]")
    expect_change(page, before)
    # The picture itself, not a thumbnail of it.
    side = page.evaluate("() => document.querySelector('#history .strip img').naturalWidth")
    assert side == page.evaluate("() => document.querySelector('#stage img').naturalWidth") > 160
    # A click looks at the picture of this tab, whatever the others show of the same seed.
    shown = source(page)
    page.locator(RESULT).click()
    expect(page.locator("dialog img")).to_have_attribute("src", shown)
    page.keyboard.press("Escape")

    page.get_by_role("tab", name="Generate").click()
    one = page.locator("#history .strip button", has=page.get_by_alt_text(re.compile("^a blue hat, 3d, seed 0")))
    expect(one).to_have_count(2)  # of the two tabs
    page.reload()
    page.fill("#prompt textarea", "a red bus")
    page.locator("#style label", has_text="flat").click()
    one.last.click()
    page.evaluate("() => { document.querySelector('#history .heard').textContent = ''; }")
    page.click("#history .one [data-do=restore]")
    expect(page.locator("#prompt textarea")).to_have_value("a blue hat")
    expect(page.locator("#style label.selected")).to_have_text("3d")
    expect(page.locator("#keep input")).not_to_be_checked()
    strip = page.locator("#history .strip button")
    expect(page.locator("#history .heard")).to_contain_text("Picture drawn: a blue hat")  # nothing more will be kept
    count = strip.count()
    page.click("#history [data-do=clear]")
    expect(strip).to_have_count(0)
    page.locator("#said button", has_text="Undo").click()
    expect(strip).to_have_count(count)


def test_a_link_reopens_the_studio_with_its_drawing(edit, browser, studio):
    page = edit
    page.fill("#prompt textarea", "a green boat")
    page.locator("#style label", has_text="noto").click()
    stroke(page, (0.2, 0.2), (0.8, 0.8))
    move_slider(page, "#strength", 0.3)
    expect_change(page, "")
    page.wait_for_function(KEPT, arg=RESULT)
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
    expect(other.locator("#style label.selected")).to_have_text("noto")
    other.wait_for_selector(RESULT)
    dark = "() => document.querySelector('#canvas .picture').getContext('2d').getImageData(256, 256, 1, 1).data[0]"
    other.wait_for_function(f"({dark})() < 60")
    assert "s=" not in other.evaluate("location.href")
    other.close()


def test_ladder_and_grid_fill_and_their_cells_open(page):
    page.get_by_role("tab", name="Compare").click()
    page.locator("#source label", has_text="Translate").click()
    page.click("#climb")
    expect(page.locator("#ladder-told [role=alert]")).to_contain_text("no picture on the Translate tab yet")
    page.locator("#source label", has_text="Generate").click()
    page.click("#climb")
    expect(page.locator("#ladder img")).to_have_count(5, timeout=60_000)
    expect(page.locator("#ladder")).to_contain_text("50 evaluations")
    expect(page.locator("#ladder-told [role=alert]")).to_have_count(0)
    page.click("#fill")
    expect(page.locator("#grid img")).to_have_count(12, timeout=60_000)
    expect(page.get_by_role("columnheader", name="palm tree")).to_be_visible()
    cell = page.locator("#grid button").last
    words = cell.locator("img").get_attribute("alt")
    cell.click()
    prompt, style = words.split(", ")
    expect(page.locator("dialog .about")).to_have_text(f"{prompt}, {style}, seed 0")
    page.click("dialog [data-do=restore]")
    expect(page.locator("#prompt textarea")).to_have_value(prompt)
    expect(page.locator("#style label.selected")).to_have_text(style)
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")
