"""Captioned pictures in memory, in an order that is a function of (seed, epoch) alone."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures and what people would type for each.

    Attributes:
        pictures: (N, 3, S, S) uint8.
        captions: N lists of phrasings of the same picture.
        rows: the N lines of metadata.jsonl.
    """

    pictures: Tensor
    captions: list[list[str]]
    rows: list[dict]

    def __len__(self) -> int:
        return len(self.pictures)


def load_pictures(folder: Path, size: int, keep: Callable[[dict], bool] = lambda row: True) -> CaptionedPictures:
    """Read a folder of pictures listed in its ``metadata.jsonl``.

    Args:
        folder: holds ``metadata.jsonl`` with one JSON object a line: ``file_name``, and ``captions`` or ``text``.
        size: side of the square pictures returned, in pixels.
        keep: which lines to take.

    Raises:
        FileNotFoundError: there is no ``metadata.jsonl``.
    """
    listing = folder / "metadata.jsonl"
    if not listing.exists():
        raise FileNotFoundError(f"{listing} is missing: build the corpus first with python -m train.emoji --out {folder}")
    rows = [row for line in listing.read_text().splitlines() if keep(row := json.loads(line))]

    def read(row: dict) -> np.ndarray:
        with Image.open(folder / row["file_name"]) as picture:
            picture = picture.convert("RGB")
            if picture.size != (size, size):
                picture = picture.resize((size, size), Image.Resampling.LANCZOS)
            return np.asarray(picture)

    with ThreadPoolExecutor() as pool:
        stack = np.stack(list(pool.map(read, rows)))
    captions = [row.get("captions") or [row["text"]] for row in rows]
    return CaptionedPictures(torch.from_numpy(stack).permute(0, 3, 1, 2), captions, rows)


def generator_for(seed: int, *path: int) -> torch.Generator:
    """A CPU generator that depends on the numbers given and on nothing else, so that resume is exact."""
    state = np.random.SeedSequence([seed, *path]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def batch_indices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Which of `count` samples step number `step` sees: (batch,) int64, every sample once an epoch."""
    position = step * batch
    taken: list[Tensor] = []
    while sum(map(len, taken)) < batch:
        epoch, offset = divmod(position, count)
        order = torch.randperm(count, generator=generator_for(seed, 0, epoch))
        part = order[offset : offset + batch - sum(map(len, taken))]
        taken.append(part)
        position += len(part)
    return torch.cat(taken)


def to_unit_range(pictures: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return pictures.float() / 127.5 - 1


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """(N, 3, H, W) in [-1, 1] as one picture, row by row."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    canvas = torch.ones(3, rows * height, columns * width)
    for index, picture in enumerate(pictures.float().clamp(-1, 1)):
        top, left = index // columns * height, index % columns * width
        canvas[:, top : top + height, left : left + width] = picture
    return Image.fromarray(((canvas + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
