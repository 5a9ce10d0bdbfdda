"""The whole corpus in memory: the art, who describes scenes of it, and who paints them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from train.recipes.corpus.art import CORPUS, SIDE, Sprite, read_art, read_pixels
from train.recipes.corpus.colours import dominant_hues
from train.recipes.corpus.painter import Painter
from train.recipes.corpus.scenes import Describer


@dataclass(frozen=True)
class Corpus:
    """The art and who draws and describes it."""

    art: list[Sprite]
    painter: Painter
    describer: Describer
    unseen: Describer  # the held-out sprites, alone on white

    @classmethod
    def load(cls, folder: Path = CORPUS, device: torch.device | str = "cpu", size: int = SIDE) -> "Corpus":
        """Read what ``python -m train.recipes.corpus.art`` built.

        Raises:
            FileNotFoundError: nothing was built there.
        """
        art = read_art(folder)
        painter = Painter(read_pixels(art, folder), device, size)
        hues = dominant_hues(painter.levels[1])
        return cls(art, painter, Describer(art, hues), Describer(art, hues, held_out=True))
