"""Lines of pictures: edges, scribbles and sketches, and the ways in which pictures are varied."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.trained import scene
from train.data.lines import bent, maps_of, scribble, sketch, varied


def numbers(seed=0):
    return np.random.default_rng(seed)


def sketches(picture, count=20):
    return [sketch(np.asarray(picture), numbers(seed)) for seed in range(count)]


@pytest.mark.parametrize("side", [16, 64, 65])
def test_the_maps_of_a_picture(side):
    maps = maps_of(np.asarray(scene(side=side)))
    assert maps.shape == (3, side, side) and maps.dtype == np.uint8
    assert set(np.unique(maps)) == {0, 255} and all(one.any() for one in maps)
    assert not maps_of(np.full((side, side, 3), 255, np.uint8)).any()


def test_lower_thresholds_find_more():
    faint = np.full((64, 64, 3), 200, np.uint8)
    faint[20:40, 20:40] = 180
    strict, mild, _ = maps_of(faint)
    assert not strict.any() and mild.any()


def test_a_scribble_is_coarse_and_thick():
    """It leaves small things out, and its lines are wider than edges."""
    picture = np.asarray(scene()).copy()
    without = scribble(picture)
    assert without.sum() > 1.5 * maps_of(picture)[0].sum()
    picture[50:60:4, 50:60:4] = (230, 230, 230)  # specks
    assert np.array_equal(scribble(picture), without)


def test_a_varied_picture_is_another_view_on_white():
    picture = scene()
    found = [np.asarray(varied(picture, np.random.default_rng(seed))) for seed in range(20)]
    assert all(np.array_equal(one, varied(picture, np.random.default_rng(seed))) for seed, one in enumerate(found))
    assert len({one.tobytes() for one in found}) == 20
    for one in found:
        red = (one[..., 0] > 200) & (one[..., 1] < 60)
        assert 0.3 < red.sum() / (np.asarray(picture)[..., 1] < 60).sum() < 1.4
        assert (one[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    sides = [np.nonzero(one[..., 1] < 60)[1].mean() > 32 for one in found]
    assert any(sides) and not all(sides)  # some are mirrored


@pytest.mark.parametrize("side", [16, 64, 65, 300])
def test_a_sketch_goes_along_the_shapes(side):
    picture = scene(side=side)
    found = sketches(picture)
    assert all(one.shape == (side, side) and set(np.unique(one)) == {0, 255} for one in found)
    assert not sketch(np.full((side, side, 3), 255, np.uint8), numbers()).any()
    low, high = side / 6, side / 2  # the ball's box
    middle, radius = (low + high) / 2, (high - low) / 2
    for one in found:
        rows, columns = np.nonzero(one)
        away = np.hypot(rows - middle, columns - middle) - radius
        assert abs(away.mean()) < 0.03 * side + 1 and np.abs(away).max() < 0.1 * side + 2
        turns = np.degrees(np.arctan2(rows - middle, columns - middle)) % 360 // 30
        assert len(set(turns)) >= 9  # of 12: most of the way round


def test_a_hand_is_never_the_same():
    picture = scene()
    found = sketches(picture)
    assert len({one.tobytes() for one in found}) == 20
    assert all(np.array_equal(*pair) for pair in zip(found, sketches(picture), strict=True))
    ink = sorted(one.sum() for one in found)
    assert ink[-1] > 1.8 * ink[0]  # thick pens and thin ones


def test_a_sketch_leaves_strokes_out_but_the_longest():
    picture = scene(side=128)
    drawing = ImageDraw.Draw(picture)
    drawing.ellipse((90, 90, 102, 102), fill="black")
    corners = [one[80:, 80:].any() for one in sketches(picture)]
    assert any(corners) and not all(corners)
    assert all(one[:70, :70].any() for one in sketches(picture))


def test_a_sketch_shows_pale_things_that_a_scribble_does_not():
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=(230, 230, 230))
    assert not scribble(np.asarray(picture)).any()
    assert sum(one.any() for one in sketches(picture)) > 10  # of 20


def test_a_bent_picture_shows_the_same_in_another_shape():
    picture = scene()
    found = [np.asarray(bent(picture, numbers(seed))) for seed in range(10)]
    assert all(np.array_equal(one, bent(picture, numbers(seed))) for seed, one in enumerate(found))
    shapes = [one[..., 1] < 128 for one in found]
    assert len({shape.tobytes() for shape in shapes}) == 10
    whole = (np.asarray(picture)[..., 1] < 128).sum()
    for one, shape in zip(found, shapes, strict=True):
        assert 0.7 * whole < shape.sum() < 1.4 * whole
        assert (one[0] == 255).all() and (one[:, -1] == 255).all()  # the paper is white where it came from outside
