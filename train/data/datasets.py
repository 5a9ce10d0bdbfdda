"""Pictures that people hand over for a training run: captioned, and looked over before it starts.

A data set is a folder that `train.data.reader` reads as it is: pictures, and a ``metadata.jsonl`` with a line a
picture. Nothing of it is kept in memory, so whoever names the folder sees the same. How files get into it:
`train.data.intake`.
"""

import json
import math
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image

from train.data.gathering import LISTING
from train.data.intake import INCOMING, PHRASINGS, Intake, Limits, bytes_of, files_in, files_of
from train.data.listings import Problem, words_of
from train.data.reader import Seen, inside, list_files, open_usable, scan, with_captions
from train.loop.config import ConfigError
from yoso_core.files.pictures import fitted
from yoso_core.requests import RequestError, check_text

WAITING = ".captions.json"  # of pictures that have not come yet
KEPT = ("file_name", "input_file_name", "captions", "given", "held_out", "repeats")  # of a picture's row
LOCK = ".lock"
PATIENCE = 600  # seconds to wait for whoever is changing the same data set
BETWEEN = re.compile(r"(?:^|\s)\|(?=\s|$)")  # phrasings on one line
THUMBNAILS, THUMBNAIL_SIDE = 200, 96  # how many, pixels
NAMED = 3  # skipped pictures that a summary names
FEW = 10  # pictures

OWN = Limits(20_000, 100_000_000, 20_000_000_000, 50_000)  # a machine of one's own
SHARED = Limits(500, 20_000_000, 200_000_000, 2_000)  # one of many users


@dataclass(frozen=True)
class Row:
    """A picture as training would take it.

    Attributes:
        file: its name in the data set.
        width, height: in pixels, upright; 0 where it can't be read.
        captions: its phrasings.
        from_name: whether the words of the file's name stand in for a caption.
        used: whether it is trained on.
        same_as: the file whose bytes it has, which is used for both; "" where there is none before it.
        notes: what is done to it, or why it is left out, in plain words.
        thumbnail: RGB, 96 x 96, what training sees of it; None beyond the first 200.
        repeats: how often an epoch sees it.
    """

    file: str
    width: int
    height: int
    captions: tuple[str, ...]
    from_name: bool
    used: bool
    same_as: str
    notes: tuple[str, ...]
    thumbnail: Image.Image | None
    repeats: int


@dataclass(frozen=True)
class Report:
    """A data set, looked over.

    Attributes:
        rows: one a picture, used or not.
        bytes: of the pictures on disk.
        size: side of the pictures that training would take, in pixels.
    """

    rows: tuple[Row, ...]
    bytes: int
    size: int

    def sentences(self) -> list[str]:
        """What there is to say of it in all."""
        used = [row for row in self.rows if row.used]
        again = [row for row in self.rows if row.same_as]
        skipped = [row for row in self.rows if not row.used and not row.same_as]
        sentences = [] if used else ["No picture can be used."]

        def tell(rows: Sequence[Row], one: str, many: str) -> None:
            if rows:
                sentences.append(f"{len(rows):,} {one if len(rows) == 1 else many}.")

        tell(used, "picture can be used", "pictures can be used")
        tell(skipped, f"is skipped: {_reasons(skipped)}", f"are skipped: {_reasons(skipped)}")
        once = "every picture is used once, with the captions of all its files"
        tell(again, f"is there already: {once}", f"are there already: {once}")
        cropped = [row for row in used if row.width != row.height]
        tell(cropped, "is cropped to its middle", "are cropped to their middle")
        small = [row for row in used if min(row.width, row.height) < self.size]
        taken = f"training takes {self.size} x {self.size} pixels"
        tell(small, f"is enlarged: {taken}", f"are enlarged: {taken}")
        tell(
            [row for row in used if row.from_name],
            "has no caption of its own: the words of its file name are used",
            "have no caption of their own: the words of their file names are used",
        )
        for repeats in sorted({row.repeats for row in used} - {1}):
            often = f"seen {repeats} times an epoch, as their folder's name or their list has it"
            tell([row for row in used if row.repeats == repeats], f"is {often}", f"are {often}")
        if sizes := sorted({(row.width, row.height) for row in used}, key=math.prod):
            least, most = (f"{width} x {height}" for width, height in (sizes[0], sizes[-1]))
            one = len(sizes) == 1
            sentences.append(f"All have {least} pixels." if one else f"Sizes are from {least} to {most} pixels.")
        if 0 < len(used) < FEW:
            sentences.append(f"Fewer than {FEW} pictures: the style will be learned poorly.")
        return sentences


def _reasons(skipped: Sequence[Row]) -> str:
    told = []
    for row in skipped[:NAMED]:
        reason = "".join(row.notes[-1:]).partition(": ")[2].rstrip(".")
        told.append(f"{row.file} ({reason or 'it was being changed'})")
    more = f" and {len(skipped) - NAMED:,} more" if len(skipped) > NAMED else ""
    return ", ".join(told) + more


class Dataset:
    """A folder of pictures for training; it appears when something is added.

    Args:
        folder: of its own, on a disk that has room.
        limits: how much it takes in.
    """

    def __init__(self, folder: Path, limits: Limits = OWN) -> None:
        self.folder, self.limits = Path(folder), limits

    def add(self, paths: Iterable[str | Path], names: Sequence[str] | None = None) -> list[Problem]:
        """Take in pictures, captions beside them or in lists, and zips of these, as `train.data.reader` reads them.

        Captions go to the picture of the same name, whatever came first. The files are copied.

        Args:
            paths: files on this machine, which may have names of their own.
            names: what their owner calls them, with the folders that they lie in if that is known; None for the files'
                own.

        Returns:
            What could not be used.

        Raises:
            ConfigError: the disk takes no more; what was taken in before stays.
        """
        paths = [Path(path) for path in paths]
        with self._changing() as change:
            change.take_files(paths, [path.name for path in paths] if names is None else names)
        return change.problems

    def add_folder(self, path: str | Path) -> list[Problem]:
        """Take in the pictures of a folder of this machine, as `train.data.reader` reads it.

        They are hard-linked where that is possible, else copied; the folder stays as it is.

        Returns:
            What could not be used.

        Raises:
            ConfigError: no such folder, one that holds this data set or lies in it, or the disk takes no more.
        """
        files, problems = files_in(path, apart=self.folder)
        with self._changing() as change:
            change.problems += problems
            change.take(files)
            change.tell_waiting()
        return change.problems

    def remove(self, names: Iterable[str]) -> None:
        """Delete pictures with their captions; what is not there is no error."""
        names = set(names)
        with self._changing() as change:
            change.rows = [row for row in change.rows if row["file_name"] not in names]

    def captions(self) -> dict[str, list[str]]:
        """The phrasings of every picture by its file's name; [] where it has no caption of its own."""
        return {row["file_name"]: row["captions"] for row in self._rows()}

    def open(self, name: str) -> Image.Image:
        """One of the pictures: RGB, upright.

        Raises:
            ConfigError: it is not there, or can't be read.
        """
        path = inside(self.folder.resolve(), name)
        if path is None:
            raise ConfigError(f"there is no picture {name!r:.120}")
        try:
            return open_usable(path).picture
        except RequestError as error:
            raise ConfigError(f"{name} can't be used: {error}") from None

    def set_captions(self, changes: Mapping[str, str]) -> None:
        """Replace captions, all or none of them.

        Args:
            changes: texts by the name of the picture; phrasings stand on lines of their own or between " | ", and a
                text without any is no caption.

        Raises:
            ConfigError: there is no such picture, or a caption is too long or no text.
        """
        phrasings = {name: _phrasings(name, text) for name, text in changes.items()}
        with self._changing() as change:
            if unknown := sorted(phrasings.keys() - {row["file_name"] for row in change.rows}):
                raise ConfigError(f"there is no picture {unknown[0]!r:.120}; it may have been removed")
            for row in change.rows:
                row["captions"] = phrasings.get(row["file_name"], row["captions"])

    def add_words(self, words: str) -> None:
        """End every phrasing of every picture with some words, such as a trigger, unless it holds them.

        A picture without a caption gets the words of its file's name first.

        Raises:
            ConfigError: no words, or a caption would be too long.
        """
        words = " ".join(_checked("The words", words).split())
        if not words:
            raise ConfigError("there are no words to add; type some")
        there = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)
        with self._changing() as change:
            for row in change.rows:
                name = row["file_name"]
                old = row["captions"] or list(filter(None, [words_of(name)]))
                new = [one if there.search(one) else f"{one}, {words}" for one in old] or [words]
                row["captions"] = [_checked(f"The caption of {name}", one) for one in new]

    def check(self, size: int, report: Callable[[int, int], None] = lambda done, total: None) -> Report:
        """Look over all pictures, reading them as training would.

        Args:
            size: side of the pictures that training would take, in pixels.
            report: told how many of how many pictures are read.
        """
        if not self.folder.is_dir():
            return Report((), 0, size)
        own = {row["file_name"]: row for row in self._rows()}
        listing = with_captions(list_files(self.folder))
        seen: dict[str, Seen] = {}
        notes: dict[str, list[str]] = defaultdict(list)
        thumbnails: dict[str, Image.Image] = {}
        for done, one in enumerate(scan(self.folder, listing, size), 1):
            name = one.row["file_name"]
            if one.pixels is not None and len(thumbnails) < THUMBNAILS:
                thumbnails[name] = fitted(Image.fromarray(one.pixels), THUMBNAIL_SIDE)
            if one.cropped:
                notes[name].append(one.cropped)
            seen[name] = one._replace(pixels=None)
            report(done, len(listing.rows))
        for problem in listing.problems:
            notes[problem.file].append(problem.sentence)
        rows = []
        for name in dict.fromkeys([*own, *notes]):
            row = own.get(name, {})
            one = seen.get(name, Seen(row))
            if row.get("held_out"):
                notes[name].append("left out: it is marked as held out")
            captions = tuple(one.row.get("captions", ()))
            from_name = name in seen and not row.get("captions")
            shown = one.width, one.height, captions, from_name, one.used, one.same_as
            rows.append(Row(name, *shown, tuple(notes[name]), thumbnails.get(name), one.row.get("repeats", 1)))
        return Report(tuple(rows), bytes_of(self.folder, files_of(own.values())), size)

    def _rows(self) -> list[dict]:
        return list_files(self.folder, keep=lambda row: True).rows if self.folder.is_dir() else []

    @contextmanager
    def _changing(self) -> Iterator[Intake]:
        """What is done to the intake is done to the folder at the end; one at a time.

        An error changes nothing, but when the disk takes no more pictures, those before stay.
        """
        staging, failed, rest = self.folder / INCOMING, None, ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK, timeout=PATIENCE):
                shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
                staging.mkdir()
                try:
                    change = Intake(self.limits, self.folder, self._rows(), self._waiting())
                    before = files_of(change.rows)
                    try:
                        yield change
                    except OSError as error:
                        failed = error
                        rest = f"{len(change.arrived):,} of these pictures were taken in before, add the others again"
                    self._keep(change, before)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
        except Timeout:
            raise ConfigError("the pictures are being changed by somebody else; try again in some minutes") from None
        except OSError as error:
            failed, rest = error, "nothing was changed"
        if failed is not None:
            why = f"the disk does not take the pictures ({failed.strerror or failed!s:.120})"
            raise ConfigError(f"{why}; make room and try again: {rest}") from failed

    def _waiting(self) -> dict[str, dict]:
        try:
            return json.loads((self.folder / WAITING).read_bytes())
        except (OSError, ValueError):
            return {}

    def _keep(self, change: Intake, before: Iterable[str]) -> None:
        """The listing is replaced in one go, and written first: whatever ends this leaves the old one or the new."""
        listing, waiting = change.staging / LISTING, change.staging / WAITING
        with open(listing, "w", encoding="utf-8", newline="\n") as file:
            for row in change.rows:
                kept = {key: row[key] for key in KEPT if row.get(key)}
                file.write(json.dumps(kept) + "\n")
            file.flush()
            os.fsync(file.fileno())
        waiting.write_text(json.dumps(change.waiting), encoding="utf-8")
        for name, staged in change.arrived.items():
            os.replace(staged, self.folder / name)
        os.replace(listing, self.folder / LISTING)
        os.replace(waiting, self.folder / WAITING)
        for name in set(before) - set(files_of(change.rows)):
            (self.folder / name).unlink(missing_ok=True)


def _checked(name: str, text: str) -> str:
    try:
        return check_text(name, text)
    except RequestError as error:
        raise ConfigError(str(error)) from None


def _phrasings(name: str, text: str) -> list[str]:
    """The phrasings of a text, each once; a ConfigError where one is too long or no text, or there are too many."""
    if not isinstance(text, str):
        raise ConfigError(f"the caption of {name} must be text")
    pieces = (piece for line in text.splitlines() for piece in BETWEEN.split(line))
    found = list(dict.fromkeys(filter(None, (_checked(f"The caption of {name}", piece).strip() for piece in pieces))))
    if len(found) > PHRASINGS:
        raise ConfigError(f"{name} has {len(found):,} captions; at most {PHRASINGS} are taken")
    return found
