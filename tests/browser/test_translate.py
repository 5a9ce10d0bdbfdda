"""The Translate tab as a person uses it, beside the Edit tab with a canvas of its own."""

import json
import zipfile

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.test_edit import SHAPE, drop, expect_change, move_slider, source, stroke

RESULT = "#translate-result .pictures > button:first-child img"
CANVAS = "#translate-canvas"


@pytest.fixture
def translate(page):
    """A page with the Translate tab open and an empty canvas."""
    page.get_by_role("tab", name="Translate").click()
    expect(page.locator("#translate-info")).to_have_text("Draw something, or open a picture.")
    return page


def test_the_picture_follows_strokes_strength_and_direction_and_comes_back(translate, tmp_path):
    page = translate
    expect(page.locator("#steps")).to_be_hidden()
    expect(page.locator(f"{CANVAS} [data-tool=mask]")).to_be_hidden()
    stroke(page, (0.2, 0.2), (0.8, 0.3), (0.5, 0.8), canvas=CANVAS)
    drawn = expect_change(page, "", RESULT)
    expect(page.locator("#translate-result .map")).to_be_visible()
    page.locator("#translator label", has_text="Both ways").click()
    expect(page.locator("#way-hint")).to_contain_text("“a2b”")
    expect(page.locator("#translate-lines")).to_be_hidden()
    there = expect_change(page, drawn, RESULT)
    page.locator("#direction label", has_text="Way b2a").click()
    expect(page.locator("#way-hint")).to_contain_text("“b2a”")
    back = expect_change(page, there, RESULT)
    move_slider(page, "#translate-strength", 0.5)
    expect_change(page, back, RESULT)
    move_slider(page, "#translate-count", 3)
    page.locator("#translate-result .variations button").nth(1).click()
    expect(page.locator("dialog .about")).to_contain_text("seed 2")
    page.click("dialog [data-do=restore]")
    expect(page.locator("#translate-info")).to_contain_text("seed 2")
    expect(page.locator("#translate-result .variations")).to_have_count(0)
    final = source(page, RESULT)
    move_slider(page, "#translate-compare", 1)
    before = "getComputedStyle(document.querySelector('#translate-result .before')).clipPath"
    assert page.evaluate(before).startswith("inset(0px 0% ")
    with page.expect_download() as download:
        page.click("#save-translate")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with Image.open(saved) as picture:
        values = json.loads(picture.text["yoso"])
    assert (values["kind"], values["translator"], values["direction"], values["seed"]) == (
        "translate",
        "both",
        "b2a",
        2,
    )
    move_slider(page, "#translate-strength", 0.9)
    page.locator("#direction label", has_text="Way a2b").click()
    drop(page, "#header", saved)
    expect(page.locator("#translate-strength input[type=number]")).to_have_value("0.5")
    expect(page.locator("#direction label.selected")).to_have_text("Way b2a")
    expect(page.locator("#way-hint")).to_contain_text("“b2a”")
    assert expect_change(page, "", RESULT) and final


def test_each_tab_has_a_canvas_of_its_own(translate):
    page = translate
    stroke(page, (0.2, 0.2), (0.8, 0.8), canvas=CANVAS)
    drawn = expect_change(page, "", RESULT)
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector("#result .pictures img")
    white = source(page)
    stroke(page, (0.2, 0.8), (0.8, 0.2))
    edited = expect_change(page, white)
    page.keyboard.press("Control+z")
    assert expect_change(page, edited) == white
    page.get_by_role("tab", name="Translate").click()
    assert expect_change(page, "", RESULT) == drawn
    page.click("#translate-onward")
    expect_change(page, drawn, RESULT)
    page.get_by_role("tab", name="Edit").click()
    assert expect_change(page, "") == white


def test_what_is_opened_is_a_picture_whose_edges_are_found(translate, tmp_path):
    picture = Image.new("RGB", (90, 60), "white")
    picture.paste("red", (30, 20, 60, 40))
    picture.save(tmp_path / "wide.png")
    translate.set_input_files(f"{CANVAS} input[type=file]", tmp_path / "wide.png")
    expect(translate.locator(f"{CANVAS} .canvas-note")).to_have_text("")  # it keeps its shape
    expect(translate.locator("#translate-annotator label.selected")).to_have_text("Photo or picture")
    expect_change(translate, "", RESULT)
    assert abs(translate.evaluate(SHAPE, RESULT) - 1.5) < 0.1
    translate.click(f"{CANVAS} [data-do=clear]")
    expect(translate.locator("#translate-result .empty")).to_be_visible()


def test_many_files_become_one_zip(translate, tmp_path):
    for name in ("a", "b"):
        Image.radial_gradient("L").resize((40, 40)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no picture")
    translate.click("#translate-many button")
    files = [tmp_path / f"{name}.png" for name in ("a", "bad", "b")]
    dropped = tmp_path / "dropped.png"
    dropped.write_bytes(files[0].read_bytes())
    drop(translate, "#translate-files button", dropped)
    expect(translate.get_by_role("cell", name="dropped.png")).to_be_visible()
    drop(translate, "#translate-files button", dropped)
    translate.set_input_files("#translate-files input[type=file]", files)
    expect(translate.get_by_role("cell", name="bad.png")).to_be_visible()
    expect(translate.locator(".toast-body")).to_have_count(0)  # nobody asked for the settings in what was dropped
    translate.get_by_role("button", name="Translate all").click()
    expect(translate.locator("#translate-told")).to_contain_text("3 of 4 translated.")
    expect(translate.locator("#translate-told")).to_contain_text("bad.png: This is no PNG")
    expect(translate.locator("#translated img")).to_have_count(3)
    with translate.expect_download() as download:
        translate.get_by_role("button", name="Download zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["dropped.png", "a.png", "b.png"]
