"""Changes that a discriminator sees pictures under, so that it can't learn few of them by heart (arXiv 2006.10738).

Real and made pictures change alike, and gradients reach what was changed. All changes are functions of pictures
(B, C, H, W) in [-1, 1] and of uniform numbers in [0, 1), a row a picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SHIFT = 1 / 8  # furthest, as a share of the side
CUT = 1 / 2  # side of what is cut out, as a share of the picture's


def recoloured(pictures: Tensor, chances: Tensor) -> Tensor:
    """Brightness by up to 0.5 either way, saturation times 0 to 2, contrast times 0.5 to 1.5; chances (B, 3)."""
    brightness, saturation, contrast = chances[:, :, None, None, None].unbind(1)
    pictures = pictures + brightness - 0.5
    grey = pictures.mean(1, keepdim=True)
    pictures = grey + (pictures - grey) * 2 * saturation
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return mean + (pictures - mean) * (contrast + 0.5)


def translated(pictures: Tensor, chances: Tensor) -> Tensor:
    """Moved down and right by up to an eighth either way, zeros where nothing was; chances (B, 2)."""
    for dimension, chance in zip((2, 3), chances.unbind(1), strict=True):
        side = pictures.shape[dimension]
        furthest = int(side * SHIFT + 0.5)
        shift = (chance * (2 * furthest + 1)).long() - furthest
        source = torch.arange(side, device=pictures.device) - shift[:, None]  # (B, side)
        shape = [len(pictures), 1, 1, 1]
        shape[dimension] = side
        there = ((source >= 0) & (source < side)).view(shape)
        index = source.clamp(0, side - 1).view(shape).expand_as(pictures)
        pictures = pictures.gather(dimension, index) * there
    return pictures


def cut_out(pictures: Tensor, chances: Tensor) -> Tensor:
    """Zeros in a rectangle of half the sides around a place by chance, part of it outside; chances (B, 2)."""
    inside = []
    for side, chance in zip(pictures.shape[2:], chances.unbind(1), strict=True):
        cut = int(side * CUT + 0.5)
        start = (chance * (side + 1 - cut % 2)).long()[:, None] - cut // 2
        place = torch.arange(side, device=pictures.device)
        inside.append((place >= start) & (place < start + cut))
    rows, columns = inside
    return pictures * ~(rows[:, None, :, None] & columns[:, None, None, :])


CHANGES = {"color": (recoloured, 3), "translation": (translated, 2), "cutout": (cut_out, 2)}  # and their chances
POLICY = ",".join(CHANGES)  # the paper's
NUMBERS = sum(count for _, count in CHANGES.values())  # that each picture is changed by


def augmented(pictures: Tensor, names: Sequence[str], chances: Tensor) -> Tensor:
    """Pictures under some of `CHANGES`.

    Args:
        pictures: (B, 3, H, W) in [-1, 1].
        names: of the changes, in their order.
        chances: (B, NUMBERS) uniform in [0, 1); a change takes the same of them whatever others there are.
    """
    parts = dict(zip(CHANGES, chances.split([count for _, count in CHANGES.values()], 1), strict=True))
    for name in names:
        change, _ = CHANGES[name]
        pictures = change(pictures, parts[name])
    return pictures.contiguous(memory_format=torch.channels_last)
