"""Links carry settings, and pictures where they are small."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from yoso_core.files.links import LINK_LIMIT, from_link, link_text
from yoso_core.requests import (
    PROMPT_LIMIT,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
)


def noise(side):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def drawing(side=256):
    """As people draw: a few strokes on white."""
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    pen.line((20, 30, 200, 90, 60, 220), fill="#e0312e", width=14)
    pen.ellipse((90, 90, 180, 190), outline="#1c1917", width=10)
    return picture


def test_a_link_carries_what_is_not_as_by_default():
    assert len(link_text(GenerateRequest("a red heart")).text) < 40
    request = GenerateRequest(
        "ein Herz ♥?&=+/\n",
        "blau",
        seed=2**32 - 1,
        steps=25,
        guidance=1.35,
        count=9,
        model="m",
        size=64,
        loras=(LoraUse("x", 0.5), LoraUse("y")),
        one_step=0.5,
        sampler="ddim",
    )
    link = link_text(request)
    assert link.text.isascii() and link.text.replace("-", "").replace("_", "").isalnum() and link.without == ()
    restored = from_link(link.text)
    assert restored.request == request and restored.notes == ()


def test_a_drawing_travels_with_its_mask_and_what_follows_it():
    picture, mask = drawing(), Image.new("L", (256, 256))
    mask.paste(255, (0, 0, 128, 256))
    request = EditRequest("a boat", picture=picture, mask=mask, strength=0.3, grow=0.2, seed=3)
    request = replace(request, control=ControlUse(picture=picture, annotator="scribble", strength=0.5))
    link = link_text(request)
    assert link.without == () and len(link.text) < 8000
    again = from_link(link.text).request
    assert np.array_equal(again.picture, picture) and np.array_equal(again.mask, mask)
    assert np.array_equal(again.control.picture, picture)
    gone = {"picture": picture, "mask": mask, "control": None}
    assert replace(again, **gone) == replace(request, **gone)
    assert (again.control.annotator, again.control.strength) == ("scribble", 0.5)
    request = TranslateRequest("a cat", picture=picture, translator="lines", strength=0.4)
    again = from_link(link_text(request).text).request
    assert np.array_equal(again.picture, picture) and replace(again, picture=picture) == request


def test_a_photograph_is_made_smaller_and_what_is_too_large_stays_behind_and_is_told():
    smooth = Image.radial_gradient("L").convert("RGB").resize((512, 512))
    link = link_text(EditRequest("a", picture=smooth))
    again = from_link(link.text).request
    assert link.without == () and again.picture.width <= 256
    small = again.picture.resize((64, 64)), smooth.resize((64, 64))
    assert np.abs(np.subtract(*(np.asarray(each, float) for each in small))).mean() < 4
    link = link_text(EditRequest("a", picture=noise(512), mask=Image.new("L", (512, 512), 255), seed=3, strength=0.3))
    assert link.without == ("the picture that it began with", "the mask")
    restored = from_link(link.text)
    assert restored.request == GenerateRequest("a", seed=3) and len(restored.notes) == 2
    assert all("choose it again" in note for note in restored.notes)
    link = link_text(GenerateRequest("a", control=ControlUse(picture=noise(512))))
    assert link.without == ("the control picture",) and from_link(link.text).request == GenerateRequest("a")


def test_a_link_has_a_limit():
    assert len(link_text(GenerateRequest("♥" * PROMPT_LIMIT)).text) < LINK_LIMIT
    with pytest.raises(RequestError, match="shorten the prompt"):
        link_text(GenerateRequest("♥" * PROMPT_LIMIT, negative="♥" * PROMPT_LIMIT))


def test_links_of_before_are_read():
    old = link_of('{"prompt": "a crown", "seed": 3, "steps": 2, "without": ["picture", "control"]}')
    restored = from_link(old)
    assert restored.request == GenerateRequest("a crown", seed=3, steps=2) and len(restored.notes) == 2


def link_of(text):
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        None,
        3,
        "",
        "=",
        "a",
        "%%%",
        "a b",
        "é",
        "AAAA\n",
        "A" * (LINK_LIMIT + 1),
        link_text(GenerateRequest("a red heart")).text[:-3],
        link_of("[]"),
        link_of("{}"),
        link_of("[" * 5900),
        link_of("3" * 5900),
        link_of('{"prompt": "a", "without": 3}'),
        link_of('{"prompt": "a", "without": ["sampler", {}]}'),
        link_of('{"prompt": "a", "kind": "edit"}'),
        link_of('{"prompt": "a", "kind": "edit", "picture": 3}'),
        link_of('{"prompt": "a", "kind": "edit", "picture": "AAAA"}'),
        link_of('{"prompt": "a", "kind": "edit", "picture": "é"}'),
        link_of('{"prompt": "a", "control": {"picture": ""}}'),
        link_of('{"prompt": "a", "control": 3}'),
        link_of('{"prompt": "a", "picture": "x"}'),
        link_of('{"prompt": "\\ud800"}'),
        base64.urlsafe_b64encode(b'{"prompt": "\xff"}').decode(),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_bad_links_are_one_sentence(text):
    with pytest.raises(RequestError) as caught:
        from_link(text)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".") and len(str(caught.value)) < 200
