"""Nothing is lost and nothing lies: what a person has set, where something fails or fits nowhere."""

import base64
import re

from PIL import Image
from playwright.sync_api import expect

from tests.browser.test_edit import DROP, RESULT, drop, expect_change, move_slider, stroke

PROMPT = "#prompt textarea"


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
