"""Editing in pixels: what is laid out, what may change, and what keeps its very pixels."""

import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from yoso_core.editing import NOTHING_PAINTED, feathered, grown, latent_mask, lay_out, put_together
from yoso_core.files.pictures import fitted
from yoso_core.requests import FITS, EditRequest


def noise(width, height, seed=0):
    """An RGB picture of which no two neighbours are alike."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def box_mask(size, box):
    """White inside the box (left, top, right, bottom), of a picture of this size."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def request(picture, **options):
    return EditRequest("x", picture=picture, **options)


def distance(mask):
    """Steps of a chess king from each pixel to the nearest one of the mask, up to 40: (S, S)."""
    reach, found = np.asarray(mask) > 0, np.full(mask.size[::-1], 40)
    for step in range(40):
        found[reach & (found == 40)] = step
        padded = np.pad(reach, 1)
        height, width = reach.shape
        reach = np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    return found


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize("feather", [0.0, 0.05, 0.25])
def test_pixels_outside_mask_and_feather_are_the_very_same(size, feather):
    mask = box_mask((size, size), (size // 4, size // 3, size // 2, size // 2))
    canvas = lay_out(request(noise(size, size), mask=mask, feather=feather), size)
    made = noise(size, size, seed=1)
    result = np.asarray(put_together(canvas, made))
    away = distance(mask.resize((64, 64), Image.Resampling.NEAREST)) > 64 * feather + 1
    away = np.kron(away, np.ones((size // 64, size // 64), bool))
    assert away.any()
    assert np.array_equal(result[away], np.asarray(canvas.picture)[away])
    inside = np.asarray(mask) > 0
    assert np.array_equal(result[inside], np.asarray(made)[inside])


@pytest.mark.parametrize("width", [2, 3, 4, 7, 10, 16, 25])
def test_a_feather_falls_over_its_width_and_no_further(width):
    mask = box_mask((100, 100), (45, 40, 60, 50))
    soft, away = np.asarray(feathered(mask, width)).astype(int), distance(mask)
    levels = [soft[away == step] for step in range(away.max() + 1)]
    assert (levels[0] == 255).all()
    sideways = soft[45, 59:]  # straight out of the right side
    assert (np.diff(sideways) <= 0).all() and len(set(sideways)) > width - 1
    assert abs(np.count_nonzero(sideways[1:]) - width) <= 1
    assert not any(level.any() for level in levels[width + 2 :])


def test_a_feather_is_steady_around_a_mask_of_any_shape():
    """Wherever it is nearer to the mask along a line, it is at least as strong."""
    mask = Image.fromarray((np.random.default_rng(0).random((80, 80)) > 0.999).astype(np.uint8) * 255)
    soft = np.asarray(feathered(mask, 8))
    assert (soft[np.asarray(mask) > 0] == 255).all()
    away = distance(mask)
    assert soft[away == 1].min() > soft[away == 8].max() and not soft[away > 8].any()


def test_the_widest_feather_of_the_largest_picture_takes_no_time():
    mask = box_mask((1024, 1024), (500, 500, 501, 501))
    started = time.process_time()
    soft = np.asarray(feathered(mask, 256))
    assert time.process_time() - started < 1.0
    assert soft[500, 500] == 255 and soft[500, 500 + 255] > 0 and soft[500, 500 + 258] == 0


def test_no_feather_leaves_the_mask():
    mask = box_mask((64, 64), (10, 10, 20, 20))
    assert feathered(mask, 0) is mask


def test_an_inverted_mask_keeps_what_the_other_repaints():
    mask, picture, made = box_mask((64, 64), (20, 20, 40, 40)), noise(64, 64), noise(64, 64, seed=1)
    results = []
    for one in (mask, ImageOps.invert(mask)):
        canvas = lay_out(request(picture, mask=one, feather=0.0), 64)
        results.append(np.asarray(put_together(canvas, made)))
    inside = (np.asarray(mask) > 0)[..., None]
    assert np.array_equal(results[0], np.where(inside, made, picture))
    assert np.array_equal(results[1], np.where(inside, picture, made))


@pytest.mark.parametrize(("inside", "outside"), [(255, 0), (128, 127), (240, 9)])
@pytest.mark.parametrize("size", [64, 256])
def test_a_mask_paints_from_its_middle_level_on(inside, outside, size):
    """JPEG's white and black are not quite so, and soft brushes have rims."""
    box = (size // 4, size // 4, size // 2, size // 2)
    mask = box_mask((size, size), box).point(lambda value: inside if value else outside)
    canvas = lay_out(request(noise(size, size), mask=mask, feather=0.0), 64)
    assert np.array_equal(np.asarray(canvas.mask), np.asarray(box_mask((64, 64), (16, 16, 32, 32))))
    assert canvas.notes == ()


def test_a_mask_that_paints_nothing_is_told():
    for mask in (Image.new("L", (64, 64)), Image.new("L", (64, 64), 127)):
        canvas = lay_out(request(noise(64, 64), mask=mask), 64)
        assert canvas.notes == (NOTHING_PAINTED,) and canvas.mask.getextrema() == (0, 0)


def test_a_thin_stroke_on_a_large_picture_is_not_lost():
    mask = box_mask((2000, 2000), (0, 995, 2000, 1003))
    canvas = lay_out(request(noise(2000, 2000), mask=mask, feather=0.0), 64)
    rows = np.asarray(canvas.mask).any(axis=1)
    assert np.asarray(canvas.mask)[rows].all() and 1 <= rows.sum() <= 2 and rows[31:33].any()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(120, 60), (60, 120)])
def test_a_mask_goes_where_its_picture_goes(fit, shape):
    """A black square, and the mask of it: on the canvas they cover the same pixels."""
    box = (shape[0] // 2 - 12, shape[1] // 2 - 12, shape[0] // 2 + 12, shape[1] // 2 + 12)
    picture = Image.new("RGB", shape, "grey")
    picture.paste("black", box)
    canvas = lay_out(request(picture, mask=box_mask(shape, box), feather=0.0, fit=fit), 64)
    dark = np.asarray(canvas.picture).max(axis=2) < 64
    masked = np.asarray(canvas.mask) > 0
    assert dark.sum() > 60
    assert (dark & ~masked).sum() == 0 and (masked & ~dark).sum() <= 4 * 2 * np.sqrt(dark.sum())
    assert set(np.unique(canvas.mask)) == {0, 255}


@pytest.mark.parametrize("fit", FITS)
def test_a_square_picture_of_the_right_size_is_laid_out_as_it_is(fit):
    picture = noise(64, 64)
    canvas = lay_out(request(picture, fit=fit), 64)
    assert canvas.mask is None and canvas.notes == ()
    assert canvas.picture.tobytes() == picture.tobytes()
    made = noise(64, 64, seed=1)
    assert put_together(canvas, made) is made


def test_what_pads_a_picture_is_not_repainted():
    everything = Image.new("L", (128, 32), 255)
    canvas = lay_out(request(noise(128, 32), mask=everything, feather=0.0, fit="pad"), 64)
    mask = np.asarray(canvas.mask)
    assert mask[24:40].all() and not mask[:24].any() and not mask[40:].any()
    assert (np.asarray(canvas.picture)[:24] == 255).all()


@pytest.mark.parametrize("fit", [fit for fit in FITS if fit != "keep"])
def test_a_note_says_what_was_done_to_the_shape(fit):
    (note,) = lay_out(request(noise(80, 40), fit=fit), 64).notes
    assert note.startswith("80 x 40: ")


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("grow", [0.0, 0.5])
def test_extreme_shapes_are_laid_out(fit, shape, grow):
    mask = Image.new("L", shape, 255)
    for size in (64, 512):
        canvas = lay_out(request(noise(*shape), mask=mask, grow=grow, fit=fit), size)
        assert canvas.picture.size == canvas.mask.size == (size, size)
        assert canvas.picture.mode == "RGB" and np.asarray(canvas.mask).any()


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize("grow", [0.125, 0.25, 1.0])
def test_growing_keeps_the_picture_in_the_middle_and_repaints_the_rest(size, grow):
    picture = noise(size, size)
    canvas = lay_out(request(picture, grow=grow, feather=0.0), size)
    inner = round(size / (1 + 2 * grow))
    before = (size - inner) // 2
    middle = (slice(before, before + inner),) * 2
    assert np.array_equal(np.asarray(canvas.picture)[middle], np.asarray(fitted(picture, inner)))
    mask = np.asarray(canvas.mask)
    assert not mask[middle].any() and (mask == 255).sum() == size**2 - inner**2
    assert f"{inner} of {size} pixels" in canvas.notes[-1]
    rim = np.asarray(put_together(canvas, Image.new("RGB", (size, size), "red")))
    assert (rim[0] == (255, 0, 0)).all() and (rim[:, -1] == (255, 0, 0)).all()


def test_a_mask_grows_with_its_picture():
    """What was painted in the picture is repainted too, at its smaller size."""
    canvas = lay_out(request(noise(64, 64), mask=box_mask((64, 64), (0, 0, 32, 64)), grow=0.5, feather=0.0), 64)
    mask = np.asarray(canvas.mask)
    assert mask[16:48, 16:32].all() and not mask[16:48, 32:48].any() and mask[:16].all()


def test_a_growing_picture_is_drawn_out_from_its_edges():
    picture = noise(10, 10)
    larger, _ = grown(picture, None, 17)
    inside, pixels = np.asarray(picture), np.asarray(larger)
    assert larger.size == (17, 17) and np.array_equal(pixels[3:13, 3:13], inside)
    assert (pixels[:3, :3] == inside[0, 0]).all() and (pixels[13:, 13:] == inside[-1, -1]).all()
    assert (pixels[:3, 3:13] == inside[0]).all()


def test_growth_by_less_than_a_pixel_is_none():
    canvas = lay_out(request(noise(64, 64), grow=0.001), 64)
    assert canvas.mask is None and canvas.notes == ()


@pytest.mark.parametrize(("size", "unit"), [(64, 8), (512, 8), (72, 8)])
def test_every_latent_pixel_that_the_mask_touches_is_repainted(size, unit):
    pixels = np.zeros((size, size), np.uint8)
    pixels[unit * 2, unit * 3] = 1  # one pixel, hardly there
    found = latent_mask(Image.fromarray(pixels), (size // unit, size // unit))
    assert found.shape == (1, 1, size // unit, size // unit) and found.dtype == torch.float32
    assert found.sum() == 1 and found[0, 0, 2, 3] == 1
    assert latent_mask(Image.new("L", (size, size)), (8, 8)).sum() == 0
