"""Chips with pictures of the styles that a model knows."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from app.styles import StylePictures
from yoso_core.checkpoints import Source
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.words import FILE


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
    pictures = StylePictures(engine, "any")
    sheet = pictures.sheet(DEFAULT_MODEL)
    assert re.findall(r'data-testid="(.*?)-radio-label"', sheet) == ["any", "flat"]
    assert sheet.count("url(data:image/jpeg;base64,") == 2 and sheet.count("</style>") == 1
    assert r'--about: "plain \"areas\" \3c /style>"' in sheet
    assert pictures.sheet(DEFAULT_MODEL) == sheet and asked == ["b", "b, flat"]


def test_a_model_without_styles_has_none(styled):
    assert StylePictures(styled(examples=["a"]), "any").sheet(DEFAULT_MODEL) == ""
