"""Models of a hub: what of them is on this machine, and fetching the rest.

Whatever asks a hub does so in a process of its own (`hub_process.py`), which can be ended at any instant: a hub that
does not answer, or a download of an hour, holds up nobody. What has come by then stays, and is gone on from. Several
studios share the cache of the hub's own client, and what one of them fetches the others wait for. Nothing here is
needed for what is on this machine already.
"""

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoso_core.requests import RequestError

SILENCE = 30.0  # seconds without a word or a byte, until a hub is given up
LONGEST = 4 * 3600.0  # seconds for one thing
LEAVING = 0.4  # seconds after which who listens can leave
CONVERTING = 900.0  # seconds without a word, while a pickle is read
SPARE = 1_000_000_000  # bytes of the disk that stay free
ADDRESS_LIMIT = 4 * 2**30  # bytes of a file of the web; a pickle has no more
ROOT = Path(__file__).resolve().parent.parent
# The parts of a pipeline that are used, and the files that diffusers and transformers look for in them.
FOLDERS = {"", "unet", "transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"}
NETWORKS = {"", "unet", "transformer", "vae", "text_encoder", "text_encoder_2"}
PLAIN = re.compile(r"[\w-][\w.-]*\.(json|txt|model)|README\.md", re.ASCII)
PLACE = re.compile(r"(?!\.)[\w.-]{1,96}(?<![.])/(?!\.)[\w.-]{1,96}(?<![.])", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
RECORD = "yoso-studio"  # the ref that holds the commit of what was fetched without one
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
LICENCE_CHARACTERS = 200
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


@dataclass(frozen=True)
class Progress:
    """Bytes that have come, of those that are to come, and what is done where that is not fetching."""

    done: int = 0
    total: int = 0
    doing: str = "asking the hub"

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0

    def __str__(self) -> str:
        return self.doing or f"{self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB"


@dataclass(frozen=True)
class Listing:
    """What a hub says of a repository before anything is fetched.

    Attributes:
        commit: 40 hex digits.
        sizes: bytes by name of a file.
        licence: as its card says; "" where it does not.
        terms: whether its owner asks for agreement on the hub.
    """

    commit: str
    sizes: dict[str, int]
    licence: str = ""
    terms: bool = False


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
            _size(path) for path in _coming(need).parent.glob(f"{_coming(need).name}*") if path.suffix != ".lock"
        )
    return sum(_size(path) for path in (folder_of(need.place) / "blobs").glob("*"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed by the process that brings it
        return 0


def _coming(need: Need) -> Path:
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


def fetch(need: Need, silence: float = SILENCE) -> Iterator[Progress]:
    """Bring what is missing to this machine and convert what has to be; yields as it comes. Closing it ends that.

    Raises:
        HubError: it can't be had, can't be read, or the disk is full.
    """
    yield Progress()
    try:
        if need.is_address:
            source = _coming(need)
            yield from _download_address(need.place, source, silence)
        else:
            listing = None
            for found in _look([need], silence):
                listing = found[1] if found else listing
                yield Progress()
            if not isinstance(listing, Listing):
                raise listing or HubError("it says nothing")
            sizes = wanted(need, listing.sizes)
            record = not need.revision
            also = sum(sizes.values()) if need.convert == "network" else 0
            options = {"token": need.trusted, "silence": silence, "record": record, "also": also}
            yield from download(need.place, listing.commit, sizes, **options)
            source = folder_of(need.place) / "snapshots" / listing.commit / next(iter(sizes))
    except HubError as error:
        raise HubError(
            f"{need.title} is not on this machine and can't be had from the model hub ({error}); try again later, or "
            "add a local folder with --add-model."
        ) from None
    if need.convert:
        yield from _convert(need, source)


def _convert(need: Need, source: Path) -> Iterator[Progress]:
    """Raises HubError: what came is not what can be converted; a file of the web is fetched anew then."""
    yield Progress(1, 1, "converting")
    job = {"convert": need.convert, "source": str(source), "out": str(need.out)}
    try:
        with closing(_asked(job, CONVERTING)) as messages:
            yield from (Progress(1, 1, "converting") for _ in messages)
    except HubError as error:
        _forget_coming(need)
        raise HubError(f"{need.title} has come but is not taken: {error}") from None
    _forget_coming(need)
    if need.convert == "network":  # gigabytes that are there twice now
        source.resolve().unlink(missing_ok=True)
        source.unlink(missing_ok=True)


def _forget_coming(need: Need) -> None:
    if need.is_address:
        shutil.rmtree(_coming(need).parent, ignore_errors=True)


def look(needs: Sequence[Need], silence: float = SILENCE) -> Iterator[tuple[Need, "Listing | HubError"]]:
    """What a hub says of repositories, one after another, or why it says nothing.

    Raises:
        HubError: it does not answer.
    """
    return (found for found in _look(needs, silence) if found is not None)


def _look(needs: Sequence[Need], silence: float) -> Iterator[tuple[Need, "Listing | HubError"] | None]:
    """The same, and None now and then."""
    for trusted in (True, False):
        mine = [need for need in needs if need.trusted == trusted]
        job = {"list": [(need.place, commit_of(need)) for need in mine], "token": trusted}
        if not mine:
            continue
        with closing(_asked(job, silence)) as messages:
            for message in messages:
                yield message and (mine.pop(0), _listing(message))


def _listing(message: dict[str, Any]) -> "Listing | HubError":
    if "lacking" in message:
        return HubError(message["lacking"])
    licence = " ".join(str(message["licence"]).split())[:LICENCE_CHARACTERS]
    return Listing(message["commit"], message["files"], licence, message["terms"])


def list_files(place: str, revision: str, token: bool = True, silence: float = SILENCE) -> dict[str, int]:
    """Names and bytes of the files of a repository.

    Args:
        place: "owner/name".
        revision: of it.
        token: whether the hub is told whose machine asks.
        silence: seconds after which it is given up.

    Raises:
        HubError: it can't be had; a few words say why.
    """
    ((_, found),) = look([Need(place, place, revision, trusted=token)], silence)
    if isinstance(found, HubError):
        raise found
    return found.sizes


def download(
    place: str,
    revision: str,
    sizes: Mapping[str, int],
    cache: Path | None = None,
    token: bool = True,
    silence: float = SILENCE,
    record: bool = False,
    also: int = 0,
) -> Iterator[Progress]:
    """Bring files of a repository to `cache`, in this order; yields as they come.

    Args:
        place, revision, token, silence: as of `list_files`.
        sizes: bytes of each, as the hub lists them.
        cache: of the hub's client; None for its usual one.
        record: whether this commit is what is meant from now on where none is said.
        also: bytes that are made of them then, for which there has to be room, too.

    Raises:
        HubError: they can't be had, or the disk is full; a few words say why.
    """
    cache = cache_folder() if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    total = sum(sizes.values()) + also
    if shutil.disk_usage(cache).free < total + SPARE:
        raise HubError(f"it takes {total / 1e9:.1f} GB, for which the disk has no room")
    job = {"place": place, "commit": revision, "token": token, "sizes": dict(sizes), "cache": str(cache)}
    yield from _coming_in(job | {"record": RECORD if record else ""}, silence)


def _download_address(address: str, out: Path, silence: float) -> Iterator[Progress]:
    yield from _coming_in({"address": address, "out": str(out), "limit": ADDRESS_LIMIT}, silence)


def _coming_in(job: dict[str, Any], silence: float) -> Iterator[Progress]:
    """How far a job is that brings files."""
    progress = Progress()
    with closing(_asked(job, silence)) as messages:
        for message in messages:
            if message:
                done, total = message["done"], message["total"]
                doing = "waiting for another studio, which is fetching it" if message.get("waits") else ""
                progress = Progress(min(done, total), total, doing)
            yield progress


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
        return {folder.name: _size(folder)}
    return {path.relative_to(folder).as_posix(): _size(path) for path in folder.rglob("*") if path.is_file()}


def remove(needs: Sequence[Need], kept: Iterable[Need] = ()) -> int:
    """Take what is here of these from this machine, whole or not; bytes that are free then.

    Args:
        needs: what goes, with all else of the same commits.
        kept: what stays of those; of such as are not here whole, what has come.

    Raises:
        HubError: another studio is fetching one of them.
    """
    freed, stays = 0, [need for need in kept if need.out is None or not need.out.exists()]
    for need in needs:
        if need.out is not None:
            freed += _taken(need.out)
        if need.is_address:
            freed += _taken(_coming(need).parent)
    jobs = []
    for place, commit in dict.fromkeys((need.place, commit_of(need)) for need in needs if not need.is_address):
        same = [need for need in stays if (need.place, commit_of(need)) == (place, commit)]
        names = sorted({name for need in same for name in files_of(need)})
        jobs.append((place, commit, names, any(find(need) is None for need in same)))
    job = {"remove": jobs, "cache": str(cache_folder())}
    return freed + sum(message["freed"] for message in _asked(job, SILENCE) if message)


def _taken(path: Path) -> int:
    """Bytes that a file or a folder had, which is gone."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(_size(each) for each in files)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return size


def _asked(job: dict[str, Any], silence: float) -> Iterator[dict[str, Any] | None]:
    """What a process says that does a job, and None now and then, so that who listens can leave; it ends with that."""
    command = [sys.executable, "-m", "yoso_core.hub_process"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
    )
    said: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in process.stdout:
            said.put(line)
        said.put(None)

    threading.Thread(target=listen, daemon=True).start()
    heard, until = time.monotonic(), time.monotonic() + LONGEST
    try:
        with suppress(BrokenPipeError):  # told below
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        while True:
            try:
                line = said.get(timeout=LEAVING)
            except queue.Empty:
                if time.monotonic() - heard > silence:
                    raise HubError(f"it does not answer for {silence:.0f} s") from None
                yield None
                continue
            if line is None or time.monotonic() > until:
                raise HubError("the download ended before its time")
            heard = time.monotonic()
            message = json.loads(line)
            if "error" in message:
                raise HubError(message["error"])
            if "end" in message:
                return
            yield message
    finally:
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
