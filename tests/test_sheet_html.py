"""Pictures beside one another, each with all that a click has to know of it."""

import html
import json
import re

from PIL import Image

from app.sheet_html import grid_html, ladder_html
from yoso_core.drawing import Result
from yoso_core.files.metadata import to_json
from yoso_core.requests import EditRequest
from yoso_core.sheets import Axis, grid

SEEDS, PROMPTS = Axis("seed", (0, 1)), Axis("prompt", ("a <cat>", "a dog"))


def drawn(count):
    """A grid of edits of one picture, and its first results."""
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    sheet = grid(EditRequest("a cat", picture=picture, strength=0.5), SEEDS, PROMPTS)
    results = [Result(each, [picture], [each.seed], 1, {"total": 0.01}) for each in sheet.requests[:count]]
    return sheet, results


def attributes(markup, name):
    return [json.loads(html.unescape(each)) for each in re.findall(f'{name}="([^"]*)"', markup)]


def test_every_cell_brings_its_settings_and_a_picture_that_was_given_comes_once():
    sheet, results = drawn(4)
    for markup in (grid_html(sheet, results), ladder_html(sheet, results)):
        (shared,) = attributes(markup, "data-entry")
        changes = attributes(markup, "data-change")
        assert all("picture" not in change for change in changes)
        entries = [to_json(result.request) for result in results[: len(changes)]]
        assert [{**shared, **change} for change in changes] == entries


def test_places_wait_for_what_is_not_drawn_yet():
    for count in range(5):
        markup = grid_html(*drawn(count))
        assert (markup.count("<img"), markup.count("waiting")) == (count, 4 - count)
    assert "<cat>" not in markup and "prompt down" in markup
