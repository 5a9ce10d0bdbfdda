"""How pictures of any size become those that a batch is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from train.loop.randomness import Draws
from yoso_core.files.pictures import square

SQUARE, RANDOM_CROP, PUBLISHED, NO_RESIZE = (
    "square",
    "randomcrop",
    "resize_286_randomcrop_256x256_hflip",
    "no_resize",
)
FITTINGS = (SQUARE, RANDOM_CROP, PUBLISHED, NO_RESIZE)
MARGIN = 286 / 256  # what is cropped from, to what is kept


@dataclass(frozen=True)
class Fitting:
    """Pictures as they are kept, and what a step takes of them.

    Attributes:
        kept: side of the squares in memory, in pixels; 0 where pictures keep their size.
        taken: side of what a step sees; 0 as above.
        stretched: whether pictures are stretched to a square, else their middle is taken.
        random: whether a step takes a random part, half of them mirrored.
    """

    kept: int
    taken: int
    stretched: bool = False
    random: bool = False

    @property
    def shape(self) -> Callable[[Image.Image], Image.Image]:
        """A picture as it is kept."""
        if not self.kept:
            return lambda picture: picture
        if self.stretched:
            return lambda picture: picture.resize((self.kept, self.kept), Image.Resampling.LANCZOS)
        return lambda picture: square(picture, self.kept)

    def middle(self, pictures: Tensor) -> Tensor:
        """(N, C, H, W) -> the part that previews and measures see."""
        if not self.random:
            return pictures
        start = (self.kept - self.taken) // 2
        return pictures[..., start : start + self.taken, start : start + self.taken]

    def parts(self, draws: Draws, *stacks: Tensor) -> list[Tensor]:
        """Random parts of pictures (B, C, H, W); rows of all stacks are cut and mirrored alike.

        Args:
            draws: of the same B rows.
            stacks: what belongs together.
        """
        if not self.random:
            return list(stacks)
        room = self.kept - self.taken + 1
        found: list[list[Tensor]] = [[] for _ in stacks]
        for row, (down, right, turn) in enumerate(draws.uniform(3).tolist()):
            top, left = int(down * room), int(right * room)
            for stack, parts in zip(stacks, found, strict=True):
                part = stack[row, :, top : top + self.taken, left : left + self.taken]
                parts.append(part.flip(2) if turn < 0.5 else part)
        return [torch.stack(parts) for parts in found]


def fitting(name: str, size: int) -> Fitting:
    """One of `FITTINGS`.

    Args:
        name: the published one has sizes of its own.
        size: side of what a step sees, in pixels, for the others.
    """
    if name == NO_RESIZE:
        return Fitting(0, 0)
    if name == PUBLISHED:
        return Fitting(286, 256, stretched=True, random=True)
    if name == RANDOM_CROP:
        return Fitting(round(size * MARGIN), size, stretched=True, random=True)
    return Fitting(size, size)
