"""What training sees: captioned pictures in memory, and clean latents with their prompts."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from train.data.listings import Problem
from train.data.reader import AHEAD, Keep, Listing, Seen, Shape, list_files, not_held_out, read_listing, scan, some
from train.loop.config import ConfigError
from train.loop.randomness import Draws, batch_indices
from yoso_core.autoencoder import encode
from yoso_core.condition import Condition, cat, where
from yoso_core.loading import LoadedModel

ENCODED_AT_ONCE = 2**21  # pixels
MOMENTS_FROM = 256  # latents


@dataclass(frozen=True)
class CaptionedPictures:
    """Pictures and what people would type for each.

    Attributes:
        pictures: (N, 3, S, S) uint8.
        captions: N lists of phrasings of the same picture; empty ones where no caption was asked for.
        rows: the N rows of the listing.
        problems: as in the listing.
        digest: hash of files, captions and repeats; "" where there are none.
        repeats: (N,) int64, how often an epoch sees each; None for all equally often.
    """

    pictures: Tensor
    captions: list[list[str]]
    rows: list[dict]
    problems: list[Problem]
    digest: str = ""
    repeats: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pictures)


def _used(folder: Path, listing: Listing, size: int, shape: Shape | None = None) -> Iterator[Seen]:
    return (seen for seen in scan(folder, listing, size, shape) if seen.used)


def load_pictures(
    folder: Path, size: int, keep: Keep = not_held_out, captioned: bool = True, shape: Shape | None = None
) -> CaptionedPictures:
    """Read a folder of pictures into memory.

    Args:
        folder: see `read_listing`.
        size: side of the square pictures returned, in pixels; the middle of each picture is taken.
        keep: which lines to take.
        captioned: whether every picture needs a caption; else they may have none.
        shape: makes something else than squares of them, all of one size.

    Raises:
        ConfigError: nothing in it is usable, or the pictures are of several sizes.
    """
    listing = read_listing(folder, keep) if captioned else list_files(folder, keep)
    found = some(list(_used(folder, listing, size, shape)), listing.problems, folder)
    if other := [one for one in found if one.pixels.shape != found[0].pixels.shape]:
        named = (f"{one.row['file_name']!r:.80} has {one.width} x {one.height} pixels" for one in (found[0], other[0]))
        raise ConfigError(f"{' and '.join(named)}; a batch wants one size: leave out no_resize, or make them alike")
    stack = torch.from_numpy(np.stack([one.pixels for one in found])).permute(0, 3, 1, 2)
    rows = [one.row for one in found]
    captions = [row["captions"] for row in rows]
    repeats = repeats_of(rows)
    digest = _digest_of_data(size, [one.digest for one in found], captions, repeats)
    return CaptionedPictures(stack, captions, rows, listing.problems, digest, repeats)


def repeats_of(rows: list[dict]) -> Tensor | None:
    """How often an epoch sees the picture of each row, (N,) int64; None for all equally often."""
    found = [row.get("repeats", 1) for row in rows]
    return torch.tensor(found) if len(set(found)) > 1 else None


def to_unit_range(pictures: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return pictures.float() / 127.5 - 1


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """(N, 3, H, W) in [-1, 1] as one picture, row by row, at most `columns` wide."""
    count, _, height, width = pictures.shape
    columns = min(columns, count)
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
        conditions: M rows, bfloat16, the encoded phrasings of all pictures, one after another.
        first: (N + 1,) int64; picture i has the conditions ``first[i]`` to ``first[i + 1] - 1``.
        empty: one row, the encoded empty prompt.
        digest: hash of the files and the networks that they are made from; "" where there are none.
        problems: of the folder that they come from.
        repeats: see `CaptionedPictures`.
    """

    latents: Tensor
    conditions: Condition
    first: Tensor
    empty: Condition
    digest: str = ""
    problems: tuple[Problem, ...] = ()
    repeats: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of a latent."""
        return tuple(self.latents.shape[1:])

    def batch(self, indices: Tensor, drop: float, draws: Draws) -> tuple[Tensor, Condition]:
        """Latents (B, C, h, w) and one phrasing of each, float32, on the device of `draws`.

        Args:
            indices: (B,) on the CPU.
            drop: probability that a phrasing is replaced by the empty prompt.
            draws: of the same B rows.
        """
        chosen = choose_phrasings(self.first, indices, draws)
        condition, _ = drop_prompts(self.conditions[chosen], self.empty, drop, draws)
        return self.latents[indices].to(draws.device), condition

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and standard deviation (C,) of the latents, for the informative prior."""
        return self.latents.mean((0, 2, 3)), self.latents.std((0, 2, 3))

    def fingerprint(self) -> str:
        """A short text that is another for other data: of the files if known, because latents differ by device."""
        return (self.digest or _digest(map(_bytes, (self.latents, *self.conditions.tensors.values(), self.first))))[:16]


@dataclass(frozen=True)
class GeneratedLatents:
    """Captions alone: their clean latents are made when they are asked for, by a model that is fast already.

    Attributes:
        sample: (noise (B, C, h, w), condition of B rows) -> clean latents (B, C, h, w), scaled.
        shape: (C, h, w) of a latent.
        maker_conditions: N rows, the captions as the model behind `sample` reads them.
        conditions: N rows, bfloat16, the captions as the model in training reads them.
        empty: one row, the encoded empty prompt of the model in training.
        device: where `sample` computes.
        digest: hash of the captions, see `digest_of`; "" to hash what they are encoded to.
    """

    sample: Callable[[Tensor, Condition], Tensor]
    shape: tuple[int, ...]
    maker_conditions: Condition
    conditions: Condition
    empty: Condition
    device: torch.device | str = "cpu"
    digest: str = ""
    repeats: None = None  # of captions there are none

    def __len__(self) -> int:
        return len(self.conditions)

    def batch(self, indices: Tensor, drop: float, draws: Draws) -> tuple[Tensor, Condition]:
        """As `CaptionedLatents.batch`; a latent is made of its caption even where that is dropped."""
        with torch.no_grad():
            condition = self.maker_conditions[indices].float().to(self.device)
            latents = self.sample(draws.normal(*self.shape).to(self.device), condition).float().to(draws.device)
        return latents, drop_prompts(self.conditions[indices], self.empty, drop, draws)[0]

    def moments(self) -> tuple[Tensor, Tensor]:
        """As `CaptionedLatents.moments`, of a few hundred latents, always the same ones."""
        return self._moments

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        made = []
        for step in range(MOMENTS_FROM // 16):
            draws = Draws(seed=0, step=step, batch=16, rows=slice(None))
            made.append(self.batch(batch_indices(len(self), 16, 0, step), 0.0, draws)[0])
        latents = torch.cat(made)
        return latents.mean((0, 2, 3)), latents.std((0, 2, 3))

    def fingerprint(self) -> str:
        """As `CaptionedLatents.fingerprint`."""
        return (
            self.digest
            or _digest(map(_bytes, (*self.maker_conditions.tensors.values(), *self.conditions.tensors.values())))
        )[:16]


def choose_phrasings(first: Tensor, indices: Tensor, draws: Draws) -> Tensor:
    """One phrasing of each picture, by chance: (B,) int64.

    Args:
        first: (N + 1,), where the phrasings of each picture begin, see `Captions`.
        indices: (B,) of the pictures, on the CPU.
        draws: of the same B rows.
    """
    count = first[indices + 1] - first[indices]
    return first[indices] + (draws.uniform().cpu() * count).long()


def drop_prompts(conditions: Condition, empty: Condition, drop: float, draws: Draws) -> tuple[Condition, Tensor]:
    """Replace some prompts by the empty one, as classifier-free guidance wants it.

    Returns:
        The conditions, float32 on the device of `draws`, and which were replaced: (B,) bool.
    """
    dropped = draws.uniform() < drop
    kept, nothing = (each.to(draws.device).float() for each in (conditions, empty))
    return where(dropped, nothing, kept), dropped


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    """A hash of the parts, each by itself: ("ab", "c") is not ("a", "bc")."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def digest_of(texts: list[str]) -> str:
    """A hash of texts and their order."""
    return _digest(text.encode() for text in texts)


def _digest_of_data(size: int, files: list[str], captions: list[list[str]], repeats: Tensor | None) -> str:
    uneven = [] if repeats is None else [json.dumps(repeats.tolist())]
    return digest_of([str(size), *files, json.dumps(captions), *uneven])


def weights_fingerprint(*modules: nn.Module) -> str:
    """A short text that changes with the weights: cheap, because it reads a few numbers of each tensor."""
    tensors = [value.detach().double().flatten() for module in modules for value in module.parameters()]
    sums = torch.stack([value[:: max(1, value.numel() // 64)].sum().cpu() for value in tensors])
    return f"{len(sums)}:{(sums * torch.arange(1, len(sums) + 1)).sum().item():.9g}"


class Captions(NamedTuple):
    """The encoded phrasings of pictures.

    Attributes:
        texts: M of them, one picture's after another's.
        conditions: M rows, bfloat16.
        first: (N + 1,) int64; picture i has the phrasings ``first[i]`` to ``first[i + 1] - 1``.
    """

    texts: list[str]
    conditions: Condition
    first: Tensor


def encode_captions(captions: list[list[str]], model: LoadedModel) -> Captions:
    """Encode the phrasings of N pictures."""
    texts = [text for phrasings in captions for text in phrasings]
    conditions = [
        model.encode_texts(texts[start : start + 512]).to(dtype=torch.bfloat16) for start in range(0, len(texts), 512)
    ]
    return Captions(texts, cat(conditions), torch.tensor([0, *map(len, captions)]).cumsum(0))


@torch.no_grad()
def encode_folder(folder: Path, size: int, model: LoadedModel, keep: Keep = not_held_out) -> CaptionedLatents:
    """Run the frozen parts of a model once over a folder of pictures, of which a few are in memory at a time.

    Args:
        folder: see `read_listing`.
        size: side of the pictures in pixels; the middle of each is taken.
        model: on whatever device; the latents are on the CPU.
        keep: which lines to take.

    Raises:
        ConfigError: nothing in it is usable.
    """
    listing = read_listing(folder, keep)
    autoencoder = model.autoencoder
    weight = next(autoencoder.parameters())
    rows: list[dict] = []
    digests: list[str] = []
    latents: list[Tensor] = []
    reading = _used(folder, listing, size)
    while chunk := list(islice(reading, max(1, min(AHEAD, ENCODED_AT_ONCE // size**2)))):
        pixels = torch.from_numpy(np.stack([one.pixels for one in chunk])).permute(0, 3, 1, 2).to(weight.device)
        latents.append(encode(autoencoder, to_unit_range(pixels).to(weight.dtype)).float().cpu())
        rows += [one.row for one in chunk]
        digests += [one.digest for one in chunk]
    captions = [row["captions"] for row in some(rows, listing.problems, folder)]
    repeats = repeats_of(rows)
    encoded = encode_captions(captions, model)
    return CaptionedLatents(
        torch.cat(latents),
        encoded.conditions,
        encoded.first,
        model.encode_texts([""]),
        digest_of(
            [_digest_of_data(size, digests, captions, repeats), weights_fingerprint(autoencoder, *model.encoders)]
        ),
        tuple(listing.problems),
        repeats,
    )
