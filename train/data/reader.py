"""The one reader of captioned pictures as people have them: what a folder says, and what its pictures hold."""

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.loop.config import ConfigError
from train.recipes.corpus.emoji import CORPUS
from yoso_core.files.pictures import Opened, open_picture, square, square_note
from yoso_core.requests import RequestError, check_text

SHORTEST_SIDE = 16  # pixels; what is smaller shows nothing
AHEAD = 64  # pictures read before they are asked for; the only ones in memory
READERS = min(8, os.cpu_count() or 1)  # threads; each may hold a picture of 25 megapixels
LISTING = "metadata.jsonl"
NO_PICTURES = {".txt", ".md", ".csv", ".json", ".jsonl"}  # lie beside pictures and are not tried

Keep = Callable[[dict], bool]


class Problem(NamedTuple):
    """A file that was skipped, or used in another way than it stands there."""

    file: str
    sentence: str

    def __str__(self) -> str:
        """In one line that any terminal takes: file names may hold bytes that are no text, and control characters."""
        return "".join(one if one.isprintable() else "?" for one in f"{self.file}: {self.sentence}")


@dataclass(frozen=True)
class Listing:
    """The usable pictures of a folder.

    Attributes:
        rows: one a picture: "file_name", relative to the folder; "captions", a list of phrasings, at least one; and
            whatever else its line in ``metadata.jsonl`` says.
        problems: of the files skipped, and of those used with a note.
    """

    rows: list[dict]
    problems: list[Problem]


def not_held_out(row: dict) -> bool:
    """What may be trained on: all but the lines that say ``"held_out": true``."""
    return not row.get("held_out")


def read_listing(folder: Path, keep: Keep = not_held_out) -> Listing:
    """What a folder says about its pictures; none is opened.

    If there is a ``metadata.jsonl``, its lines say it: JSON objects with ``file_name``, and ``captions``, ``text`` or
    ``caption``, a text or a list of texts; a file listed twice has the captions of both lines. Otherwise all files
    count, subfolders' too, each with the lines of the ``.txt`` file of its name. A picture without a caption gets the
    words of its file name. No file outside the folder is touched, whatever a line or a link says.

    Args:
        folder: of pictures.
        keep: which lines to take.

    Raises:
        ConfigError: there is no such folder, or nothing usable in it.
    """
    listing = with_captions(list_files(folder, keep))
    return Listing(some(listing.rows, listing.problems, folder), listing.problems)


def list_files(folder: Path, keep: Keep = not_held_out) -> Listing:
    """As `read_listing`, before file names are asked for words: "captions" may be empty, and so may be the listing.

    Raises:
        ConfigError: there is no such folder, or its ``metadata.jsonl`` is none of its own.
    """
    if not folder.is_dir():
        bundled = folder.absolute() == CORPUS.absolute()
        what = (
            "build the bundled corpus with python -m train.recipes.corpus.emoji"
            if bundled
            else "name a folder of pictures"
        )
        raise ConfigError(f"there is no folder {folder}; {what}")
    root, problems = folder.resolve(), []
    source = _listed_rows if (root / LISTING).exists() else _found_rows
    listed = list(source(root, problems))
    held_out = {row["file_name"] for row in listed if row.get("held_out")}  # saying it once is enough
    rows: dict[Path, dict] = {}
    for row in filter(keep, (row | {"held_out": True} if row["file_name"] in held_out else row for row in listed)):
        name = row["file_name"]
        path = inside(root, name)
        if path is None:
            problems.append(Problem(name, "skipped: it leads out of the folder"))
        elif not _is_file(path):
            problems.append(Problem(name, "skipped: there is no such file"))
        else:
            add_captions(rows.setdefault(path, row | {"captions": []}), captions_of(row, problems))
    return Listing(list(rows.values()), problems)


def with_captions(listing: Listing) -> Listing:
    """The words of their file names for pictures that have no caption; those without words are left out."""
    rows, problems = [], list(listing.problems)
    for row in listing.rows:
        name, captions = row["file_name"], row["captions"]
        if not captions and (words := words_of(name)):
            problems.append(Problem(name, f'it has no caption: "{words}", from its file name, is used'))
            captions = [words]
        if captions:
            rows.append(row | {"captions": list(captions)})
        else:
            problems.append(Problem(name, "skipped: it has no caption"))
    return Listing(rows, problems)


def some(rows: list, problems: list[Problem], folder: Path) -> list:
    if not rows:
        why = f" ({len(problems)} problems, the first: {problems[0]})" if problems else ""
        raise ConfigError(f"no picture in {folder} can be used{why}")
    return rows


def inside(root: Path, name: str) -> Path | None:
    """The file `name` of the folder `root`, links followed; None where that is not inside the folder."""
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):  # links in a circle, names that no file can have
        return None
    return path if path.is_relative_to(root) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _listed_rows(root: Path, problems: list[Problem]) -> Iterator[dict]:
    listing = inside(root, LISTING)
    if listing is None or not _is_file(listing):
        raise ConfigError(f"{root / LISTING} leads out of the folder or is no file")
    yield from rows_in(listing.read_bytes(), LISTING, problems)


def rows_in(content: bytes, name: str, problems: list[Problem]) -> Iterator[dict]:
    """The rows of a ``metadata.jsonl``; `name` says in a problem which one it is."""
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("file_name"), str):
            yield row
        else:
            problems.append(Problem(name, f"skipped: line {number} is no JSON object with a file_name"))


def _found_rows(root: Path, problems: list[Problem]) -> Iterator[dict]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        folder = path.is_dir() and not path.is_symlink()  # linked folders are not entered, and that is told
        if hidden or folder or path.suffix.lower() in NO_PICTURES:
            continue
        lines: list[str] = []
        sidecar = inside(root, str(path.with_suffix(".txt")))
        if sidecar is not None and _is_file(sidecar):
            try:
                lines = sidecar.read_text("utf-8-sig").splitlines()
            except (OSError, ValueError):
                problems.append(Problem(name, "its caption file can't be read as UTF-8 text"))
        yield {"file_name": name, "captions": lines}


def captions_of(row: dict, problems: list[Problem]) -> list[str]:
    """The phrasings that a row says itself; [] where there are none."""
    found = next((row[key] for key in ("captions", "text", "caption") if row.get(key)), [])
    captions = []
    for caption in found if isinstance(found, list) else [found]:
        try:
            captions += [text] if (text := check_text("A caption", caption).strip()) else []
        except RequestError as error:
            problems.append(Problem(row["file_name"], str(error)))
    return captions


def words_of(name: str) -> str:
    """The words of a file name, which stand in for a caption; "" where it has none."""
    words = re.sub(r"[\W_]+", " ", Path(name).stem).strip()
    words = re.sub(r"( \d+)+$", "", words)
    return words if re.search(r"[^\W\d_]", words) else ""


def add_captions(row: dict, captions: list[str]) -> None:
    row["captions"] += [caption for caption in captions if caption not in row["captions"]]


def open_usable(path: Path) -> Opened:
    """As `open_picture`.

    Raises:
        RequestError: it can't be read, or shows nothing because it is too small.
    """
    opened = open_picture(path)
    shortest = min(opened.picture.size)
    if shortest < SHORTEST_SIDE:
        raise RequestError(f"Its shorter side has {shortest} pixels; {SHORTEST_SIDE} are needed.")
    return opened


class Seen(NamedTuple):
    """What became of a picture.

    Attributes:
        row: of the listing.
        used: whether it is trained on; the listing's problems say why not.
        width, height: in pixels, upright; 0 where it can't be used.
        same_as: the file whose bytes it has, which is used for both; "" where there is none before it.
        digest: of the file; "" where it can't be used.
        cropped: what making it square takes away, in words; "" where that is nothing.
        pixels: (S, S, 3) uint8; None where it can't be used.
    """

    row: dict
    used: bool = False
    width: int = 0
    height: int = 0
    same_as: str = ""
    digest: str = ""
    cropped: str = ""
    pixels: np.ndarray | None = None


def scan(folder: Path, listing: Listing, size: int) -> Iterator[Seen]:
    """Read the pictures of a listing in its order, every one to its last byte, a few in memory at a time.

    Adds to the listing's problems as it goes. A picture that is there twice is used once; the captions of the second
    are added to the first one's row, which therefore is whole only after the last picture.

    Args:
        folder: of the listing.
        listing: see `read_listing`.
        size: side of the squares to make of the pictures, in pixels; the middle of each is taken.
    """

    def read(row: dict) -> tuple[Seen, list[str]]:
        path = folder / row["file_name"]
        opened = open_usable(path)
        width, height = opened.picture.size
        notes = list(opened.notes)
        if min(width, height) < size:
            notes.append(f"enlarged: its shorter side has {min(width, height)} of {size} pixels")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        cropped = square_note(opened.picture, "crop") or ""  # ordinary for photographs: no note of training's
        pixels = np.asarray(square(opened.picture, size))
        return Seen(row, True, width, height, digest=digest, cropped=cropped, pixels=pixels), notes

    first: dict[str, dict] = {}
    remaining = iter(listing.rows)
    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque((row, pool.submit(read, row)) for row in islice(remaining, AHEAD))
        while waiting:
            row, future = waiting.popleft()
            waiting.extend((row, pool.submit(read, row)) for row in islice(remaining, 1))
            name = row["file_name"]
            try:
                seen, notes = future.result()
            except (RequestError, OSError) as error:
                listing.problems.append(Problem(name, f"skipped: {error}"))
                yield Seen(row)
                continue
            listing.problems.extend(Problem(name, note) for note in notes)
            same = first.setdefault(seen.digest, row)
            if same is row:
                yield seen
            else:
                add_captions(same, row["captions"])
                sentence = f"the same picture as {same['file_name']}: used once, with the captions of both"
                listing.problems.append(Problem(name, sentence))
                yield seen._replace(used=False, same_as=same["file_name"])
