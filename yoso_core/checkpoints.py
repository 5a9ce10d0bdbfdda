"""Folders as diffusers lays them out: where they are, and reading one part of them, from safetensors alone."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from yoso_core.requests import RequestError

NEWEST = ""  # in place of a commit that is not known where this was written
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")


class ModelError(RequestError):
    """A model that can't be loaded, and what to do about it."""


@dataclass(frozen=True)
class Source:
    """A folder on this machine, or a hub repository pinned to a commit.

    Attributes:
        place: a path, or a hub id "owner/name".
        revision: 40 hex digits; `NEWEST` for the commit that is found at the first fetch and recorded; None for a
            folder.
        inside: what of it is meant, a folder or a file; "" for all of it.
    """

    place: str
    revision: str | None = None
    inside: str = ""

    @property
    def is_folder(self) -> bool:
        return self.revision is None


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder on this machine.

    Attributes:
        title: what people call the model.
        place: of the folder.
        variant: of its weights, such as "fp16".
        network: a folder or a safetensors file with what predicts, if that is not in the folder.
    """

    title: str
    place: str
    variant: str | None = None
    network: Path | None = None

    def part(self, call: Callable, name: str = "", **options: Any) -> Any:
        """What a `from_pretrained` returns of a part, or of the folder itself; see `load_part`."""
        named = {"subfolder": name} if name else {}
        return load_part(call, self.title, Source(self.place), variant=self.variant, **named, **options)

    def apart(self, kind: Any, name: str, dtype: Any) -> dict[str, nn.Module]:
        """What predicts, where it is not in the folder, as an option of a pipeline's `from_pretrained`; else {}.

        Args:
            kind: its class.
            name: of the part, whose settings are the folder's where a file alone is given.
            dtype: of its weights.
        """
        if self.network is None:
            return {}
        if self.network.is_dir():
            refuse_other_files(self.title, self.network)
            return {name: load_part(kind.from_pretrained, self.title, Source(str(self.network)), dtype=dtype)}
        return {name: load_file(kind, self.title, Path(self.place) / name, self.network, dtype)}


def load_file(kind: Any, title: str, settings: Path, path: Path, dtype: Any) -> nn.Module:
    """A network of diffusers whose weights are in a safetensors file and whose settings are in a folder.

    Raises:
        ModelError: they can't be read, or don't fit each other.
    """
    from accelerate import init_empty_weights

    try:
        with init_empty_weights():
            network = kind.from_config(kind.load_config(settings, local_files_only=True))
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
        network.load_state_dict(weights, assign=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:160]
        raise ModelError(f"{path.name} is not the network of {title} ({cause}).") from error
    return network


def config_of(part: Path) -> dict:
    """The config of a part of a diffusers folder; {} where it is broken, which loading will name."""
    return _read(part / "config.json")


def index_of(folder: Path) -> dict:
    """Which class each part of a folder is of, as its ``model_index.json`` says; {} where that is broken."""
    return _read(folder / "model_index.json")


def _read(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def shapes_of(part: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a part, read off its folder or its file; {} where they can't be read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in [part] if part.is_file() else sorted(part.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # loading names it
            return {}
    return shapes


def link(path: Path, out: Path) -> None:
    """Weights under another name, which takes no room where the disk has links; of settings a copy."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        with suppress(OSError):
            os.link(path.resolve(), out)
            return
    partial = out.with_name(f".{out.name}.new")
    shutil.copyfile(path, partial)
    os.replace(partial, out)


def load_part(call: Callable, title: str, source: Source, **options: Any) -> Any:
    """What a `from_pretrained` returns of a folder: safetensors only, no remote code, and errors in one sentence."""
    if not os.path.isdir(source.place):
        raise ModelError(f"{title} is not at {source.place}; please check the folder's path.")
    try:
        return call(source.place, use_safetensors=True, local_files_only=True, **options)
    except MemoryError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors raise a dozen unrelated types
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ModelError(f"The folder {source.place} is not a whole diffusers model ({cause}).") from error


def load_text_encoder(files: Checkpoint, kind: Any, name: str, dtype: Any) -> nn.Module:
    """A text encoder of transformers, by itself, because only so it tells which weights the files lack; it makes those
    up.

    Raises:
        ModelError: some are lacking.
    """
    encoder, told = files.part(kind.from_pretrained, name, dtype=dtype, output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        raise ModelError(
            f"The {name.replace('_', ' ')} of {files.title} lacks the weights {missing[0]}; its files are incomplete."
        )
    return encoder


def refuse_absent(files: Checkpoint, parts: Mapping[str, Any]) -> None:
    """
    Raises:
        ModelError: a part is None, which stands for one that is not there.
    """
    if absent := [name for name, part in parts.items() if part is None]:
        raise ModelError(f"The folder {files.place} is not a whole diffusers model ({absent[0]} is missing).")


def refuse_other_files(title: str, folder: Path) -> None:
    """The lists of sharded weights may name any file; only safetensors beside them are read.

    Raises:
        ModelError: one names something else.
    """
    for index in folder.rglob("*.safetensors.index*.json"):
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            names = {"nothing that can be read"}
        if odd := [name for name in names if not SHARD.fullmatch(str(name))]:
            raise ModelError(f"{title} lists weights in {odd[0]!r:.60}; only safetensors files are read.")


def refuse_missing_weights(title: str, network: nn.Module) -> None:
    """What diffusers found no weights for is left on the "meta" device.

    Raises:
        ModelError: there is such a weight.
    """
    if lacking := [key for key, value in network.state_dict().items() if value.is_meta]:
        raise ModelError(f"{title} lacks the weights {lacking[0]}; its files are incomplete.")
