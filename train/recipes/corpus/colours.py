"""Colours by name, and turning them: hues are angles in the plane of two colour differences, in radians."""

import math

import torch
from torch import Tensor

from train.recipes.corpus.grounds import Colour


def to_chroma(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 3, H, W) -> brightness and the two axes of an opponent plane, each (..., H, W)."""
    red, green, blue = rgb.unbind(-3)
    return (red + green + blue) / 3, (2 * red - green - blue) / 6**0.5, (green - blue) / 2**0.5


def hue_of(colour: Colour) -> float:
    red, green, blue = colour
    return math.atan2((green - blue) / 2**0.5, (2 * red - green - blue) / 6**0.5)


def turn(angle: float) -> float:
    """The same angle in (-pi, pi]."""
    return math.atan2(math.sin(angle), math.cos(angle))


HUES = {
    "red": hue_of((0.9, 0.15, 0.15)),
    "orange": hue_of((0.97, 0.55, 0.1)),
    "yellow": hue_of((0.98, 0.83, 0.15)),
    "green": hue_of((0.25, 0.7, 0.25)),
    "blue": hue_of((0.2, 0.45, 0.9)),
    "purple": hue_of((0.55, 0.25, 0.8)),
    "pink": hue_of((0.97, 0.4, 0.65)),
}


def dominant_hues(pixels: Tensor) -> list[float]:
    """The hue of each (N, 4, H, W) uint8 sprite in radians; NaN where no one colour prevails."""
    found: list[float] = []
    for part in pixels.split(512):
        part = part.float() / 255
        _, u, v = to_chroma(part[:, :3])
        alpha, strength = part[:, 3], (u**2 + v**2).sqrt()
        weight = alpha * (strength - 0.08).clamp_min(0)
        angle = torch.atan2(v, u)
        mean_u, mean_v = (weight * angle.cos()).sum((1, 2)), (weight * angle.sin()).sum((1, 2))
        total = weight.sum((1, 2)).clamp_min(1e-6)
        coherent = (mean_u**2 + mean_v**2).sqrt() / total > 0.9
        colourful = total / alpha.sum((1, 2)).clamp_min(1e-6) > 0.12
        hue = torch.atan2(mean_v, mean_u)
        found += torch.where(coherent & colourful, hue, torch.nan).tolist()
    return found
