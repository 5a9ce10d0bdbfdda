"""What is needed of a hub or of the web, and what of it is on this machine.

It lies in the cache of the hub's own client, and what was converted beside the bundled models. Nothing here asks a hub.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yoso_core.requests import RequestError

# The parts of a pipeline that are used, and the files that diffusers and transformers look for in them.
FOLDERS = {"", "unet", "transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"}
NETWORKS = {"", "unet", "transformer", "vae", "text_encoder", "text_encoder_2"}
PLAIN = re.compile(r"[\w-][\w.-]*\.(json|txt|model)|README\.md", re.ASCII)
PLACE = re.compile(r"(?!\.)[\w.-]{1,96}(?<![.])/(?!\.)[\w.-]{1,96}(?<![.])", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
RECORD = "yoso-studio"  # the ref that holds the commit of what was fetched without one
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
LORA_NAME = re.compile(r"[\w-][\w .()-]*\.safetensors", re.ASCII)
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:-\d{5}-of-\d{5})?\.safetensors", re.ASCII)


class HubError(RequestError):
    """What can't be had from a hub, or not yet."""


@dataclass(frozen=True)
class Need:
    """Something of a hub or of the web, and what becomes of it.

    Attributes:
        title: what people call it; of two that are alike but for this, one is enough.
        place: "owner/name", or the address of one file that begins with "https://".
        revision: 40 hex digits of a commit; "" for the newest at the first fetch, which is recorded then.
        variant: of its weights, such as "fp16", where it has them.
        inside: what is wanted of it: a file, such as that of a LoRA, or a folder; "" for all that a model is loaded
            from.
        without: parts whose weights are not wanted.
        convert: "lora", "network" or "translator", where what comes is made into what is read here; else "".
        out: where that is put; None where nothing is converted.
        trusted: whether the hub is told whose machine asks; not for what a visitor named.
    """

    title: str = field(compare=False)
    place: str
    revision: str = ""
    variant: str | None = None
    inside: str = ""
    without: tuple[str, ...] = ()
    convert: str = ""
    out: Path | None = None
    trusted: bool = True

    @property
    def is_address(self) -> bool:
        return "://" in self.place


def select(sizes: Iterable[str], variant: str | None = None, without: Iterable[str] = ()) -> list[str]:
    """The files of a repository that a model is loaded from: settings, words, and one kind of safetensors a folder.

    Args:
        without: folders whose weights are left.
    """
    names = [name for name in sizes if name.count("/") <= 1 and name.rpartition("/")[0] in FOLDERS]
    chosen = [name for name in names if PLAIN.fullmatch(name.rpartition("/")[2])]
    for folder in NETWORKS.difference(without):
        found = [name for name in names if name.rpartition("/")[0] == folder and name.endswith(".safetensors")]
        ours = [name for name in found if variant and WEIGHTS.fullmatch(_without(name.rpartition("/")[2], variant))]
        ours = [name for name in ours if f".{variant}" in name]
        chosen += ours or [name for name in found if WEIGHTS.fullmatch(name.rpartition("/")[2])]
    return sorted(chosen)


def _without(name: str, variant: str) -> str:
    """A file's name as it would be without its variant."""
    return name.replace(f".{variant}", "", 1)


def cache_folder() -> Path:
    """Where files of hubs are kept on this machine."""
    if told := os.environ.get("HF_HUB_CACHE"):
        return Path(told)
    from huggingface_hub.constants import HF_HUB_CACHE  # half a second to import

    return Path(HF_HUB_CACHE)


def folder_of(place: str) -> Path:
    """Where a repository is in the cache."""
    return cache_folder() / f"models--{place.replace('/', '--')}"


def commit_of(need: Need) -> str:
    """The commit that is meant: as it is said, or as it was recorded at the first fetch; "" before that."""
    if need.revision or need.is_address:
        return need.revision
    try:
        told = (folder_of(need.place) / "refs" / RECORD).read_text().strip()
    except OSError:
        return ""
    return told if COMMIT.fullmatch(told) else ""


def find(need: Need) -> Path | None:
    """The file or folder of what is needed on this machine, if all of it is there."""
    if need.out is not None:
        return need.out if need.out.exists() else None
    commit = commit_of(need)
    if not commit:
        return None
    folder = folder_of(need.place) / "snapshots" / commit
    try:
        if need.inside:
            there = folder / need.inside
            return folder if there.is_file() or _is_whole(there, "") else None
        parts = [""]
        if (folder / "model_index.json").exists():
            listed = json.loads((folder / "model_index.json").read_text())
            parts = [name for name, kind in listed.items() if name in FOLDERS and kind != [None, None]]
        return folder if all(_is_whole(folder / part, part) for part in parts if part not in need.without) else None
    except (OSError, ValueError, AttributeError):
        return None


def held(need: Need) -> int:
    """Bytes of it that are on this machine, whole or not, and of whatever else is there of the same repository."""
    if need.is_address:
        return sum(
            size_of(path) for path in coming(need).parent.glob(f"{coming(need).name}*") if path.suffix != ".lock"
        )
    return sum(size_of(path) for path in (folder_of(need.place) / "blobs").glob("*"))


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed by the process that brings it
        return 0


def coming(need: Need) -> Path:
    """Where a file of the web lies until it is converted."""
    return need.out.parent / ".coming" / need.out.name / need.place.rpartition("/")[2]


def _is_whole(folder: Path, part: str) -> bool:
    """Whether a part has its settings and, if it is a network, weights with all their shards. Files come whole."""
    names = os.listdir(folder)
    if not any(name.endswith(".json") for name in names):
        return False
    weights = [name for name in names if name.endswith(".safetensors")]
    shards = {int(match[1]) for match in map(re.compile(r".*-of-(\d{5}).*").fullmatch, weights) if match}
    if shards:
        return any(sum(f"-of-{count:05d}" in name for name in weights) == count for count in shards)
    return bool(weights) or part not in NETWORKS


def wanted(need: Need, sizes: Mapping[str, int]) -> dict[str, int]:
    """Names and bytes of the files that are needed of a repository.

    Raises:
        HubError: it has none that is read here.
    """
    kinds = (".safetensors", ".bin") if need.convert == "network" else (".safetensors",)
    if need.inside in sizes:
        names = [need.inside]
    elif need.inside:
        under = f"{need.inside}/"
        names = [under + name for name in select(each.removeprefix(under) for each in sizes if each.startswith(under))]
    elif need.convert == "lora":
        known = [name for name in sizes if LORA_NAME.fullmatch(name)]
        names = [LORA_FILE] if LORA_FILE in known else known
        if len(names) > 1:
            raise HubError(f"it has {len(names)} LoRA files and no {LORA_FILE}")
    else:
        names = select(sizes, need.variant, need.without)
    if not any(name.endswith(kinds) for name in names):
        raise HubError("it has no safetensors files at this commit, and only such are read")
    return {name: sizes[name] for name in names}


def files_of(need: Need) -> dict[str, int]:
    """Names and bytes of what is here of a need; {} where not all of it is."""
    folder = find(need)
    if folder is None:
        return {}
    sizes = sizes_in(folder)
    return sizes if need.out is not None else wanted(need, sizes)


def sizes_in(folder: Path) -> dict[str, int]:
    """Bytes of the files in a folder, by name; or of a file."""
    if folder.is_file():
        return {folder.name: size_of(folder)}
    return {path.relative_to(folder).as_posix(): size_of(path) for path in folder.rglob("*") if path.is_file()}
