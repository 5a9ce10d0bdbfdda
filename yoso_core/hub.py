"""Models of a hub: what of them is on this machine, and fetching the rest.

Whatever asks a hub does so in a process of its own, which can be ended at any instant: a hub that does not answer, or a
download of an hour, holds up nobody. What has come by then stays, and is gone on from. Nothing here is needed for what
is on this machine already.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoso_core.requests import RequestError

SILENCE = 30.0  # seconds without a word or a byte, until a hub is given up
LONGEST = 4 * 3600.0  # seconds for one thing
SPARE = 1_000_000_000  # bytes of the disk that stay free
AGAIN = 60.0  # seconds until what failed is tried again
EVERY = 0.3  # seconds between words on progress
ROOT = Path(__file__).resolve().parent.parent
# The parts of a pipeline that are used, and the files that diffusers and transformers look for in them.
FOLDERS = {"", "unet", "transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"}
NETWORKS = {"", "unet", "transformer", "vae", "text_encoder", "text_encoder_2"}
PLAIN = re.compile(r"[\w-][\w.-]*\.(json|txt|model)|README\.md", re.ASCII)
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:-\d{5}-of-\d{5})?\.safetensors", re.ASCII)


class HubError(RequestError):
    """What can't be had from a hub, or not yet."""


@dataclass(frozen=True)
class Need:
    """A repository of a hub.

    Attributes:
        title: what people call it.
        place: "owner/name".
        revision: 40 hex digits of a commit.
        variant: of its weights, such as "fp16", where it has them.
        file: the one that is wanted of it; "" for all that a model is loaded from.
        without: parts whose weights are not wanted.
    """

    title: str
    place: str
    revision: str
    variant: str | None = None
    file: str = ""
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Bytes that have come, of those that are to come; 0 of 0 while the hub is asked."""

    done: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB" if self.total else "asking the hub"


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


def find(need: Need) -> Path | None:
    """The folder of a repository on this machine, if all that is needed of it is there."""
    folder = cache_folder() / f"models--{need.place.replace('/', '--')}" / "snapshots" / need.revision
    try:
        if need.file:
            return folder if (folder / need.file).is_file() else None
        parts = [""]
        if (folder / "model_index.json").exists():
            listed = json.loads((folder / "model_index.json").read_text())
            parts = [name for name, kind in listed.items() if name in FOLDERS and kind != [None, None]]
        return folder if all(_is_whole(folder / part, part) for part in parts if part not in need.without) else None
    except (OSError, ValueError, AttributeError):
        return None


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


def fetch(need: Need, silence: float = SILENCE) -> Iterator[Progress]:
    """Bring what is missing of a repository to this machine; yields as it comes. Closing it ends the download.

    Raises:
        HubError: the hub does not answer, does not have it, or the disk is full.
    """
    yield Progress()
    try:
        sizes = list_files(need.place, need.revision, silence=silence)
        names = [name for name in sizes if name == need.file] if need.file else None
        names = select(sizes, need.variant, need.without) if names is None else names
        if not any(name.endswith(".safetensors") for name in names):
            raise HubError("it has no safetensors files at this commit, and only such are read")
        yield from download(need.place, need.revision, {name: sizes[name] for name in names}, silence=silence)
    except HubError as error:
        raise HubError(
            f"{need.title} is not on this machine and can't be had from the model hub ({error}); try again later, or "
            "add a local folder with --add-model."
        ) from None


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
    job = {"place": place, "revision": revision, "token": token}
    return next(message["files"] for message in _asked(job, silence) if "files" in message)


def download(
    place: str,
    revision: str,
    sizes: dict[str, int],
    cache: Path | None = None,
    token: bool = True,
    silence: float = SILENCE,
) -> Iterator[Progress]:
    """Bring files of a repository to `cache`, in this order; yields as they come.

    Raises:
        HubError: they can't be had, or the disk is full; a few words say why.
    """
    cache = cache_folder() if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    total = sum(sizes.values())
    if shutil.disk_usage(cache).free < total + SPARE:
        raise HubError(f"it takes {total / 1e9:.1f} GB, for which the disk has no room")
    job = {"place": place, "revision": revision, "token": token, "names": list(sizes), "cache": str(cache)}
    with closing(_asked(job, silence)) as messages:
        for message in messages:
            yield Progress(min(message.get("done", 0), total), total)


def _asked(job: dict[str, Any], silence: float) -> Iterator[dict[str, Any]]:
    """What a process says that asks the hub; the process ends with it."""
    command = [sys.executable, "-m", "yoso_core.hub", json.dumps(job)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
    )
    said: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in process.stdout:
            said.put(line)
        said.put(None)

    threading.Thread(target=listen, daemon=True).start()
    until = time.monotonic() + LONGEST
    try:
        while True:
            try:
                line = said.get(timeout=min(silence, max(0.1, until - time.monotonic())))
            except queue.Empty:
                raise HubError(f"it does not answer for {silence:.0f} s") from None
            if line is None or time.monotonic() > until:
                raise HubError("the download ended before its time")
            message = json.loads(line)
            if "error" in message:
                raise HubError(message["error"])
            yield message
            if "files" in message or "path" in message:
                return
    finally:
        process.kill()
        process.wait()


class Fetches:
    """Fetches one thing after another beside everything else; whoever needs one is told how far it is.

    Args:
        fetch: does it.
    """

    def __init__(self, fetch: Callable[[Need], Iterator[Progress]] = fetch) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._now: Need | None = None
        self._progress = Progress()
        self._followers = 0
        self._stop = threading.Event()
        self._failed: dict[Need, tuple[float, str]] = {}

    def begin(self, need: Need) -> str:
        """Begin to fetch, unless something is on its way; how it stands, in a sentence."""
        with self._lock:
            failed, why = self._failed.get(need, (0.0, ""))
            if why and time.monotonic() - failed < AGAIN:
                return why
            if self._now is None:
                self._now, self._progress = need, Progress()
                self._failed.pop(need, None)
                self._stop.clear()
                threading.Thread(target=self._work, args=(need,), daemon=True).start()
            if self._now == need:
                return f"{need.title} is being fetched from the model hub ({self._progress}); try again in a moment."
            now = f"{self._now.title} is on its way ({self._progress})"
            return f"{need.title} has to be fetched from the model hub, and {now}; try again after that."

    def follow(self, need: Need) -> Iterator[Progress]:
        """Fetch; yields now and then. Where the last who follows leaves, the download ends.

        Raises:
            HubError: it can't be had, or something else is on its way.
        """
        with self._lock:
            self._failed.pop(need, None)
            self._followers += 1
        try:
            told = self.begin(need)
            while self._now == need:
                yield self._progress
                time.sleep(EVERY)
            if need in self._failed:
                raise HubError(self._failed[need][1])
            if find(need) is None:
                raise HubError(told)
        finally:
            with self._lock:
                self._followers -= 1
                if not self._followers:
                    self._stop.set()

    def stop(self) -> None:
        """End the download that is on its way; what has come stays."""
        self._stop.set()

    def _work(self, need: Need) -> None:
        try:
            with closing(self._fetch(need)) as steps:
                for progress in steps:
                    self._progress = progress
                    if self._stop.is_set():
                        return
        except RequestError as error:
            self._failed[need] = time.monotonic(), str(error)
        except Exception as error:  # a disk that is full, or that can't be written to
            self._failed[need] = time.monotonic(), f"{need.title} can't be fetched ({error!s:.120}); please try again."
        finally:
            with self._lock:
                self._now = None


def main() -> None:
    """The process that asks a hub: a job as JSON in, a line of JSON a message out."""
    import huggingface_hub as hub
    from tqdm import tqdm

    job = json.loads(sys.argv[1])
    place, revision, token = job["place"], job["revision"], None if job["token"] else False
    done, told = 0, 0.0

    def say(**message: Any) -> None:
        print(json.dumps(message), flush=True)

    class Told(tqdm):
        """What the hub's client shows its progress on."""

        def __init__(self, *given: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*given, **options | {"disable": True})
            self.update(options.get("initial") or 0)

        def update(self, number: float | None = 1) -> None:
            nonlocal done, told
            done += int(number or 0)
            if number and time.monotonic() - told > EVERY:
                told = time.monotonic()
                say(done=done)

    try:
        if "names" not in job:
            found = hub.HfApi(token=token).model_info(place, revision=revision, files_metadata=True).siblings or []
            say(files={one.rfilename: one.size or 0 for one in found})
            return
        path = ""
        for name in job["names"]:
            options = {"revision": revision, "cache_dir": job["cache"], "token": token, "tqdm_class": Told}
            path = hub.hf_hub_download(place, name, **options)
            say(done=done)
        say(path=path, done=done)
    except Exception as error:  # the hub, its connection and the disk raise a dozen unrelated types
        say(error=f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


if __name__ == "__main__":
    main()
