"""The process that asks a hub and converts what it hands out: a job as a line of JSON in, a line of JSON a message out.

`hub.py` starts it, listens, and may end it at any instant; it ends by itself when whoever started it is gone. What has
come of a file by then is gone on from, and a file counts only once its checksum is the one that the hub lists.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

EVERY = 0.3  # seconds between words on progress
PATIENCE = 20.0  # seconds for an answer that is no file
LISTED = 20_000  # files of a repository
CHUNK = 1 << 22  # bytes that are read at once
PIECE = 1 << 15  # bytes that are written at once, and told: a slow line is not a silent one
LOCK = "yoso-studio.lock"
RANGE_REFUSED, SERVER_ERROR = 416, 500
ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's hash of a small file, SHA-256 of a large one
COMMIT = re.compile(r"[0-9a-f]{40}")
SECRET = re.compile(r"hf_\w+")


class Refused(Exception):
    """What a hub hands out can't be taken; a few words say why."""


class Teller:
    """Says how far a job is.

    Args:
        limit: bytes after which the hub sends more than it lists.
        sized: whether `limit` is what is to come; else what the server says is told.
    """

    def __init__(self, limit: int, sized: bool = True) -> None:
        self.limit, self.total, self.done, self._told = limit, limit if sized else 0, 0, 0.0

    def count(self, number: int) -> None:
        self.done += number
        if self.done > self.limit:
            raise Refused("it sends more than it lists")
        if number:
            self.tell_now_and_then()

    def tell_now_and_then(self) -> None:
        if time.monotonic() - self._told > EVERY:
            self.tell()

    def tell(self, **more: Any) -> None:
        self._told = time.monotonic()
        say(done=self.done, total=self.total, **more)

    def bar(self) -> type:
        """What the hub's client shows its progress on."""
        from tqdm import tqdm

        teller = self

        class Told(tqdm):
            def __init__(self, *given: Any, **options: Any) -> None:
                options.pop("name", None)
                super().__init__(*given, **options | {"disable": True})
                teller.total = teller.total or int(options.get("total") or 0)
                teller.count(int(options.get("initial") or 0))

            def update(self, number: float | None = 1) -> None:
                teller.count(int(number or 0))

        return Told


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def list_repositories(job: dict[str, Any]) -> None:
    """What each repository holds, and at which commit."""
    import huggingface_hub as hub

    api = hub.HfApi(token=None if job["token"] else False)
    for place, revision in job["list"]:
        try:
            if "://" in place:
                say(
                    place=place,
                    commit="",
                    files={place.rpartition("/")[2]: _length(hub, place)},
                    licence="",
                    terms=False,
                )
                continue
            told = api.model_info(place, revision=revision or None, files_metadata=True, timeout=PATIENCE)
            files = told.siblings or []
            if not COMMIT.fullmatch(told.sha or "") or (revision and told.sha != revision):
                raise Refused("it answers for another commit")
            if len(files) > LISTED:
                raise Refused(f"it lists {len(files)} files")
            sizes = {one.rfilename: one.size for one in files if type(one.size) is int and one.size >= 0}
            card = told.card_data.to_dict() if told.card_data else {}
            licence = next((card[key] for key in ("license_name", "license") if isinstance(card.get(key), str)), "")
            say(place=place, commit=told.sha, files=sizes, licence=licence, terms=bool(told.gated))
        except Exception as error:
            say(place=place, lacking=_reason(error, place))


def _length(hub: Any, address: str) -> int:
    answer = hub.get_session().head(address, follow_redirects=True, timeout=PATIENCE)
    answer.raise_for_status()
    return int(answer.headers["Content-Length"])


def bring_files(job: dict[str, Any]) -> None:
    """Files of a repository at a commit, into the cache of the hub's own client."""
    import huggingface_hub as hub

    place, commit, cache = job["place"], job["commit"], Path(job["cache"])
    name = f"models--{place.replace('/', '--')}"
    token = None if job["token"] else False
    teller = Teller(sum(job["sizes"].values()))

    def waiting() -> None:
        say(done=min(_held(cache / name), teller.limit), total=teller.limit, waits=True)

    with _locked(cache / ".locks" / name / LOCK, waiting):
        if job["record"]:
            (cache / name / "refs").mkdir(parents=True, exist_ok=True)
            (cache / name / "refs" / job["record"]).write_text(commit)
        for file, size in job["sizes"].items():
            _bring(hub, place, commit, file, size, cache / name, token, teller)
            hub.hf_hub_download(place, file, revision=commit, cache_dir=cache, token=token)
            teller.tell()


def _bring(
    hub: Any, place: str, commit: str, file: str, size: int, folder: Path, token: bool | None, teller: Teller
) -> None:
    """One file as the blob that the hub's client looks for; where a part of it is here, the rest."""
    url = hub.hf_hub_url(place, file, revision=commit)
    told = hub.get_hf_file_metadata(url, token=token, timeout=PATIENCE)
    if told.commit_hash != commit or not ETAG.fullmatch(told.etag or ""):
        raise Refused(f"{file:.80} has no checksum at this commit")
    if told.size != size:
        raise Refused(f"{file:.80} is of another size than the hub lists")
    blob = folder / "blobs" / told.etag
    if blob.exists():
        teller.count(size)
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{told.etag}.incomplete")
    with open(partial, "ab") as out:
        if out.tell() > size:
            out.truncate(0)
        here = out.tell()
        if here == size:  # which the client takes for done
            teller.count(here)
        headers = hub.utils.build_hf_headers(token=token)
        _read(url, out, resume_size=here, headers=headers, expected_size=size, tqdm_class=teller.bar())
    if _checksum(partial, told.etag, teller) != told.etag:
        partial.unlink()
        raise Refused(f"{file:.80} did not come as the hub lists it (its checksum differs)")
    partial.replace(blob)


def _read(url: str, file: BinaryIO, **options: Any) -> None:
    """Write what comes from an address to a file, as the hub's client does, in smaller pieces than it would."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    constants.DOWNLOAD_CHUNK_SIZE = PIECE
    http_get(url, file, **options)


def _checksum(path: Path, like: str, teller: Teller) -> str:
    """Of the kind that `like` is."""
    made = hashlib.sha256() if len(like) == 64 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with open(path, "rb") as file:
        while data := file.read(CHUNK):
            made.update(data)
            teller.tell_now_and_then()
    return made.hexdigest()


def bring_address(job: dict[str, Any]) -> None:
    """One file of the web; what has come of it is gone on from."""
    from huggingface_hub.errors import HfHubHTTPError

    out = Path(job["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out.parent).free < job["limit"]:
        raise Refused("the disk has no room")
    teller = Teller(job["limit"], sized=False)
    with _locked(out.with_name(f"{out.name}.lock"), lambda: teller.tell(waits=True)):
        if out.exists():
            return
        partial = out.with_name(f"{out.name}.incomplete")
        try:
            with open(partial, "ab") as file:
                _read(job["address"], file, resume_size=file.tell(), tqdm_class=teller.bar())
        except HfHubHTTPError as error:
            if error.response.status_code == RANGE_REFUSED:  # what is here is no part of what is there
                partial.unlink()
            raise
        partial.replace(out)
        teller.tell()


def convert_file(job: dict[str, Any]) -> None:
    """What was fetched as what is read here."""
    from yoso_core import convert

    source, out = Path(job["source"]), Path(job["out"])
    if job["convert"] == "lora":
        sha256 = convert.take_lora(source, out)
    elif job["convert"] == "network":
        sha256 = convert.convert_network(source, out)
    else:
        _, sha256 = convert.convert_translator(source, out)
    say(sha256=sha256)


def remove_files(job: dict[str, Any]) -> None:
    """Commits of repositories out of the cache, but for files that stay, and what has come of others unless that stays;
    how many bytes that frees.
    """
    import huggingface_hub as hub

    cache, freed = Path(job["cache"]), 0
    for place, commit, stays, comes in job["remove"]:
        name = f"models--{place.replace('/', '--')}"
        with _locked(cache / ".locks" / name / LOCK, None):
            before = _held(cache / name)
            for partial in () if comes else (cache / name / "blobs").glob("*.incomplete"):
                partial.unlink(missing_ok=True)
            if stays or comes:
                _remove_others(cache / name, commit, stays)
                freed += before - _held(cache / name)
                continue
            found = hub.scan_cache_dir(cache)
            # Of this one alone: the client takes commits for unique, and a copy of a repository has the same ones.
            ours = [repo for repo in found.repos if (repo.repo_type, repo.repo_id) == ("model", place)]
            if any(commit == each.commit_hash for repo in ours for each in repo.revisions):
                replace(found, repos=frozenset(ours)).delete_revisions(commit).execute()
            if not any((cache / name / "snapshots").glob("*")):
                shutil.rmtree(cache / name, ignore_errors=True)
            freed += before - _held(cache / name)
    say(freed=freed)


def _remove_others(folder: Path, commit: str, stays: list[str]) -> None:
    """The files of a commit but for some, where no other commit has them too."""
    snapshot = folder / "snapshots" / commit
    for path in [path for path in snapshot.rglob("*") if path.is_symlink() or path.is_file()]:
        if path.relative_to(snapshot).as_posix() not in stays:
            path.unlink()
    linked = {path.resolve().name for path in (folder / "snapshots").rglob("*") if path.is_symlink()}
    for blob in (folder / "blobs").glob("*"):
        if blob.name not in linked and blob.suffix != ".incomplete":
            blob.unlink()


def _held(folder: Path) -> int:
    """Bytes of a repository that are on this machine."""
    found = 0
    for path in (folder / "blobs").glob("*"):
        try:
            found += path.stat().st_size
        except OSError:  # renamed by who brings it
            continue
    return found


@contextmanager
def _locked(path: Path, wait: Callable[[], None] | None) -> Iterator[None]:
    """One studio at a time; `wait` is called while another has it, and None gives up at once."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=0 if wait is None else EVERY)
            break
        except Timeout:
            if wait is None:
                raise Refused("another studio is fetching it") from None
            wait()
    try:
        yield
    finally:
        lock.release()


def _reason(error: Exception, place: str) -> str:
    """Why something can't be had, in a few words without secrets."""
    from huggingface_hub import errors

    login = "log in on this machine with `hf auth login`"
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, errors.GatedRepoError):
        return f"its owner asks for agreement: agree on its page at the hub, {place:.100}, and {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such commit"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private: check its name, or {login}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "this machine is set to work offline, by HF_HUB_OFFLINE"
    if isinstance(error, errors.HfHubHTTPError):
        if (status := error.response.status_code) >= SERVER_ERROR:
            return f"the hub is in trouble itself, and answers {status}"
    elif isinstance(error, (errors.HfHubHTTPError.__bases__[0], errors.LocalEntryNotFoundError)):  # of its HTTP client
        return "the hub can't be reached from here"
    if isinstance(error, OSError) and error.errno:
        return f"{os.strerror(error.errno).lower()}"
    return SECRET.sub("hf_...", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


JOBS = {
    "list": list_repositories,
    "sizes": bring_files,
    "address": bring_address,
    "convert": convert_file,
    "remove": remove_files,
}


def work_on(job: dict[str, Any]) -> None:
    """Do a job, and say how it ended."""
    try:
        next(work for key, work in JOBS.items() if key in job)(job)
        say(end=True)
    except Exception as error:  # the hub, its connection, the disk and unpickling raise a dozen unrelated types
        from yoso_core.requests import RequestError

        known = isinstance(error, RequestError)
        say(error=str(error).replace(job.get("source", "\0"), "it") if known else _reason(error, job.get("place", "")))


def main() -> None:
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work_on(job)


if __name__ == "__main__":
    main()
