"""The Generate tab as a person uses it. A picture's alternative text says which prompt and seed it shows."""

import json
import re

from PIL import Image
from playwright.sync_api import expect

PROMPT = "#prompt textarea"
PICTURE = "#stage img"
INFO = "#info"


def expect_picture(page, words):
    """Wait until the picture on the page is of `words`, a prompt and perhaps ", seed N"."""
    expect(page.locator(PICTURE).first).to_have_attribute("alt", re.compile(f"^{re.escape(words)}"), timeout=30_000)


def test_the_picture_follows_the_typing(page):
    before = page.locator(PICTURE).get_attribute("src")
    page.keyboard.type("a blue boat", delay=20)  # the prompt has the focus, and its example is selected
    expect(page.locator(PROMPT)).to_have_value("a blue boat")
    expect_picture(page, "a blue boat, 3d, seed 0")
    assert page.locator(PICTURE).get_attribute("src") != before
    expect(page.locator(INFO)).to_contain_text(re.compile(r"1 network evaluation.*total \d+ ms.*seed 0"))


def test_the_last_input_wins(page):
    for words in ("one", "two", "three", "four {{value}} ${1+1} <b>"):
        page.fill(PROMPT, words)
        page.locator("#style label", has_text="flat" if words == "two" else "3d").click()
    expect_picture(page, "four {{value}} ${1+1} <b>, 3d, seed 0")
    page.wait_for_timeout(1000)  # nothing older may come after
    expect_picture(page, "four {{value}} ${1+1} <b>, 3d, seed 0")


def test_steps_and_pictures_are_live(page):
    page.locator("#steps label", has_text="4").click()
    expect(page.locator(INFO)).to_contain_text("4 network evaluations")
    page.fill("#count input[type=number]", "4")
    page.keyboard.press("Tab")
    expect(page.locator(PICTURE)).to_have_count(4)
    page.locator("#stage button").nth(2).click()
    dialog = page.locator("dialog")
    expect(dialog.locator(".about")).to_have_text("a red heart, 3d, seed 2")
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("img")).to_have_attribute("alt", "a red heart, 3d, seed 3")
    page.keyboard.press("f")
    expect(dialog.locator("[data-do=favourite]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(PICTURE)).to_have_count(4)  # to look at one takes nothing away
    expect(page.locator("#count input[type=number]")).to_have_value("4")
    for seed in range(1, 4):
        expect(page.locator(f'#history .strip [title^="a red heart, 3d, seed {seed}"]')).to_have_count(1)
    expect(page.locator("#history .strip .favourite")).to_have_count(1)


def test_seed_lock_and_dice(page):
    seed = page.locator("#seed input")
    page.click("#generate")
    expect(seed).not_to_have_value("0")
    expect_picture(page, f"a red heart, 3d, seed {seed.input_value()}")
    page.click("#keep input")
    kept = seed.input_value()
    page.fill(PROMPT, "a hat")
    page.press(PROMPT, "Enter")
    expect_picture(page, f"a hat, 3d, seed {kept}")
    page.click("#dice")
    expect(seed).not_to_have_value(kept)
    expect_picture(page, f"a hat, 3d, seed {seed.input_value()}")


def test_live_can_be_turned_off(page):
    page.click("#live input")
    page.fill(PROMPT, "a hat")
    expect(page.locator(INFO)).to_contain_text("Press Generate")
    expect_picture(page, "a red heart")
    page.press(PROMPT, "Enter")
    expect_picture(page, "a hat")
    expect(page.locator(INFO)).to_contain_text("total")


def test_examples_work_at_a_click(page):
    page.get_by_role("button", name="palm tree").click()
    expect(page.locator(PROMPT)).to_have_value("palm tree")
    expect_picture(page, "palm tree")


def test_saved_png_restores_the_settings(page, tmp_path):
    page.fill(PROMPT, "a crown")
    expect(page.locator("#sampler")).to_be_hidden()  # one step has no other to follow
    page.locator("#steps label", has_text="2").click()
    page.locator("#sampler label", has_text="DPM++ 2M").click()
    expect(page.locator(INFO)).to_contain_text("2 network evaluations")
    expect_picture(page, "a crown")
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with Image.open(saved) as picture:
        assert json.loads(picture.text["yoso"])["prompt"] == "a crown, 3d"
        assert picture.text["parameters"].startswith("a crown, 3d\nSteps: 2, Sampler: DPM++ 2M")
    page.locator("#sampler label", has_text="LCM").click()
    page.fill(PROMPT, "a red heart")
    expect_picture(page, "a red heart")
    page.click("#advanced button")
    page.set_input_files("#advanced input[type=file]", saved)
    expect_picture(page, "a crown")
    expect(page.locator(INFO)).to_contain_text("2 network evaluations")
    expect(page.locator("#sampler label.selected")).to_have_text("DPM++ 2M")


def test_bad_values_are_told_and_the_next_work(page):
    page.fill("#seed input", "4294967296")
    page.keyboard.press("Tab")
    expect(page.locator("#info [role=alert]")).to_contain_text("up to 4294967295, or -1 for a random one")
    expect_picture(page, "a red heart, 3d, seed 0")  # it stays
    page.fill("#seed input", "0")
    page.keyboard.press("Tab")
    expect(page.locator("#info [role=alert]")).to_have_count(0)
    page.fill("#seed input", "-1")
    page.keyboard.press("Tab")
    expect(page.locator(PICTURE)).not_to_have_attribute("alt", "a red heart, 3d, seed 0")
    page.fill("#seed input", "5")
    page.keyboard.press("Tab")
    expect_picture(page, "a red heart, 3d, seed 5")


def test_a_phone_shows_the_picture_under_the_prompt(browser, studio):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(studio)
    page.wait_for_selector(PICTURE)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    prompt, picture = page.locator(PROMPT).bounding_box(), page.locator(PICTURE).bounding_box()
    assert prompt["y"] < picture["y"] and picture["y"] + picture["height"] < 844
    for control in ("#generate", "#live", "#style", "#dice", "#save"):
        box = page.locator(control).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.close()
