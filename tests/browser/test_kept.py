"""Nothing is lost and nothing lies: what a person has set, over reloads, tabs, failures and undo."""

import base64
import io
import re

from PIL import Image
from playwright.sync_api import expect

from tests.browser.test_edit import DROP, RESULT, difference, drop, expect_change, move_slider, source, stroke

PROMPT = "#prompt textarea"
CORNER = "() => document.querySelector('#canvas .ink').getContext('2d').getImageData(256, 256, 1, 1).data[3]"
MASKED = "() => document.querySelector('#canvas .mask').getContext('2d').getImageData(50, 256, 1, 1).data[3]"


def test_everything_is_as_it_was_after_a_reload_and_in_a_second_tab(page, studio):
    page.fill(PROMPT, "a green boat")
    page.locator("#style label", has_text="flat").click()
    page.locator("#steps label", has_text="2").click()
    page.click('.lora[data-id="waves"] .toggle')
    page.fill("#seed input", "5")
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector(RESULT)
    move_slider(page, "#strength", 0.2)
    stroke(page, (0.3, 0.5), (0.8, 0.5))
    page.click("[data-tool=mask]")
    stroke(page, (0.05, 0.5), (0.15, 0.5))
    page.wait_for_timeout(2500)
    before = source(page)
    page.reload()
    second = page.context.new_page()
    second.goto(studio)
    for each in (page, second):
        expect(each.locator(PROMPT)).to_have_value("a green boat")
        expect(each.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true")
        expect(each.locator("#strength input[type=number]")).to_have_value("0.2")
        expect(each.locator("#seed input")).to_have_value("5")
        expect(each.locator("#style label.selected")).to_have_text("flat")
        expect(each.locator("#steps label.selected")).to_have_text("2")
        expect(each.locator('.lora[data-id="waves"]')).to_have_class(re.compile(r"\bon\b"))
        each.wait_for_selector(RESULT)
        each.wait_for_function(f"({CORNER})() && ({MASKED})()")
        each.wait_for_timeout(2000)
        assert difference(source(each), before) < 1  # what is painted softly comes back by a level or so
    second.fill(PROMPT, "a yellow cup")  # what the first tab has is its own
    page.reload()
    expect(page.locator(PROMPT)).to_have_value("a green boat")
    page.wait_for_function(f"({CORNER})() && ({MASKED})()")
    page.wait_for_timeout(1000)

    page.click("#history [data-do=afresh]")
    expect(page.locator(PROMPT)).to_have_value("a red heart")
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")
    page.locator("#said button", has_text="Undo").click()
    expect(page.locator(PROMPT)).to_have_value("a green boat")
    page.wait_for_function(f"({CORNER})() && ({MASKED})()")


def test_pictures_of_two_tabs_are_all_kept(page, studio):
    second = page.context.new_page()
    second.goto(studio)
    second.wait_for_selector("#stage img")
    for each, words in ((page, "one"), (second, "two")):
        each.fill(PROMPT, words)
        expect(each.get_by_alt_text(re.compile(f"^{words}, 3d")).nth(1)).to_be_visible()
    for each in (page, second):
        for words in ("one", "two"):
            expect(each.locator("#history .strip").get_by_alt_text(re.compile(f"^{words}, 3d"))).to_have_count(1)


def test_a_model_that_fails_leaves_every_control_as_it_was(page):
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector(RESULT)
    page.click("#follow button")
    page.locator("#annotator label", has_text="Edges").click()
    expect(page.locator("#result .map")).to_be_visible()
    page.locator("#style label", has_text="noto").click()
    move_slider(page, "#strength", 0.3)
    before = expect_change(page, "")
    page.click("#model input")
    page.get_by_role("option", name="Broken model").click()
    expect(page.get_by_text("Broken model is not at /nowhere")).to_have_count(1)
    expect(page.locator("#model input")).to_have_value("Tiny")
    expect(page.locator("#annotator label.selected")).to_contain_text("Edges")
    expect(page.locator("#style label.selected")).to_have_text("noto")
    page.locator(".toast-close").first.click()
    expect(page.locator(RESULT)).to_have_attribute("src", before)
    # Each control works on.
    page.locator("#annotator label", has_text="Scribble").click()
    page.locator("#style label", has_text="flat").click()
    move_slider(page, "#strength", 0.9)
    expect_change(page, before)
    page.get_by_role("tab", name="Translate").click()
    stroke(page, (0.2, 0.2), (0.8, 0.8), canvas="#translate-canvas")
    page.wait_for_selector("#translate-result img")
    page.locator("#translator label", has_text="Both ways").click()
    page.locator("#direction label", has_text="Way b2a").click()
    expect(page.locator("#way-hint")).to_contain_text("“b2a”")
    page.get_by_role("tab", name="Generate").click()
    page.fill(PROMPT, "a hat")
    expect(page.locator("#stage img")).to_have_attribute("alt", re.compile("^a hat, flat"))
    expect(page.locator(".toast-body")).to_have_count(0)


def test_a_photograph_without_settings_is_offered_to_the_canvases(page, tmp_path):
    Image.radial_gradient("L").convert("RGB").resize((120, 60)).save(tmp_path / "photo.png")
    drop(page, "#header", tmp_path / "photo.png")
    page.locator("#said button", has_text="Edit it").click()
    expect(page.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true")
    page.wait_for_selector(RESULT)
    page.wait_for_function("() => document.querySelector('#canvas .picture').width > 700")  # in its own shape
    expect(page.locator("#canvas .invite")).to_be_hidden()
    data = base64.b64encode(b"no picture").decode()
    page.locator("#header").evaluate(DROP.replace("image/png", "text/plain"), ["notes.txt", data])
    expect(page.locator("#said")).to_contain_text("That is no picture")


def test_how_a_picture_is_made_to_fit_acts_at_once(page, tmp_path):
    buffer = io.BytesIO()
    wide = Image.new("RGB", (120, 60), "#00ff00")
    wide.paste("#ff0000", (30, 0, 90, 60))
    wide.save(buffer, "PNG")
    (tmp_path / "wide.png").write_bytes(buffer.getvalue())
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector(RESULT)
    page.set_input_files("#canvas input[type=file]", tmp_path / "wide.png")
    page.wait_for_function("() => document.querySelector('#canvas .picture').width > 700")
    page.click("#mask-more button")
    page.locator("#fit label", has_text="crop").click()
    page.wait_for_function("() => document.querySelector('#canvas .picture').width === 512")
    left = "() => document.querySelector('#canvas .picture').getContext('2d').getImageData(9, 9, 1, 1).data[0]"
    assert page.evaluate(left) == 255
    page.locator("#fit label", has_text="fit").click()
    page.wait_for_function(f"({left})() === 0")
