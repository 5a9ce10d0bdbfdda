"""Pictures, captions and zips as strangers hand them over, on their way into a data set.

What a file claims is not believed: neither its name nor its kind nor its size. Whatever is wrong with one is told, and
keeps none of the others out.
"""

import os
import posixpath
import re
import stat
from collections import ChainMap, Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from zipfile import ZipFile

from train.data.gathering import FIXED_PROMPTS, REPEATS, File, Gathered, gather, key_of, last_of, see_again
from train.data.listings import PICTURES, Problem
from train.data.reader import AHEAD, READERS, open_usable, walk
from train.loop.config import ConfigError
from yoso_core.files.archives import (
    UnreadableError,
    amount,
    members,
    open_file,
    open_zip,
    read_parts,
    safe_stem,
    too_large,
    too_many,
)
from yoso_core.files.pictures import opened
from yoso_core.requests import RequestError

INCOMING = ".incoming"  # what is on its way
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "GIF": ".gif"}
PHRASINGS = 50  # of a picture
DRIVE = re.compile("[A-Za-z]:")  # of a machine's
PROMPTS = re.compile("(train|test)_prompts.json")  # of img2img-turbo's pairs
FOLDERS_MISSING = (
    "left out with all that came beside it: these files lie in folders, such as train_A and train_B, and came without "
    "them; drop one zip of the whole, or name its folder"
)


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


class Intake:
    """A data set while it is changed.

    Args:
        limits: how much it takes in.
        folder: of the data set.
        rows: of its listing; "given" is the key that a picture came with.
        waiting: captions of pictures that have not come, by key.

    Attributes:
        staging: folder for files on their way.
        arrived: files in `staging` by the names that they get.
        bytes: of all pictures.
        problems: of what is being added.
    """

    def __init__(self, limits: Limits, folder: Path, rows: list[dict], waiting: dict[str, dict]) -> None:
        self.limits, self.rows, self.waiting = limits, rows, waiting
        self.staging = folder / INCOMING
        self.arrived: dict[str, Path] = {}
        self.problems: list[Problem] = []
        names = files_of(rows)
        self.bytes = bytes_of(folder, names)
        self._names = {name.casefold() for name in [*names, *os.listdir(folder)]}  # that no new file can have
        self._namesakes: Counter[str] = Counter()  # how many files had a name before
        self._sources: dict[str, str] = {}  # where captions come from, by key
        self._staged = count()

    def take_files(self, paths: Iterable[Path], names: Iterable[str]) -> None:
        """Take in files that came together, and zips.

        Args:
            paths: where they are.
            names: what their owner calls them; in which folders, if that is known.
        """
        zips, loose = [], []
        for path, place in zip(paths, map(_relative, names), strict=True):
            size, name = _file_size(path), last_of(place)
            if size is None:
                self._skip(name, "there is no such file")
            elif name.lower().endswith(".zip"):
                zips.append((path, name))
            else:
                loose.append(File(place, place, size, partial(open_file, path)))
        nested = any("/" in file.path for file in loose)
        if not nested and _without_folders(loose):
            self.problems.append(Problem(loose[0].name, FOLDERS_MISSING))
        else:
            base = _common([file.path.split("/")[:-1] for file in loose])
            self.take([file._replace(path="/".join(file.path.split("/")[base:])) for file in loose], nested)
        for path, name in zips:
            self._take_zip(path, name)
        self.tell_waiting()

    def tell_waiting(self) -> None:
        """Say which of the captions that came have no picture yet."""
        late = Counter(source for key, source in self._sources.items() if key in self.waiting)
        for name, number in late.items():
            what = "its caption waits for its picture" if number == 1 else f"{number:,} captions wait for pictures"
            self.problems.append(Problem(name, f"{what}: nothing of that name is here yet"))

    def take(self, files: Sequence[File], nested: bool = True) -> None:
        """Take in files that came together.

        Args:
            files: of one source, so that their paths say which belong to each other.
            nested: whether their paths have folders; files dropped on a page have none, even where a list names some.

        Raises:
            OSError: the disk takes no more; pictures before that are taken in.
        """
        before = _by_key(self.rows)
        found = gather(files, nested, self.limits.file_bytes)
        self.problems += found.problems
        told = {key: said for key, row in found.told.items() if (said := self._said(key, row, found))}
        pictures = []
        for file in found.pictures:
            if max(file.bytes, getattr(found.inputs.get(file.key), "bytes", 0)) > self.limits.file_bytes:
                self._skip(file.name, too_large(self.limits.file_bytes))
            else:
                pictures.append(file)
        known, used = ChainMap(told, self.waiting), set()
        for file, path, suffix in self._usable(pictures):
            keys = [key for key in (file.key, posixpath.splitext(file.key)[0]) if key in known]
            used.update(keys)
            row = {
                "captions": next((said for key in keys if (said := known[key]["captions"])), []),
                "held_out": any(known[key].get("held_out") for key in keys),
            }
            told_now = [known[key]["repeats"] for key in keys if "repeats" in known[key]]
            see_again(row, next(iter(told_now), found.repeats_of(file)))
            if (given := found.inputs.get(file.key)) is not None:
                taken = next(self._usable([given]), None)
                if taken is None:
                    self._skip(file.name, "what goes into it can't be used")
                    self._put_back(path)
                    continue
                row["input_file_name"] = self._arrive(given.name, *taken[1:])
            name = self._arrive(file.name, path, suffix)
            self.rows.append({"file_name": name, "given": file.key} | row)
        for key in used:
            self.waiting.pop(key, None)
        for key in [key for key in told if key not in used]:
            for row in before.get(key, ()):
                row.update({name: value for name, value in told[key].items() if value})
            if key not in before and (key in self.waiting or len(self.waiting) < self.limits.pictures):
                self.waiting[key] = told[key]
            elif key not in before:
                many = f"{self.limits.pictures:,} captions wait for their pictures already"
                self._skip(self._sources[key], f"{many}; add those first")

    def _said(self, key: str, row: dict, found: Gathered) -> dict:
        """What is kept of what was told of a picture; {} where that is nothing."""
        captions, held_out = row["captions"], row["held_out"]
        if len(captions) > PHRASINGS:
            sentence = f"of its {len(captions):,} captions {PHRASINGS} are taken"
            self.problems.append(Problem(found.sources[key], sentence))
        if not captions and not held_out:
            return {}
        self._sources[key] = found.sources[key]
        said = {"captions": captions[:PHRASINGS], "held_out": held_out}
        see_again(said, row.get("repeats", 1))
        return said

    def _skip(self, name: str, why: str | RequestError) -> None:
        if isinstance(why, UnreadableError):  # a sentence, which goes on after a colon here
            why = str(why)[0].lower() + str(why)[1:].rstrip(".")
        self.problems.append(Problem(name, f"skipped: {why}"))

    def _arrive(self, called: str, path: Path, suffix: str) -> str:
        """Give a staged picture the name that it is kept by."""
        name = self._new_name(called, suffix)
        self.arrived[name] = path
        return name

    def _put_back(self, path: Path) -> None:
        self.bytes -= path.stat().st_size
        path.unlink()

    def _usable(self, files: Iterable[File]) -> Iterator[tuple[File, Path, str]]:
        """Staged pictures with their suffix, as many as there is room for beside the rows, which have to grow."""
        remaining, left, failed = iter(files), [], None
        with ThreadPoolExecutor(READERS) as pool:
            while some := list(islice(remaining, max(0, min(AHEAD, self.limits.pictures - len(self.rows))))):
                staged = []
                for file in some:
                    if self.bytes + file.bytes > self.limits.total_bytes:
                        left.append(file.name)
                        continue
                    try:
                        path = self._stage(file)
                    except RequestError as error:
                        self._skip(file.name, error)
                    except OSError as error:  # those before it stay
                        failed = error
                        break
                    else:
                        self.bytes += path.stat().st_size
                        staged.append((file, path, pool.submit(_suffix_of, path)))
                for file, path, future in staged:
                    try:
                        yield file, path, future.result()
                    except RequestError as error:
                        self._skip(file.name, error)
                        self._put_back(path)
                if failed is not None:
                    raise failed
        left += [file.name for file in remaining]
        if left:
            more = f" with {len(left) - 1:,} more" if len(left) > 1 else ""
            full = f"at most {self.limits.pictures:,} pictures of {amount(self.limits.total_bytes)} in all are taken"
            self.problems.append(Problem(left[0], f"left out{more}: {full}"))

    def _stage(self, file: File) -> Path:
        """A file in the staging folder; a RequestError where it can't be read, an OSError where it can't be written."""
        path = self.staging / str(next(self._staged))
        if file.link is not None:
            with suppress(OSError):  # another disk, or one without links
                os.link(file.link, path)
                return path
        try:
            with open(path, "wb") as copy:
                for part in read_parts(file.open, self.limits.file_bytes):
                    copy.write(part)
        except BaseException:
            path.unlink(missing_ok=True)  # a full disk needs its room for the listing
            raise
        return path

    def _new_name(self, name: str, suffix: str) -> str:
        """A name that any file system takes and no file has."""
        stem = safe_stem(name)
        found = stem + suffix
        while found.casefold() in self._names:
            self._namesakes[stem.casefold()] += 1
            found = f"{stem}-{self._namesakes[stem.casefold()] + 1}{suffix}"  # words of names end before numbers
        self._names.add(found.casefold())
        return found

    def _take_zip(self, path: Path, name: str) -> None:
        try:
            with open_zip(path, self.limits.zip_members) as archive:
                self.take(self._members(archive, name))
        except RequestError as error:
            self._skip(name, error)

    def _members(self, archive: ZipFile, name: str) -> list[File]:
        """The files of a zip that may be looked at, unless they are too many or too large; nothing is unpacked."""
        if len(archive.infolist()) > self.limits.zip_members:
            raise too_many(self.limits.zip_members)
        usable = []
        for member in members(archive):
            if member.refusal:
                self._skip(f"{name}/{member.path}", UnreadableError(member.refusal))
            else:
                usable.append(member)
        total = sum(member.bytes for member in usable)
        if total > self.limits.total_bytes:
            raise RequestError(f"it unpacks to {amount(total)}; at most {amount(self.limits.total_bytes)} are taken")
        # Who packs a folder gets its name before all others; captions packed by themselves have another.
        common = _common([member.path.parts[:-1] for member in usable])
        return [
            File(f"{name}/{member.path}", "/".join(member.path.parts[common:]), member.bytes, member.open)
            for member in usable
        ]


def _common(folders: Sequence[Sequence[str]]) -> int:
    """How many folders all files lie in that say nothing of them, by the names of those of each."""
    common = os.path.commonprefix(folders)  # noqa: RUF071 - of lists
    return len(common) - bool(common and REPEATS.fullmatch(common[-1]))


def _relative(name: str) -> str:
    """What a file is called, with its folders unless they lead elsewhere."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    elsewhere = path.startswith("/") or ".." in parts or DRIVE.match(path)
    return "/".join(parts[-1:] if elsewhere else parts)


def _without_folders(files: Sequence[File]) -> bool:
    """Whether files without folders are a translator's: its fixed prompts, or pictures that mostly have namesakes.

    One name alone tells nothing: telephones give it to all pictures.
    """
    keys = {file.key for file in files}
    namesakes = Counter(file.key for file in files if posixpath.splitext(file.key)[1] in PICTURES)
    again = {key: number for key, number in namesakes.items() if number > 1}
    mostly = len(again) > 1 and 2 * sum(again.values()) >= namesakes.total()
    return bool(keys & set(FIXED_PROMPTS.values())) or mostly or bool(again and any(map(PROMPTS.fullmatch, keys)))


def files_in(folder: str | Path, apart: Path) -> tuple[list[File], list[Problem]]:
    """The files of a folder of this machine that has nothing to do with `apart`, and what leads out of it.

    Raises:
        ConfigError: there is no such folder, or one of them lies in the other.
    """
    try:
        source, apart = Path(folder).expanduser().resolve(), apart.resolve()
        if source.is_relative_to(apart) or apart.is_relative_to(source):
            raise ConfigError(f"the folder {source} and the pictures handed over lie in each other; name another")
        if not source.is_dir():
            raise ConfigError(f"there is no folder {source}; name a folder of pictures")
        return walk(source)
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no such user's home
        raise ConfigError(f"the folder {str(folder)!r:.200} can't be read ({error!s:.80})") from None


def files_of(rows: Iterable[dict]) -> list[str]:
    """The files that rows are of, what goes into others included."""
    return [row[key] for row in rows for key in ("file_name", "input_file_name") if row.get(key)]


def bytes_of(folder: Path, names: Iterable[str]) -> int:
    return sum(_file_size(folder / name) or 0 for name in names)


def _file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # names that no file can have
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _suffix_of(path: Path) -> str:
    """The suffix for the format that a picture has; a RequestError where it can't be used."""
    open_usable(path)
    with opened(path) as found:
        return SUFFIXES[found.picture.format]


def _by_key(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """The rows that captions of a key are for: of pictures that came by the same key the last one."""
    latest = {row.get("given") or key_of(row["file_name"]): row for row in rows}
    found = defaultdict(list)
    for key, row in latest.items():
        for one in {key, posixpath.splitext(key)[0]}:
            found[one].append(row)
    return found
