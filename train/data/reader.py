"""Folders of pictures, read: what they list, and what their pictures hold.

`list_files` and `read_listing` open no picture; `scan` reads them, a few in memory at a time.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from train.data.gathering import LISTING, File, add_captions, and_more, gather, see_again, stem
from train.data.listings import Problem, words_of
from train.loop.config import ConfigError
from train.recipes.corpus.emoji import CORPUS
from yoso_core.files.archives import open_file
from yoso_core.files.pictures import Opened, fit_note, fitted, open_picture
from yoso_core.requests import RequestError

SHORTEST_SIDE = 16  # pixels; what is smaller shows nothing
AHEAD = 64  # pictures read before they are asked for; the only ones in memory
READERS = min(8, os.cpu_count() or 1)  # threads; each may hold a picture of 25 megapixels
MISSING_TOLD = 20  # files that a list names and nobody has

Keep = Callable[[dict], bool]
Shape = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Listing:
    """The usable pictures of a folder.

    Attributes:
        rows: one a picture: "file_name", relative to the folder; "captions", a list of phrasings, at least one;
            "held_out"; "repeats" where an epoch sees it more than once; "input_file_name" where it is to be made of
            another; and whatever else a list says of it.
        problems: of the files skipped, and of those used with a note.
    """

    rows: list[dict]
    problems: list[Problem]


def not_held_out(row: dict) -> bool:
    """What may be trained on: all but what a list says is ``"held_out": true``, and tests beside a ``train``."""
    return not row.get("held_out")


def read_listing(folder: Path, keep: Keep = not_held_out) -> Listing:
    """What a folder says about its pictures; none is opened.

    All pictures count, subfolders' too, each with the lines of the ``.txt`` or ``.caption`` file of its name, and with
    what lists say of it: JSON, JSON lines or CSV, see `rows_in`. Where there is a list, pictures beside it count if it
    names them or they have a caption of their own. A picture without a caption gets the words of its file name. No
    file outside the folder is touched, whatever a line or a link says.

    Args:
        folder: of pictures.
        keep: which rows to take.

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
        build = "build the bundled corpus with python -m train.recipes.corpus.emoji"
        raise ConfigError(f"there is no folder {folder}; {build if bundled else 'name a folder of pictures'}")
    files, problems = walk(folder.resolve())
    found = gather(files)
    rows: dict[Path | None, dict] = {}  # by file, links followed
    for file in found.pictures:
        said = [found.told[key] for key in found.keys_of(file)]
        row = {key: value for one in said for key, value in one.items()} | {"file_name": file.path, "captions": []}
        if (given := found.inputs.get(file.key)) is not None:
            row["input_file_name"] = given.path
        row = rows.setdefault(file.link, row | {"held_out": False})
        add_captions(row, found.captions_of(file))
        row["held_out"] |= any(one["held_out"] for one in said)
        see_again(row, found.repeats_of(file))
    here = {key for file in files for key in (file.key, stem(file.key))}
    missing = [name for key, name in found.listed if key not in here and keep(found.told[key])]
    problems += found.problems
    problems += [Problem(name, "skipped: there is no such file") for name in missing[:MISSING_TOLD]]
    if more := missing[MISSING_TOLD:]:
        problems.append(Problem(more[0], and_more("skipped: there is no such file", more)))
    return Listing([row for row in rows.values() if keep(row)], problems)


def walk(root: Path) -> tuple[list[File], list[Problem]]:
    """The files of a folder and its subfolders, hidden ones apart, and what leads out of it.

    Raises:
        ConfigError: its ``metadata.jsonl`` leads out.
    """
    files, problems = [], []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        name = relative.as_posix()
        folder = path.is_dir() and not path.is_symlink()  # linked folders are not entered, and that is told
        if folder or any(part.startswith(".") for part in relative.parts):
            continue
        place = inside(root, name)
        if place is not None and _is_file(place):
            files.append(File(name, name, place.stat().st_size, partial(open_file, place), place))
        elif name == LISTING:
            raise ConfigError(f"{root / LISTING} leads out of the folder or is no file")
        else:
            problems.append(Problem(name, "skipped: it leads out of the folder or is no file"))
    return files, problems


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
        pixels: (S, S, 3) uint8, or as `shape` has it; None where it can't be used.
    """

    row: dict
    used: bool = False
    width: int = 0
    height: int = 0
    same_as: str = ""
    digest: str = ""
    cropped: str = ""
    pixels: np.ndarray | None = None


def scan(folder: Path, listing: Listing, size: int, shape: Shape | None = None) -> Iterator[Seen]:
    """Read the pictures of a listing in its order, every one to its last byte, a few in memory at a time.

    Adds to the listing's problems as it goes. A picture that is there twice is used once; the captions of the second
    are added to the first one's row, which therefore is whole only after the last picture.

    Args:
        folder: of the listing.
        listing: see `read_listing`.
        size: side of the squares to make of the pictures, in pixels; the middle of each is taken.
        shape: makes something else of them.
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
        cropped = fit_note(opened.picture, 1, "crop") or ""  # ordinary for photographs: no note of training's
        pixels = np.asarray(fitted(opened.picture, size) if shape is None else shape(opened.picture))
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
                see_again(same, row.get("repeats", 1))
                sentence = f"the same picture as {same['file_name']}: used once, with the captions of both"
                listing.problems.append(Problem(name, sentence))
                yield seen._replace(used=False, same_as=same["file_name"])
