"""Chips with pictures of the styles that a model knows."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from app.styles import StylePictures, chips_of, names_style, style_of, with_style
from yoso_core.checkpoints import Source
from yoso_core.engine import Engine
from yoso_core.prompts import read_request
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest
from yoso_core.words import FILE

EITHER = """{flat|a"] b}"""


@pytest.fixture
def styled(tiny_spec, tmp_path):
    """Makes an engine whose model says these words of itself."""

    def make(**words):
        folder = shutil.copytree(tiny_spec.source.place, tmp_path / "model")
        (folder / FILE).write_text(json.dumps(words))
        return Engine({DEFAULT_MODEL: replace(tiny_spec, source=Source(str(folder)))}, device="cpu")

    return make


def test_each_chip_has_a_picture_and_a_line_and_they_are_drawn_once(styled, monkeypatch):
    engine = styled(styles={"flat": 'plain "areas" </style>', 'a"] b': "no"}, examples=["a", "b", "c"])
    asked, run = [], engine.run
    monkeypatch.setattr(engine, "run", lambda request: asked.append(request.prompt) or run(request))
    pictures = StylePictures(engine)
    sheet = pictures.sheet(DEFAULT_MODEL)
    assert re.findall(r'data-testid="(.*?)-radio-label"', sheet) == ["any", "flat", "none"]
    assert sheet.count("url(data:image/jpeg;base64,") == 3 and sheet.count("</style>") == 1
    assert r'--about: "plain \"areas\" \3c /style>"' in sheet
    assert pictures.sheet(DEFAULT_MODEL) == sheet and asked == [f"b, {EITHER}", "b, flat", "b"]


def test_a_model_without_styles_has_none(styled):
    assert StylePictures(styled(examples=["a"])).sheet(DEFAULT_MODEL) == ""


def test_style_is_the_last_words_of_the_prompt():
    styles = ("3d", "flat")
    assert with_style(" a cat ", "3d", styles) == "a cat, 3d"
    assert with_style("a cat", "none", styles) == "a cat"
    assert with_style("a cat", "any", styles) == "a cat, {3d|flat}"
    assert with_style("", "flat", styles) == "flat"
    assert with_style("a Flat cat", "3d", styles) == "a Flat cat"


@pytest.mark.parametrize(
    "prompt", ["", "a cat", "a Flat cat", "a cat, mint", "a cat, 3d", "a flat cat, 3d", "flat", "a flat cat, {3d|flat}"]
)
@pytest.mark.parametrize("style", ["any", "none", "3d", "flat"])
def test_what_was_set_is_found_again_in_the_prompt(prompt, style):
    styles = ("3d", "flat")
    drawn = with_style(prompt, style, styles)
    words, found = style_of(drawn, styles)
    assert with_style(words, found or style, styles) == drawn
    if not names_style(prompt, styles):
        assert (words, found) == (prompt, style)


def test_each_seed_has_one_of_all_styles_whatever_they_are_called():
    styles = ("3d", "a|b", "{c}")
    requests = [GenerateRequest(with_style("a cat", "any", styles), seed=seed) for seed in range(50)]
    drawn = {read_request(request).prompt.words for request in requests}
    assert drawn == {"a cat, 3d", "a cat, a|b", "a cat, {c}"}


def test_chips_begin_with_any_where_there_are_several():
    assert chips_of(("3d", "flat")) == ["any", "3d", "flat", "none"]
    assert chips_of(("3d",)) == ["3d", "none"]
    assert chips_of(()) == ["none"]


def test_a_style_of_several_words_is_found_again():
    styles = ("oil, thick", "{c}")
    for style in styles:
        assert style_of(with_style("a cat", style, styles), styles) == ("a cat", style)
    assert read_request(GenerateRequest(with_style("a cat", "{c}", styles))).prompt.words == "a cat, {c}"
