"""Editing in pixels: what is laid out before the network runs, and put together after. Pictures are PIL's."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from yoso_core.files.pictures import square, square_note
from yoso_core.requests import EditRequest

PAINTED = 128  # of 255: from here on a mask paints
TOUCHED = 31  # of 255: how much of a pixel is painted where it counts, so that thin strokes on large pictures do
NOTHING_PAINTED = "the mask paints nothing: white says where, and what is transparent is not painted"


@dataclass(frozen=True)
class Canvas:
    """What an edit begins with.

    Attributes:
        picture: RGB, S x S.
        mask: "L", S x S: 255 where to repaint, less on the feather, 0 where pixels stay; None to repaint everything.
        notes: what was done to the picture, in words.
    """

    picture: Image.Image
    mask: Image.Image | None
    notes: tuple[str, ...]


def lay_out(request: EditRequest, size: int) -> Canvas:
    """Make the picture of a request square, grow its canvas and feather its mask.

    Args:
        size: side S of the canvas in pixels.
    """
    inner = round(size / (1 + 2 * request.grow))
    picture, mask = square(request.picture, inner, request.fit), None
    if request.mask is not None:
        # By what stays, because white is what pads a picture.
        stays = request.mask.point(lambda value: 0 if value >= PAINTED else 255)
        mask = square(stays, inner, request.fit).point(lambda value: 255 if value < 255 - TOUCHED else 0)
    note = square_note(request.picture, request.fit)
    notes = (note,) if note else ()
    if mask is not None and mask.getextrema()[1] == 0:
        notes += (NOTHING_PAINTED,)
    if inner < size:
        picture, mask = grown(picture, mask, size)
        notes += (f"shrunk to {inner} of {size} pixels to make room around it",)
    return Canvas(picture, mask and feathered(mask, request.feather * size), notes)


def grown(picture: Image.Image, mask: Image.Image | None, size: int) -> tuple[Image.Image, Image.Image]:
    """A larger canvas around a picture, its edges drawn out to fill it, and a mask of what is new.

    Args:
        picture: RGB.
        mask: of it, "L", white where to repaint; None for nowhere.
        size: side of the canvas in pixels.
    """
    before = (size - picture.width) // 2
    rim = (before, size - picture.width - before)
    larger = Image.fromarray(np.pad(np.asarray(picture), (rim, rim, (0, 0)), mode="edge"))
    new = Image.new("L", (size, size), 255)
    new.paste(mask or 0, (before, before, before + picture.width, before + picture.height))
    return larger, new


def feathered(mask: Image.Image, width: float) -> Image.Image:
    """A mask with a soft rim around it: 255 inside, falling to 0 over `width` pixels outside, 0 beyond."""
    radius = round(width / 2)
    if not radius:
        return mask
    # PIL's MaxFilter takes time by the square of its size. Of up to 509 pixels averaged, one that is white shows.
    for reach in ((radius, 0), (0, radius)):
        mask = mask.filter(ImageFilter.BoxBlur(reach)).point(lambda value: 255 if value else 0)
    return mask.filter(ImageFilter.BoxBlur(radius))


def latent_mask(mask: Image.Image, shape: tuple[int, int]) -> Tensor:
    """(1, 1, h, w) float32, 1 at every latent pixel with a picture pixel to repaint.

    Args:
        shape: (h, w) of the latents.
    """
    touched = torch.from_numpy(np.array(mask) > 0).float()[None, None]
    return F.adaptive_max_pool2d(touched, shape)


def put_together(canvas: Canvas, made: Image.Image) -> Image.Image:
    """What was made inside the mask, blended over its feather, and the very pixels of the canvas elsewhere."""
    return made if canvas.mask is None else Image.composite(made, canvas.picture, canvas.mask)
