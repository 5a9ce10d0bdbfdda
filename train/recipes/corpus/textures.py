"""Pictures of nothing in particular, so that the autoencoder can keep what is not emoji: dead leaves, and photographs.

Random shapes that cover one another have the statistics of natural pictures (A. Lee, D. Mumford, J. Huang, "Occlusion
models for natural images", 2001); networks that learned from them alone do well on photographs (arXiv 2105.05963 and
others). The photographs are the few that scikit-image and scikit-learn bring along.
"""

import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

LEAVES = 40  # shapes a picture
PHOTOGRAPHS = {  # by package; the paths are below its folder
    "skimage": ("data/astronaut.png", "data/rocket.jpg", "data/motorcycle_left.png", "data/hubble_deep_field.jpg"),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
HELD_OUT_PHOTOGRAPHS = {"skimage": ("data/chelsea.png", "data/coffee.png")}  # measured on, never trained on


def dead_leaves(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, 3, size, size) in [-1, 1], on the device of the generator."""
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device)

    steps = (torch.arange(size, device=device) + 0.5) / size
    x, y = steps.view(1, 1, size), steps.view(1, size, 1)
    palette = uniform(6, 3)
    picture = (palette[:, 0, :, None, None]).expand(-1, -1, size, size).clone()
    rows = torch.arange(count, device=device)
    for _ in range(LEAVES):
        numbers = uniform(8, 1, 1)
        radius = 0.04 / (numbers[:, 0] * 0.98 + 0.02) ** 0.6  # few are large, many small
        turn = numbers[:, 1] * math.pi
        dx, dy = x - numbers[:, 2] * 1.2 + 0.1, y - numbers[:, 3] * 1.2 + 0.1
        u = (dx * turn.cos() + dy * turn.sin()) * (0.6 + numbers[:, 4])
        v = -dx * turn.sin() + dy * turn.cos()
        round_ = (u**2 + v**2).sqrt()
        square = torch.maximum(u.abs(), v.abs())
        inside = ((radius - torch.where(numbers[:, 5] < 0.6, round_, square)) * size).clamp(0, 1)[:, None]
        own = palette[rows, torch.randint(6, (count,), generator=generator, device=device)]
        own = own + (uniform(3) - 0.5) * 0.25
        slope = (uniform(3) - 0.5) * 0.4
        stripes = (uniform(1)[:, :, None] * 0.25) * ((u + v) * (numbers[:, 6] * 90)).sin() * (numbers[:, 7] < 0.3)
        tone = (
            own[:, :, None, None] + slope[:, :, None, None] * (u / radius.clamp_min(0.05))[:, None] + stripes[:, None]
        )
        picture = picture + (tone - picture) * inside
    grain = F.interpolate(
        torch.randn(count, 3, size // 2, size // 2, generator=generator, device=device), (size, size), mode="bilinear"
    )
    picture = picture + grain * (uniform(1)[:, :, None, None] ** 3 * 0.1)
    soft = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.where(uniform(1)[:, :, None, None] < 0.5, soft, picture).clamp(0, 1) * 2 - 1


def read_photographs(listing: dict[str, tuple[str, ...]]) -> list[Tensor]:
    """Those of installed packages: each (3, H, W) uint8."""
    found = []
    for package, paths in listing.items():
        spec = importlib.util.find_spec(package)
        if spec is None:
            continue
        folder = Path(spec.submodule_search_locations[0])
        for path in paths:
            with Image.open(folder / path) as picture:
                found.append(torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1))
    return found


def crops(photographs: list[Tensor], count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, 3, size, size) in [-1, 1]: parts of photographs, of the whole height down to `size` pixels."""
    device, found = generator.device, []
    for _ in range(count):
        which, scale, left, top = torch.rand(4, generator=generator, device=device).tolist()
        photograph = photographs[int(which * len(photographs))]
        height, width = photograph.shape[1:]
        side = int(size + scale**2 * (min(height, width) - size))
        y, x = int(top * (height - side)), int(left * (width - side))
        part = photograph[None, :, y : y + side, x : x + side].to(device).float()
        found.append(F.interpolate(part, (size, size), mode="bilinear", antialias=True))
    return torch.cat(found) / 127.5 - 1
