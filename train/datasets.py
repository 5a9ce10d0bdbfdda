"""Pictures that people hand over for a training run: taken in safely, captioned, and looked over before it starts.

A data set is a folder that `train.data` reads as it is: pictures, and a ``metadata.jsonl`` with a line a picture.
Nothing of it is kept in memory, so whoever names the folder sees the same.
"""

import io
import json
import math
import os
import posixpath
import re
import shutil
import stat
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice, takewhile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from filelock import FileLock, Timeout
from PIL import Image

from train.config import ConfigError
from train.data import (
    AHEAD,
    LISTING,
    NO_PICTURES,
    READERS,
    Problem,
    add_captions,
    captions_of,
    inside,
    list_files,
    open_usable,
    rows_in,
    scan,
    with_captions,
    words_of,
)
from yoso_core.pictures import FORMATS, square
from yoso_core.requests import RequestError, check_text

WAITING = ".captions.json"  # of pictures that have not come yet
LOCK = ".lock"
INCOMING = ".incoming"  # what is being taken in
PATIENCE = 600  # seconds to wait for whoever is changing the same data set
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "GIF": ".gif"}
STEM_CHARACTERS, STEM_BYTES = 90, 180  # of a file's name; file systems take 255 bytes in all
KEY_CHARACTERS = 500
PHRASINGS = 50  # of a picture
BETWEEN = re.compile(r"(?:^|\s)\|(?=\s|$)")  # phrasings on one line
TEXT_BYTES = 400_000  # of a .txt; what it may say has fewer
CHUNK = 2**18  # bytes
DIRECTORY_BYTES = 1000  # of a zip's table of contents, for each member that it may have
PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # only these are unpacked in parts of bounded size
THUMBNAILS, THUMBNAIL_SIDE = 200, 96  # how many, pixels
NAMED = 3  # skipped pictures that a summary names
FEW = 10  # pictures


@dataclass(frozen=True)
class Limits:
    """How much a data set takes in.

    Attributes:
        pictures: how many.
        file_bytes: of a picture.
        total_bytes: of all pictures, and of what a zip unpacks to.
        zip_members: files and folders in a zip.
    """

    pictures: int
    file_bytes: int
    total_bytes: int
    zip_members: int


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
        if used:
            least, *_, most = sorted(((row.width, row.height) for row in used * 2), key=math.prod)
            sizes = [f"{width} x {height}" for width, height in (least, most)]
            sentences.append(
                f"All have {sizes[0]} pixels." if least == most else f"Sizes are from {' to '.join(sizes)} pixels."
            )
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


class _Given(NamedTuple):
    """A file as it is handed over.

    Attributes:
        name: what its owner calls it.
        key: see `_key`.
        bytes: what it is said to have.
        open: for reading.
        said: its captions, where it comes with them.
        link: where it lies, if it may stay there as well.
    """

    name: str
    key: str
    bytes: int
    open: Callable[[], BinaryIO]
    said: dict | None = None
    link: Path | None = None


@dataclass
class _Change:
    """A data set while it is changed.

    Attributes:
        rows: of the listing; "given" is the key that the picture came with.
        waiting: captions of pictures that have not come, by key.
        staging: folder for files on their way.
        taken: names that no new file can have, in lower case.
        bytes: of all pictures.
        problems: of what is being added.
        arrived: files in `staging` and the names that they get.
        gone: files to delete.
        numbers: how many files had a name before, by name.
        late: where captions come from, by key; some will wait.
        staged: numbers for the names of files in `staging`.
    """

    rows: list[dict]
    waiting: dict[str, dict]
    staging: Path
    taken: set[str]
    bytes: int
    problems: list[Problem] = field(default_factory=list)
    arrived: list[tuple[Path, str]] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)
    numbers: Counter = field(default_factory=Counter)
    late: dict[str, str] = field(default_factory=dict)
    staged: Iterator[int] = field(default_factory=count)


class Dataset:
    """A folder of pictures for training; it appears when something is added.

    Args:
        folder: of its own, on a disk that has room.
        limits: how much it takes in.
    """

    def __init__(self, folder: Path, limits: Limits = OWN) -> None:
        self.folder, self.limits = Path(folder), limits

    def add(self, paths: Iterable[str | Path], names: Sequence[str] | None = None) -> list[Problem]:
        """Take in pictures, ``.txt`` captions, zips of both, and lists named ``metadata.jsonl``.

        Captions go to the picture of the same name, whatever came first. The files are copied.

        Args:
            paths: files on this machine, which may have names of their own.
            names: what their owner calls them; None for the files' own.

        Returns:
            What could not be used.

        Raises:
            ConfigError: the disk takes no more; what was taken in before stays.
        """
        paths = [Path(path) for path in paths]
        names = [path.name for path in paths] if names is None else [_last(name) for name in names]
        zips, loose = [], []
        with self._taking() as change:
            for path, name in zip(paths, names, strict=True):
                size = _file_size(path)
                if size is None:
                    change.problems.append(Problem(name, "skipped: there is no such file"))
                elif name.lower().endswith(".zip"):
                    zips.append((path, name))
                else:
                    loose.append(_Given(name, _key(name), size, partial(open, path, "rb")))
            self._take(loose, change, nested=False)
            for path, name in zips:
                self._take_zip(path, name, change)
            late = Counter(name for key, name in change.late.items() if key in change.waiting)
            for name, number in late.items():
                what = "its caption waits for its picture" if number == 1 else f"{number:,} captions wait for pictures"
                change.problems.append(Problem(name, f"{what}: nothing of that name is here yet"))
        return change.problems

    def add_folder(self, path: str | Path) -> list[Problem]:
        """Take in the pictures of a folder of this machine, as `train.data.list_files` finds them.

        They are hard-linked where that is possible, else copied; the folder stays as it is.

        Returns:
            What could not be used.

        Raises:
            ConfigError: no such folder, one that holds this data set or lies in it, or the disk takes no more.
        """
        try:
            source = Path(path).expanduser().resolve()
            own = self.folder.resolve()
            if source.is_relative_to(own) or own.is_relative_to(source):
                raise ConfigError(f"the folder {source} and the pictures handed over lie in each other; name another")
            listing = list_files(source)
            files = []
            for row in listing.rows:
                name, file = row["file_name"], inside(source, row["file_name"])
                said = {"captions": _short(row["captions"], name, listing.problems)}
                files.append(_Given(name, _key(name), _file_size(file) or 0, partial(open, file, "rb"), said, file))
        except ConfigError:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no such user's home
            raise ConfigError(f"the folder {str(path)!r:.200} can't be read ({error!s:.80})") from None
        with self._taking() as change:
            change.problems += listing.problems
            self._take(files, change)
        return change.problems

    def remove(self, names: Iterable[str]) -> None:
        """Delete pictures with their captions; what is not there is no error."""
        names = set(names)
        with self._changing() as change:
            change.gone = [self.folder / row["file_name"] for row in change.rows if row["file_name"] in names]
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
        seen, thumbnails = {}, {}
        for done, one in enumerate(scan(self.folder, listing, size), 1):
            name = one.row["file_name"]
            if one.pixels is not None and len(thumbnails) < THUMBNAILS:
                thumbnails[name] = square(Image.fromarray(one.pixels), THUMBNAIL_SIDE)
            seen[name] = one._replace(pixels=None)
            report(done, len(listing.rows))
        notes = defaultdict(list)
        for name, one in seen.items():
            notes[name] += [one.cropped] if one.cropped else []
        for problem in listing.problems:
            notes[problem.file].append(problem.sentence)
        rows = []
        for name in dict.fromkeys([*own, *notes]):
            row, one = own.get(name, {}), seen.get(name)
            if row.get("held_out"):
                notes[name].append("left out: it is marked as held out")
            rows.append(
                Row(
                    file=name,
                    width=one.width if one else 0,
                    height=one.height if one else 0,
                    captions=tuple(one.row["captions"] if one else row.get("captions", ())),
                    from_name=one is not None and not row.get("captions"),
                    used=one is not None and one.used,
                    same_as=one.same_as if one else "",
                    notes=tuple(notes[name]),
                    thumbnail=thumbnails.get(name),
                )
            )
        return Report(tuple(rows), _bytes_of(self.folder, own), size)

    def _rows(self) -> list[dict]:
        return list_files(self.folder, keep=lambda row: True).rows if self.folder.is_dir() else []

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        """What is done to the change is done to the folder at the end, unless there is an error; one at a time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            staging = self.folder / INCOMING
            with self._locked():
                shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
                staging.mkdir()
                try:
                    rows = self._rows()
                    names = [row["file_name"] for row in rows]
                    taken = {name.casefold() for name in [*names, *os.listdir(self.folder)]}
                    change = _Change(rows, self._waiting(), staging, taken, _bytes_of(self.folder, names))
                    yield change
                    self._keep(change)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise _no_room(error, "nothing was changed") from error

    @contextmanager
    def _taking(self) -> Iterator[_Change]:
        """A change of which the part that is done stays when the disk takes no more."""
        failed = None
        with self._changing() as change:
            try:
                yield change
            except OSError as error:
                failed = error
        if failed is not None:
            taken = f"{len(change.arrived):,} of these pictures were taken in before, add the others again"
            raise _no_room(failed, taken) from failed

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise ConfigError("the pictures are being changed by somebody else; try again in some minutes") from None
        try:
            yield
        finally:
            lock.release()

    def _waiting(self) -> dict[str, dict]:
        try:
            found = json.loads((self.folder / WAITING).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return {key: said for key, said in found.items() if isinstance(said, dict)} if isinstance(found, dict) else {}

    def _keep(self, change: _Change) -> None:
        """The listing is replaced in one go, and written before: whatever ends this leaves the old one or the new."""
        listing, waiting = change.staging / LISTING, change.staging / WAITING
        with open(listing, "w", encoding="utf-8", newline="\n") as file:
            for row in change.rows:
                kept = {key: row[key] for key in ("file_name", "captions", "given", "held_out") if row.get(key)}
                file.write(json.dumps(kept) + "\n")
            file.flush()
            os.fsync(file.fileno())
        waiting.write_text(json.dumps(change.waiting), encoding="utf-8")
        for staged, name in change.arrived:
            os.replace(staged, self.folder / name)
        os.replace(listing, self.folder / LISTING)
        os.replace(waiting, self.folder / WAITING)
        for path in change.gone:
            path.unlink(missing_ok=True)

    def _take(self, files: Sequence[_Given], change: _Change, nested: bool = True) -> None:
        """Take in files that came together.

        Args:
            files: of one source, so that their keys say which belong to each other.
            change: what they are added to.
            nested: whether their keys have folders; files dropped on a page have none, even where a list names some.
        """
        before = _by_key(change.rows)
        told: dict[str, dict] = {}
        pictures = []
        for file in files:
            suffix = Path(file.key).suffix
            try:
                if Path(file.key).name == LISTING:
                    self._read_list(file, told, change, nested)
                elif suffix == ".txt":
                    _tell(told, _stem(file.key), self._read_text(file, change.problems), file.name, change)
                elif suffix == ".zip":
                    raise RequestError("it is a zip inside a zip; unpack it first")
                elif suffix in NO_PICTURES:
                    raise RequestError(f"it is no picture, no .txt with a caption, no {LISTING} and no zip")
                else:
                    pictures.append(file)
            except RequestError as error:
                change.problems.append(Problem(file.name, f"skipped: {error}"))
        used = set()
        for file, staged, suffix in self._verified(pictures, change):
            keys = [key for key in (file.key, _stem(file.key)) if key in told or key in change.waiting]
            said = file.said or next((told.get(key) or change.waiting[key] for key in keys), {})
            used.update(keys)
            name = _file_name(file.name, suffix, change)
            row = {"file_name": name, "captions": said.get("captions", []), "given": file.key}
            change.rows.append(row | ({"held_out": True} if said.get("held_out") else {}))
            change.arrived.append((staged, name))
        for key in used:
            change.waiting.pop(key, None)
        for key in told.keys() - used:
            for row in before.get(key, []):
                row.update({name: value for name, value in told[key].items() if value})
            if key not in before:
                self._wait(key, told[key], change)

    def _wait(self, key: str, said: dict, change: _Change) -> None:
        if len(change.waiting) < self.limits.pictures or key in change.waiting:
            change.waiting[key] = said
        else:
            sentence = f"skipped: {self.limits.pictures:,} captions wait for their pictures already; add those first"
            change.problems.append(Problem(change.late[key], sentence))

    def _read_text(self, file: _Given, problems: list[Problem]) -> dict:
        content = b"".join(_parts(file, TEXT_BYTES))
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except ValueError:
            raise RequestError("it can't be read as UTF-8 text; save it as UTF-8") from None
        captions = captions_of({"file_name": file.name, "captions": lines}, problems)
        return {"captions": _short(captions, file.name, problems)}

    def _read_list(self, file: _Given, told: dict[str, dict], change: _Change, nested: bool) -> None:
        content = b"".join(_parts(file, self.limits.file_bytes))
        folder = file.key.rpartition("/")[0]
        rows = list(rows_in(content, file.name, change.problems))
        paths = [_key(posixpath.normpath(row["file_name"].replace("\\", "/"))) for row in rows]
        namesakes = Counter(map(_last, set(paths)))
        for row, path in zip(rows, paths, strict=True):
            name = row["file_name"]
            if not nested and namesakes[_last(path)] > 1:
                sentence = f"skipped: {file.name} names several files so; put them and it into one zip"
                change.problems.append(Problem(name, sentence))
                continue
            key = posixpath.join(folder, path) if nested else _last(path)
            captions = _short(captions_of(row, change.problems), name, change.problems)
            _tell(told, key, {"captions": captions, "held_out": bool(row.get("held_out"))}, file.name, change)

    def _verified(self, pictures: Iterable[_Given], change: _Change) -> Iterator[tuple[_Given, Path, str]]:
        """Copies that are pictures, with their suffix: as many as there is room for in `change`, which has to grow."""
        remaining, left = iter(pictures), []
        with ThreadPoolExecutor(READERS) as pool:
            while some := list(islice(remaining, max(0, min(AHEAD, self.limits.pictures - len(change.rows))))):
                copies, failed = [], None
                for file in some:
                    if file.bytes <= self.limits.file_bytes and change.bytes + file.bytes > self.limits.total_bytes:
                        left.append(file.name)
                        continue
                    try:
                        path = self._stage(file, change)
                    except RequestError as error:
                        change.problems.append(Problem(file.name, f"skipped: {error}"))
                    except OSError as error:  # those before it stay
                        failed = error
                        break
                    else:
                        change.bytes += path.stat().st_size
                        copies.append((file, path, pool.submit(_suffix_of, path)))
                for file, path, future in copies:
                    try:
                        suffix = future.result()
                    except RequestError as error:
                        change.problems.append(Problem(file.name, f"skipped: {error}"))
                        change.bytes -= path.stat().st_size
                        path.unlink()
                    else:
                        yield file, path, suffix
                if failed is not None:
                    raise failed
        left += [file.name for file in remaining]
        if left:
            more = f" with {len(left) - 1:,} more" if len(left) > 1 else ""
            full = f"at most {self.limits.pictures:,} pictures of {_size(self.limits.total_bytes)} in all are taken"
            change.problems.append(Problem(left[0], f"left out{more}: {full}"))

    def _stage(self, file: _Given, change: _Change) -> Path:
        """A copy of a file that nobody else writes to.

        Raises:
            RequestError: it can't be read, or is too large.
            OSError: the copy can't be written.
        """
        if file.bytes > self.limits.file_bytes:
            raise _too_large(self.limits.file_bytes)
        path = change.staging / str(next(change.staged))
        if file.link is not None:
            with suppress(OSError):  # another disk, or one without links
                os.link(file.link, path)
                return path
        try:
            with open(path, "wb") as copy:
                for part in _parts(file, self.limits.file_bytes):
                    copy.write(part)
        except BaseException:
            path.unlink(missing_ok=True)  # a full disk needs its room for the listing
            raise
        return path

    def _take_zip(self, path: Path, name: str, change: _Change) -> None:
        try:
            raw = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            change.problems.append(Problem(name, f"skipped: it can't be read ({error.strerror})"))
            return
        with raw:
            try:
                archive = zipfile.ZipFile(_Bounded(raw, self.limits))
                members = self._members(archive, name, change.problems)
            except MemoryError:
                raise
            except RequestError as error:
                change.problems.append(Problem(name, f"skipped: {error}"))
            except Exception:  # zipfile raises half a dozen unrelated types on damaged files
                change.problems.append(Problem(name, "skipped: it can't be read as a zip, it may be damaged"))
            else:
                self._take(members, change)

    def _members(self, archive: zipfile.ZipFile, name: str, problems: list[Problem]) -> list[_Given]:
        """The files of a zip that may be looked at; nothing is unpacked.

        Raises:
            RequestError: too many, or too large together.
        """
        found = archive.infolist()
        if len(found) > self.limits.zip_members:
            raise _too_many(self.limits)
        usable = []
        for member in found:
            path = member.filename.replace("\\", "/")
            parts = [part for part in path.split("/") if part not in ("", ".")]
            if member.is_dir() or not parts:
                continue
            if refusal := _refusal(member, path, parts):
                problems.append(Problem(f"{name}/{path}", f"skipped: {refusal}"))
            elif "__MACOSX" not in parts and not any(part.startswith(".") for part in parts):
                usable.append((member, parts))
        total = sum(member.file_size for member, _ in usable)
        if total > self.limits.total_bytes:
            raise RequestError(f"it unpacks to {_size(total)}; at most {_size(self.limits.total_bytes)} are taken")
        # Who packs a folder gets its name before all others; captions packed by themselves have another.
        levels = zip(*(parts[:-1] for _, parts in usable), strict=False)
        common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
        return [
            _Given(
                f"{name}/{'/'.join(parts)}",
                _key("/".join(parts[common:])),
                member.file_size,
                partial(archive.open, member),
            )
            for member, parts in usable
        ]


class _Bounded(io.BufferedReader):
    """A zip that is read in parts of bounded size: its table of contents is one, and may claim to have gigabytes."""

    def __init__(self, raw: io.RawIOBase, limits: Limits) -> None:
        super().__init__(raw)
        self.limits, self.most = limits, max(4 * CHUNK, limits.zip_members * DIRECTORY_BYTES)

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(self.most + 1 if size is None or size < 0 else min(size, self.most + 1))
        if len(found) > self.most:
            raise _too_many(self.limits)
        return found


def _refusal(member: zipfile.ZipInfo, path: str, parts: list[str]) -> str:
    """Why a member of a zip is not touched; "" if it may be."""
    if path.startswith("/") or ".." in parts or re.match("[A-Za-z]:", path):
        return "its path leads out of the zip"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "it is a link or another special file"
    if member.flag_bits & 1:
        return "it is locked with a password; pack it without one"
    if member.compress_type not in PLAIN_METHODS:
        return "it is packed in an unusual way; pack it as an ordinary zip"
    return ""


def _too_many(limits: Limits) -> RequestError:
    return RequestError(f"it holds too many files: at most {limits.zip_members:,} are taken; split it")


def _too_large(limit: int) -> RequestError:
    return RequestError(f"it is too large: at most {_size(limit)} are read")


def _size(number: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number / 1000:.3g} kB"


def _parts(file: _Given, limit: int) -> Iterator[bytes]:
    """The bytes of a file, counted as they come: what its header says need not be true.

    Raises:
        RequestError: it can't be read, or has more than `limit` bytes.
    """
    read = 0
    try:
        with file.open() as source:
            while part := source.read(CHUNK):
                read += len(part)
                if read > limit:
                    raise _too_large(limit)
                yield part
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # of the file system, of zipfile, of zlib
        raise RequestError(f"it can't be read, it may be damaged ({error!s:.80})") from None


def _suffix_of(path: Path) -> str:
    """The suffix for the format that a picture has.

    Raises:
        RequestError: it is none that can be used.
    """
    open_usable(path)
    with Image.open(path, formats=FORMATS) as picture:
        return SUFFIXES[picture.format]


def _last(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _key(path: str) -> str:
    """What pictures and captions find each other by: the path in what they came in, whatever its case and encoding."""
    text = unicodedata.normalize("NFC", path.encode("utf-8", "ignore").decode())
    return text.casefold()[-KEY_CHARACTERS:]


def _stem(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _by_key(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """The rows that captions of a key are for: of pictures that came by the same key the last one."""
    latest = {row.get("given") or _key(row["file_name"]): row for row in rows}
    found = defaultdict(list)
    for key, row in latest.items():
        for one in {key, _stem(key)}:
            found[one].append(row)
    return found


def _tell(told: dict[str, dict], key: str, said: dict, source: str, change: _Change) -> None:
    """Note what is said of a picture; what says nothing is not noted."""
    if not said["captions"] and not said.get("held_out"):
        return
    before = told.setdefault(key, {"captions": []})
    add_captions(before, said["captions"][: PHRASINGS - len(before["captions"])])
    if said.get("held_out"):
        before["held_out"] = True
    change.late[key] = source


def _file_name(name: str, suffix: str, change: _Change) -> str:
    """A name that any file system takes and no file has; its words stay, because they may become a caption."""
    stem = unicodedata.normalize("NFC", Path(_last(name)).stem)
    stem = "".join(one if one.isprintable() and one not in '<>:"|?*' else " " for one in stem)
    stem = " ".join(stem.split())[:STEM_CHARACTERS].encode()[:STEM_BYTES].decode(errors="ignore").strip(". ")
    stem = stem or "picture"
    found = stem + suffix
    while found.casefold() in change.taken:
        change.numbers[stem.casefold()] += 1
        found = f"{stem}-{change.numbers[stem.casefold()] + 1}{suffix}"  # words of names end before numbers
    change.taken.add(found.casefold())
    return found


def _short(captions: list[str], name: str, problems: list[Problem]) -> list[str]:
    """As many phrasings as are taken."""
    if len(captions) > PHRASINGS:
        problems.append(Problem(name, f"of its {len(captions):,} captions {PHRASINGS} are taken"))
    return captions[:PHRASINGS]


def _checked(name: str, text: str) -> str:
    try:
        return check_text(name, text)
    except RequestError as error:
        raise ConfigError(str(error)) from None


def _phrasings(name: str, text: str) -> list[str]:
    """The phrasings of a text, each once.

    Raises:
        ConfigError: one is too long or no text, or there are too many.
    """
    if not isinstance(text, str):
        raise ConfigError(f"the caption of {name} must be text")
    pieces = (piece for line in text.splitlines() for piece in BETWEEN.split(line))
    found = list(dict.fromkeys(filter(None, (_checked(f"The caption of {name}", piece).strip() for piece in pieces))))
    if len(found) > PHRASINGS:
        raise ConfigError(f"{name} has {len(found):,} captions; at most {PHRASINGS} are taken")
    return found


def _no_room(error: OSError, rest: str) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"the disk does not take the pictures ({reason:.120}); make room and try again: {rest}")


def _file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # names that no file can have
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _bytes_of(folder: Path, names: Iterable[str]) -> int:
    return sum(_file_size(folder / name) or 0 for name in names)
