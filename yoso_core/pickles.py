"""Pickles of strangers: read weights only, within limits, and written as safetensors, whole or not at all."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from yoso_core.lora.reading import FILE_LIMIT, one_line
from yoso_core.requests import RequestError

DIGEST = "converted_from_sha256"  # metadata of what was converted
NUMBERS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}  # as files say it
MAPPED_LIMIT = 16 * 2**30  # bytes


class Pickle(NamedTuple):
    """What a pickle of weights holds.

    Attributes:
        content: whatever it is.
        sha256: of the file.
        size: of the file in bytes.
    """

    content: Any
    sha256: str
    size: int


def read_pickle(source: Path) -> Pickle:
    """Read a file of ``torch.save``, weights only.

    Raises:
        ValueError, OSError: it is none, or holds anything but weights and plain values.
    """
    if not source.is_file():
        raise ValueError("there is no such file")
    if source.stat().st_size > FILE_LIMIT:
        raise ValueError(f"it has more than {FILE_LIMIT / 2**30:g} GiB")
    data = source.read_bytes()  # once, so that the hash is of what is converted
    if data[8:9] == b"{":
        raise ValueError("it is safetensors already, so copy it as it is")
    file = io.BytesIO(data)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            _refuse_large(sum(each.file_size for each in packed.infolist()), len(data))
    file.seek(0)
    return Pickle(_unpickled(file), hashlib.sha256(data).hexdigest(), len(data))


def map_pickle(source: Path) -> Pickle:
    """The same of a file of ``torch.save`` that may be larger than memory: its tensors are read when they are used."""
    if (size := source.stat().st_size) > MAPPED_LIMIT:
        raise ValueError(f"it has more than {MAPPED_LIMIT / 2**30:g} GiB")
    if not zipfile.is_zipfile(source):
        raise ValueError("it is no file as torch.save writes it")
    with open(source, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Pickle(_unpickled(source, mmap=True), sha256, size)


def _unpickled(file: Any, **options: Any) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, **options)
    except pickle.UnpicklingError:  # its words advise to run it
        raise ValueError("it is no pickle of weights alone") from None


def weights_of(found: Any, size: int, what: str = "it") -> dict[str, Tensor]:
    """Weights by name, as they are in the file.

    Args:
        found: what should be that.
        size: of the file in bytes.
        what: is looked at, in words.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{what} holds no weights by name")
    for key, value in found.items():
        if not isinstance(key, str):
            raise ValueError(f"{named(key)} in it is no name of a tensor")
        if not isinstance(value, Tensor):
            raise ValueError(f"{named(key)} in it is no tensor but {type(value).__name__}")
    _refuse_large(sum(value.numel() * value.element_size() for value in found.values()), size)
    return {key: value.detach() for key, value in found.items()}


def _refuse_large(held: int, size: int) -> None:
    """A few bytes of a file may speak of any number."""
    if held > 2 * size:
        raise ValueError("its tensors are far larger than the file")


def named(value: Any) -> str:
    """What a value is, in a few characters: a list in a list in a list may be short in a file and endless in words."""
    return f"{value!r:.80}" if isinstance(value, (str, int, float)) else type(value).__name__


def save_one_by_one(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """What `save_file` writes, which holds all of it in memory."""
    header, end = {"__metadata__": metadata}, 0
    for key, value in tensors.items():
        _check_numbers(key, value)
        begin, end = end, end + value.numel() * value.element_size()
        header[key] = {"dtype": NUMBERS[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(told)) + told)
        for value in tensors.values():
            file.write(value.contiguous().view(-1).view(torch.uint8).numpy())


def _check_numbers(key: str, value: Tensor) -> None:
    if value.dtype not in NUMBERS:
        raise ValueError(f"{key!r:.80} is of {value.dtype}")
    if not value.isfinite().all():
        raise ValueError(f"{key!r:.80} holds NaN or infinite values")


def save(tensors: Mapping[str, Tensor], path: Path, digest: str, told: Mapping[str, str] | None = None) -> None:
    for key, value in tensors.items():
        _check_numbers(key, value)
    # Cloned, because a pickle's tensors may be views of one another and those of safetensors may not.
    apart = {key: value.clone().contiguous() for key, value in tensors.items()}
    save_file(apart, path, metadata={"format": "pt", DIGEST: digest} | dict(told or {}))


@contextmanager
def written_beside(out: Path) -> Iterator[Path]:
    """A place beside `out` to write to; it becomes `out` if nothing fails, and else it is gone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    _remove(partial)  # of a process that was killed
    try:
        yield partial
        partial.replace(out)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@contextmanager
def refusals(source: Path) -> Iterator[None]:
    """Whatever goes wrong with a file, in one sentence."""
    try:
        yield
    except Exception as error:  # unpickling raises whatever it meets
        # What unpickling says of a file that is no pickle may be a bare number.
        why = one_line(str(error)) if " " in str(error) else f"it is no checkpoint: {type(error).__name__}"
        raise RequestError(f"{one_line(str(source))} can't be converted ({why:.200}).") from None
