"""The Generate tab as a person uses it. A picture's alternative text says which prompt and seed it shows."""

import json
import re

from PIL import Image
from playwright.sync_api import expect

from app.styles import with_style
from tests.browser.test_edit import SETTLED
from yoso_core.models import DEFAULT_MODEL, MODELS
from yoso_core.prompts import choose

STYLES = MODELS[DEFAULT_MODEL].styles
PROMPT = "#prompt textarea"
PICTURE = "#stage img"
INFO = "#info"


def expect_picture(page, words):
    """Wait until the picture on the page is of `words`, a prompt and perhaps ", seed N"."""
    expect(page.locator(PICTURE).first).to_have_attribute("alt", re.compile(f"^{re.escape(words)}"), timeout=30_000)


def of_seed(prompt, seed):
    """What tells a picture whose style the seed chose."""
    return f"{choose(with_style(prompt, 'any', STYLES), int(seed))}, seed {seed}"


def test_the_picture_follows_the_typing_and_the_last_input_wins(page):
    before = page.locator(PICTURE).get_attribute("src")
    page.keyboard.type("a blue boat", delay=20)  # the prompt has the focus, and its example is selected
    expect(page.locator(PROMPT)).to_have_value("a blue boat")
    expect_picture(page, of_seed("a blue boat", 0))
    assert page.locator(PICTURE).get_attribute("src") != before
    expect(page.locator(INFO)).to_contain_text(re.compile(r"1 network evaluation.*total \d+ ms.*seed 0"))

    for words in ("one", "two", "three", "four {{value}} ${1+1} <b>"):
        page.fill(PROMPT, words)
        page.locator("#style label", has_text="flat" if words == "two" else "3d").click()
    expect_picture(page, "four value $1+1 <b>, 3d, seed 0")
    page.evaluate(SETTLED)  # nothing older may come after
    expect_picture(page, "four value $1+1 <b>, 3d, seed 0")

    page.get_by_role("button", name="palm tree").click()
    expect(page.locator(PROMPT)).to_have_value("palm tree")
    expect_picture(page, "palm tree")

    page.click("#live input")
    page.fill(PROMPT, "a hat")
    expect(page.locator(INFO)).to_contain_text("Press Generate")
    expect_picture(page, "palm tree")
    page.press(PROMPT, "Enter")
    expect_picture(page, "a hat")
    expect(page.locator(INFO)).to_contain_text("total")


def test_steps_and_pictures_are_live_and_each_is_looked_at(page):
    choices = "{a hat|a boat}"
    page.fill(PROMPT, choices)
    page.locator("#steps label", has_text="4").click()
    expect(page.locator(INFO)).to_contain_text("4 network evaluations")
    page.fill("#count input[type=number]", "4")
    page.keyboard.press("Tab")
    expect(page.locator(PICTURE)).to_have_count(4)
    expect(page.locator(f"{INFO} .note")).to_have_count(1)  # the choices of four seeds are one paragraph
    page.locator("#stage button").nth(2).click()
    dialog = page.locator("dialog")
    expect(dialog.locator(".about")).to_have_text(of_seed(choices, 2))
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("img")).to_have_attribute("alt", of_seed(choices, 3))
    page.keyboard.press("f")
    expect(dialog.locator("[data-do=favourite]")).to_have_attribute("aria-pressed", "true")

    # Closer, from the middle; beside one another, at the same part; dragged.
    page.keyboard.press("+")
    page.keyboard.press("+")
    dialog.locator("[data-do=beside]").click()
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator("figure")).to_have_count(2)
    places = "() => [...document.querySelectorAll('dialog figure')].map(each => [each.scrollLeft, each.scrollTop])"
    middle = "() => { const {clientWidth, clientHeight} = document.querySelector('dialog figure');"
    x, y = page.evaluate(middle + " return [clientWidth / 2, clientHeight / 2]; }")
    page.wait_for_function(f"({places})().flat().every((at, index) => Math.abs(at - [{x}, {y}][index % 2]) < 9)")
    box = dialog.locator("figure").first.bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    page.mouse.move(box["x"] + x + 60, box["y"] + y + 30)
    page.mouse.up()
    page.wait_for_function(f"({places})().every(([left, top]) => left < {x} - 50 && top < {y} - 20)")

    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(PICTURE)).to_have_count(4)  # to look at one takes nothing away
    expect(page.locator("#count input[type=number]")).to_have_value("4")
    for seed in range(1, 4):
        expect(page.locator(f'#history .strip [title^="{of_seed(choices, seed)}"]')).to_have_count(1)
    expect(page.locator("#history .strip .favourite")).to_have_count(1)
    page.click("#history [data-do=favourites]")
    expect(page.locator("#history .strip button")).to_have_count(1)
    page.click("#history [data-do=favourites]")
    page.fill(PROMPT, "a crown")
    expect(page.locator('#history .strip [title^="a crown"]')).to_have_count(4)
    page.fill("#history input[type=search]", "crown")
    expect(page.locator("#history .strip button")).to_have_count(4)
    expect(page.locator("#history .one")).to_be_hidden()  # what is chosen is not among them


def test_seeds_are_kept_rolled_and_refused_in_words(page):
    seed = page.locator("#seed input")
    page.click("#generate")
    expect(seed).not_to_have_value("0")
    expect_picture(page, of_seed("a red heart", seed.input_value()))
    page.click("#keep input")
    kept = seed.input_value()
    page.fill(PROMPT, "a hat")
    page.press(PROMPT, "Enter")
    expect_picture(page, of_seed("a hat", kept))
    page.click("#dice")
    expect(seed).not_to_have_value(kept)
    expect_picture(page, of_seed("a hat", seed.input_value()))
    page.click("#keep input")

    page.click("#header h1")
    before = seed.input_value()
    page.keyboard.press("Control+Enter")  # from anywhere
    expect(seed).not_to_have_value(before)
    expect_picture(page, of_seed("a hat", seed.input_value()))
    # What was made before is in sight without scrolling.
    strip = page.locator("#history .strip button").first.bounding_box()
    assert strip["y"] + strip["height"] <= page.viewport_size["height"]

    shown = page.locator(PICTURE).get_attribute("alt")
    page.fill("#seed input", "4294967296")
    page.keyboard.press("Tab")
    expect(page.locator("#info [role=alert]")).to_contain_text("up to 4294967295, or -1 for a random one")
    expect_picture(page, shown)  # it stays
    page.fill("#seed input", "0")
    page.keyboard.press("Tab")
    expect(page.locator("#info [role=alert]")).to_have_count(0)
    expect_picture(page, of_seed("a hat", 0))
    page.fill("#seed input", "-1")
    page.keyboard.press("Tab")
    expect(page.locator(PICTURE)).not_to_have_attribute("alt", of_seed("a hat", 0))
    page.fill("#seed input", "5")
    page.keyboard.press("Tab")
    expect_picture(page, of_seed("a hat", 5))


def test_saved_png_restores_the_settings(page, tmp_path):
    page.locator("#style label", has_text="3d").click()
    page.fill(PROMPT, "a crown")
    expect(page.locator("#sampler")).to_be_hidden()  # one step has no other to follow
    page.locator("#steps label", has_text="2").click()
    page.locator("#sampler label", has_text="DPM++ 2M").click()
    expect(page.locator(INFO)).to_contain_text("2 network evaluations")
    expect_picture(page, "a crown")
    expect(page.locator(INFO)).to_contain_text("64 x 64 pixels")
    page.locator("#size label", has_text="96").click()
    page.locator("#shape label", has_text="portrait").click()
    expect(page.locator(INFO)).to_contain_text("80 x 112 pixels")
    page.click("#advanced button")
    page.locator("#enlarge label", has_text="2 x").click()
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with Image.open(saved) as picture:
        assert picture.size == (160, 224)
        assert json.loads(picture.text["yoso"])["prompt"] == "a crown, 3d"
        assert picture.text["parameters"].startswith("a crown, 3d\nSteps: 2, Sampler: DPM++ 2M")
    page.locator("#sampler label", has_text="LCM").click()
    page.locator("#shape label", has_text="square").click()
    page.fill(PROMPT, "a red heart")
    expect_picture(page, "a red heart")
    page.set_input_files("#advanced input[type=file]", saved)
    expect_picture(page, "a crown")
    expect(page.locator(INFO)).to_contain_text("2 network evaluations")
    expect(page.locator("#sampler label.selected")).to_have_text("DPM++ 2M")
    expect(page.locator(INFO)).to_contain_text("80 x 112 pixels")
    expect(page.locator("#own-shape").get_by_label("Height")).to_have_value("112")
