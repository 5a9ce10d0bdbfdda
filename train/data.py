"""Captioned pictures and latents in memory."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.randomness import Draws


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


def read_listing(folder: Path, keep: Callable[[dict], bool] = lambda row: True) -> list[dict]:
    """The lines of ``metadata.jsonl`` that `keep` takes.

    Raises:
        FileNotFoundError: there is no ``metadata.jsonl``.
    """
    listing = folder / "metadata.jsonl"
    if not listing.exists():
        raise FileNotFoundError(
            f"{listing} is missing: build the corpus first with python -m train.emoji --out {folder}"
        )
    return [row for line in listing.read_text().splitlines() if keep(row := json.loads(line))]


def load_pictures(folder: Path, size: int, keep: Callable[[dict], bool] = lambda row: True) -> CaptionedPictures:
    """Read a folder of pictures listed in its ``metadata.jsonl``.

    Args:
        folder: holds ``metadata.jsonl`` with one JSON object a line: ``file_name``, and ``captions`` or ``text``.
        size: side of the square pictures returned, in pixels.
        keep: which lines to take.

    Raises:
        FileNotFoundError: there is no ``metadata.jsonl``.
    """
    rows = read_listing(folder, keep)

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


@dataclass(frozen=True)
class CaptionedLatents:
    """Clean latents and the encoded phrasings of each.

    Attributes:
        latents: (N, C, h, w) float32, scaled by the autoencoder's scaling factor.
        contexts: (M, L, D) bfloat16, the encoded phrasings of all pictures, one after another.
        first: (N + 1,) int64; picture i has the contexts ``first[i]`` to ``first[i + 1] - 1``.
        empty: (1, L, D), the encoded empty prompt.
    """

    latents: Tensor
    contexts: Tensor
    first: Tensor
    empty: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor, drop: float, draws: Draws) -> tuple[Tensor, Tensor]:
        """Latents and one phrasing each; a phrasing is replaced by the empty prompt with probability `drop`."""
        first, count = self.first[indices], self.first[indices + 1] - self.first[indices]
        choice = first + (draws.uniform() * count).long()
        contexts = self.contexts[choice].float()
        dropped = draws.uniform() < drop
        return self.latents[indices], torch.where(dropped[:, None, None], self.empty, contexts)


@torch.no_grad()
def encode_texts(texts: list[str], tokenizer, text_encoder) -> Tensor:
    """Prompts as a pipeline encodes them: padded to L tokens, last hidden state, (N, L, D) float32."""
    found = []
    for start in range(0, len(texts), 512):
        tokens = tokenizer(
            texts[start : start + 512],
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        found.append(text_encoder(tokens.to(text_encoder.device))[0].float().cpu())
    return torch.cat(found)


@torch.no_grad()
def encode_corpus(data: CaptionedPictures, autoencoder, tokenizer, text_encoder) -> CaptionedLatents:
    """Run the frozen parts once over the whole training set."""
    pictures = data.pictures.split(64)
    latents = torch.cat([autoencoder.encode(to_unit_range(part)).latent_dist.mean.float() for part in pictures])
    texts = [text for phrasings in data.captions for text in phrasings]
    first = torch.tensor([0, *map(len, data.captions)]).cumsum(0)
    return CaptionedLatents(
        latents * autoencoder.config.scaling_factor,
        encode_texts(texts, tokenizer, text_encoder).bfloat16(),
        first,
        encode_texts([""], tokenizer, text_encoder),
    )
