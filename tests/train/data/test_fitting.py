"""Pictures made one size, and the parts of them that steps take."""

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.fitting import FITTINGS, Fitting, fitting
from train.data.latents import load_pictures
from train.loop.config import ConfigError
from train.loop.randomness import Draws

WIDE = Image.fromarray(np.arange(40 * 80 * 3, dtype=np.uint32).reshape(40, 80, 3).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "kept", "seen"),
    [
        ("square", (32, 32), (32, 32)),
        ("randomcrop", (36, 36), (32, 32)),
        ("resize_286_randomcrop_256x256_hflip", (286, 286), (256, 256)),
        ("no_resize", (80, 40), (80, 40)),
    ],
)
def test_pictures_are_kept_and_seen_at_the_size_that_the_name_says(name, kept, seen):
    assert name in FITTINGS
    fit = fitting(name, 32)
    picture = fit.shape(WIDE)
    assert picture.size == kept
    stack = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    [part] = fit.parts(Draws(0, 0, 1, slice(None)), stack)
    assert part.shape[2:] == fit.middle(stack).shape[2:] == seen[::-1]


def test_parts_of_a_pair_are_the_same_and_others_each_time():
    fit = Fitting(10, 4, stretched=True, random=True)
    places = torch.arange(100, dtype=torch.uint8).view(1, 1, 10, 10).repeat(64, 1, 1, 1)
    first, second = fit.parts(Draws(0, 3, 64, slice(None)), places, places + 100)
    assert torch.equal(second, first + 100) and len(first.flatten(1).unique(dim=0)) > 30
    across = first[:, 0, 0, 1].int() - first[:, 0, 0, 0].int()
    assert set(across.tolist()) == {1, -1} and (first[:, 0, 1, 0].int() - first[:, 0, 0, 0].int() == 10).all()
    rows = fit.parts(Draws(0, 3, 64, slice(10, 20)), places[10:20])[0]
    assert torch.equal(rows, first[10:20])  # whichever process computes them
    assert torch.equal(fitting("square", 10).parts(Draws(0, 0, 64, slice(None)), places)[0], places)


def test_pictures_as_they_are_must_be_of_one_size(tmp_path):
    for name, size in (("a", (40, 24)), ("b", (40, 24))):
        Image.effect_noise(size, 50).save(tmp_path / f"{name}.png")
    shape = fitting("no_resize", 16).shape
    assert load_pictures(tmp_path, 16, shape=shape).pictures.shape == (2, 3, 24, 40)
    Image.new("RGB", (24, 40)).save(tmp_path / "c.png")
    with pytest.raises(ConfigError, match=r"'a\.png' has 40 x 24 pixels and 'c\.png' has 24 x 40"):
        load_pictures(tmp_path, 16, shape=shape)
