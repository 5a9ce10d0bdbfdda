"""A saved PNG carries everything needed to make its picture again."""

import io

import numpy as np
import pytest
from PIL import Image

from yoso_core.metadata import parameters_text, read_request, save_png
from yoso_core.requests import GenerateRequest, RequestError


def test_a_png_makes_its_picture_again(engine, tmp_path):
    request = GenerateRequest("ein rotes Herz ♥, 3d", negative="blau", seed=7, count=2, guidance=1.5, steps=2)
    result = engine.run(request)
    save_png(result, 1, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as saved:
        again = read_request(saved)
        assert again.seed == 8 and again.count == 1 and again.prompt == request.prompt
        assert np.array_equal(np.asarray(saved), np.asarray(engine.run(again).pictures[0]))


def test_parameters_are_what_other_tools_read(engine):
    text = parameters_text(engine.run(GenerateRequest("a red heart", negative="blue", seed=7)), 0)
    prompt, negative, settings = text.splitlines()
    assert prompt == "a red heart" and negative == "Negative prompt: blue"
    assert (
        "Steps: 1" in settings and "Seed: 7" in settings and "Size: 64x64" in settings and "CFG scale: 1," in settings
    )


@pytest.mark.parametrize(
    "chunk", [None, "{", "[]", '{"prompt": 3}', '{"prompt": "a", "os": 1}', '{"seed": -1, "prompt": ""}']
)
def test_foreign_and_broken_pngs_are_one_sentence(chunk):
    from PIL.PngImagePlugin import PngInfo

    info, file = PngInfo(), io.BytesIO()
    if chunk is not None:
        info.add_text("yoso", chunk)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    with pytest.raises(RequestError) as caught:
        read_request(Image.open(file))
    assert "\n" not in str(caught.value)
