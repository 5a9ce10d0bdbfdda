"""Asking a hub, and fetching from it what is not on this machine; removing it.

Whatever asks a hub does so in a process of its own (`hub_process.py`), which can be ended at any instant: a hub that
does not answer, or a download of an hour, holds up nobody. What has come by then stays, and is gone on from. Several
studios share the cache of the hub's own client, and what one of them fetches the others wait for. Nothing here is
needed for what is on this machine already.
"""

import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoso_core.cached import (
    RECORD,
    HubError,
    Need,
    cache_folder,
    coming,
    commit_of,
    files_of,
    find,
    folder_of,
    size_of,
    wanted,
)

SILENCE = 30.0  # seconds without a word or a byte, until a hub is given up
LONGEST = 4 * 3600.0  # seconds for one thing
LEAVING = 0.4  # seconds after which who listens can leave
CONVERTING = 900.0  # seconds without a word, while a pickle is read
SPARE = 1_000_000_000  # bytes of the disk that stay free
ADDRESS_LIMIT = 4 * 2**30  # bytes of a file of the web; a pickle has no more
ROOT = Path(__file__).resolve().parent.parent
LICENCE_CHARACTERS = 200


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


def fetch(need: Need, silence: float = SILENCE) -> Iterator[Progress]:
    """Bring what is missing to this machine and convert what has to be; yields as it comes. Closing it ends that.

    Raises:
        HubError: it can't be had, can't be read, or the disk is full.
    """
    yield Progress()
    try:
        if need.is_address:
            source = coming(need)
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
        shutil.rmtree(coming(need).parent, ignore_errors=True)


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
            freed += _taken(coming(need).parent)
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
    size = sum(size_of(each) for each in files)
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
