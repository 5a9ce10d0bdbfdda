"""Safetensors files of strangers: their limits are checked before any of them is read, and no pickle is opened."""

import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from yoso_core.requests import RequestError

HEADER_LIMIT = 16_000_000  # bytes; trainers keep the tags of all their pictures in it
FILE_LIMIT = 4 * 2**30  # bytes; what is read is held in memory
KEY_LIMIT = 10_000  # the largest that is made, of SDXL with its text encoders, has 6,400
CHECKPOINT_KEY = "yoso_checkpoint"  # metadata of weights that only the run that wrote them can read
PRIOR_KEY = "yoso_prior"  # metadata of a one-step LoRA: moments of its latents, for the informative prior
DTYPES = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}
WHOLE_NUMBERS = {"I64", "I32", "I16", "I8", "U8", "BOOL"}  # of an alpha, and of strangers beside a LoRA


class LoraError(RequestError):
    """A file that is not a LoRA for this model, and why: one line, whatever the file's name holds."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Words of strangers, such as names of files, without line breaks and whatever else can't be printed."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


@contextmanager
def _opened(path: Path) -> Iterator[tuple[safe_open, list[str]]]:
    """A safetensors file and its keys; its size limits are checked before any of it is read.

    Raises:
        LoraError: not a safetensors file, or one that is too large.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
            size = os.fstat(file.fileno()).st_size
        if size > FILE_LIMIT:
            raise LoraError(f"{path.name} has {size / 2**30:.1f} GiB; at most {FILE_LIMIT / 2**30:g} are read.")
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 9 else 0
        if HEADER_LIMIT < length <= size - 8 and head[8:] == b"{":
            raise LoraError(
                f"{path.name} has a header of {length / 1e6:.0f} MB; at most {HEADER_LIMIT / 1e6:.0f} are read."
            )
        if not (2 <= length <= HEADER_LIMIT and head[8:] == b"{"):
            if head[:2] == b"PK" or head[:1] == b"\x80":
                raise LoraError(f"{path.name} is a pickle, which can run code; convert it to safetensors first.")
            raise LoraError(f"{path.name} is not a safetensors file of a LoRA; please choose another file.")
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
            if len(keys) > KEY_LIMIT:
                raise LoraError(f"{path.name} has over {KEY_LIMIT} tensors; that is no LoRA.")
            if odd := {file.get_slice(key).get_dtype() for key in keys} - DTYPES - WHOLE_NUMBERS:
                raise LoraError(f"{path.name} holds numbers of type {odd.pop()}, as no LoRA does; the file is broken.")
            yield file, keys
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise LoraError(
            f"{path.name} can't be read as safetensors ({error!s:.80}); please choose another file."
        ) from None


def read_tensors(path: Path, wanted: Iterable[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, 8-bit numbers widened; raises as `_opened` does.

    Args:
        path: the file.
        wanted: keys; None for all.
    """
    narrow = (torch.float8_e4m3fn, torch.float8_e5m2)
    with _opened(path) as (file, keys):
        tensors = {key: file.get_tensor(key) for key in (keys if wanted is None else wanted)}
        wide = {key: value.half() if value.dtype in narrow else value for key, value in tensors.items()}
        return wide, file.metadata() or {}


def read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of the tensors and metadata of a safetensors file, without its weights; raises as `_opened` does."""
    with _opened(path) as (file, keys):
        return {key: tuple(file.get_slice(key).get_shape()) for key in keys}, file.metadata() or {}


def read_prior(path: Path) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation (C,) of the scaled latents that a one-step LoRA was trained on, where its file says them."""
    try:
        with safe_open(path, "pt") as file:
            return prior_of(json.loads((file.metadata() or {})[PRIOR_KEY]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError, OverflowError):
        return None


def prior_of(stored: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation (C,) out of JSON; None where they are not sound."""
    try:
        mean, deviation = torch.tensor(stored["mean"]), torch.tensor(stored["deviation"])
    except (KeyError, ValueError, TypeError, RecursionError, OverflowError):
        return None
    sound = mean.ndim == 1 and mean.shape == deviation.shape and (torch.isfinite(mean) & (deviation >= 0)).all()
    return (mean.float(), deviation.float()) if sound else None
