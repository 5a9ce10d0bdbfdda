"""Many pictures at once: files and zips in, what was made of each out.

One that can't be read keeps none of the others out.
"""

import io
import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from PIL import Image

from yoso_core.engine import PictureError, Result
from yoso_core.metadata import png_info
from yoso_core.pictures import Opened, PictureFileError, open_picture
from yoso_core.requests import GenerateRequest

PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # only these are unpacked in parts of bounded size
CHUNK = 2**18  # bytes
ENTRY_BYTES = 1000  # of a zip's table of contents, for each file that may be in it
STEM_CHARACTERS = 80  # of a file's name; file systems take 255 bytes in all


@dataclass(frozen=True)
class Limits:
    """How much is taken at once.

    Attributes:
        files: how many pictures.
        file_bytes: of a picture.
        total_bytes: of all pictures, and of what zips unpack to.
    """

    files: int = 200
    file_bytes: int = 20_000_000
    total_bytes: int = 200_000_000


class Given(NamedTuple):
    """A file as it is handed over.

    Attributes:
        name: what its owner calls it.
        open: for reading.
    """

    name: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Done:
    """What came of a file.

    Attributes:
        name: what its owner calls it.
        result: what was made of it; None where nothing could be.
        problem: why not, in a sentence.
        files: where its pictures were written.
    """

    name: str
    result: Result | None = None
    problem: str = ""
    files: tuple[str, ...] = ()


@contextmanager
def gathered(paths: Sequence[Path], limits: Limits | None = None) -> Iterator[tuple[list[Given], list[Done]]]:
    """The files of a batch for as long as the block lasts, and what is left out of it, with the reason.

    Args:
        paths: files; what is called .zip gives the files in it.
        limits: how much is taken; None where files are one's own.
    """
    files: list[Given] = []
    left: list[Done] = []
    room = limits.total_bytes if limits else 0
    with ExitStack() as opened:
        for path in paths:
            try:
                if path.suffix.lower() == ".zip":
                    found = [
                        (
                            Given(f"{path.name}/{member.filename}", partial(_open_member, archive, member)),
                            member.file_size,
                        )
                        for archive in [opened.enter_context(_open_zip(path, limits))]
                        for member in archive.infolist()
                        if _is_picture(member)
                    ]
                else:
                    found = [(Given(path.name, partial(_open_file, path)), path.stat().st_size)]
            except PictureFileError as error:
                left.append(Done(path.name, problem=str(error)))
                continue
            except (OSError, ValueError):  # gone, or a name that no path can have
                left.append(Done(path.name, problem="There is no such file."))
                continue
            for file, size in found:
                if problem := _beyond(limits, len(files), size, room):
                    left.append(Done(file.name, problem=problem))
                    continue
                files.append(file)
                room -= size
        yield files, left


def _beyond(limits: Limits | None, before: int, size: int, room: int) -> str:
    """Why a file is not taken after so many others; "" if it is."""
    if limits is None:
        return ""
    if before >= limits.files:
        return f"At most {limits.files} pictures are taken at once."
    if size > limits.file_bytes:
        return f"It is larger than {limits.file_bytes // 1_000_000} MB."
    if size > room:
        return f"At most {limits.total_bytes // 1_000_000} MB are taken at once."
    return ""


def _open_file(path: Path) -> BinaryIO:
    if not path.is_file():  # a pipe or a device would be waited for
        raise PictureFileError("There is no such file.")
    return open(path, "rb")


def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    if member.flag_bits & 1:
        raise PictureFileError("It is locked with a password; pack it without one.")
    if member.compress_type not in PLAIN_METHODS:
        raise PictureFileError("It is packed in an unusual way; pack it as an ordinary zip.")
    return archive.open(member)


class _Bounded(io.BufferedReader):
    """A zip read in parts of bounded size: its table of contents is one, and may claim to have gigabytes."""

    def __init__(self, raw: io.RawIOBase, most: int) -> None:
        super().__init__(raw)
        self.most = most

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(self.most + 1 if size is None or size < 0 else min(size, self.most + 1))
        if len(found) > self.most:
            raise PictureFileError("It holds too many files; split it.")
        return found


@contextmanager
def _open_zip(path: Path, limits: Limits | None) -> Iterator[zipfile.ZipFile]:
    with open(path, "rb", buffering=0) as raw:
        try:
            most = max(4 * CHUNK, limits.files * ENTRY_BYTES) if limits else 2**30
            archive = zipfile.ZipFile(_Bounded(raw, most))
        except (PictureFileError, MemoryError):
            raise
        except Exception:  # zipfile raises half a dozen unrelated types on damaged files
            raise PictureFileError("This is no zip that can be read, it may be damaged.") from None
        yield archive


def _is_picture(member: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is looked at: neither a folder nor a link, nor what systems leave in their folders."""
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    hidden = not parts or "__MACOSX" in parts or parts[-1].startswith(".")
    linked = stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG)
    return not (member.is_dir() or hidden or linked)


def _read(file: Given, limits: Limits | None) -> Opened:
    """The picture of a file; its bytes are counted as they come, because what a zip says of them need not be true.

    Raises:
        PictureFileError: it can't be read.
    """
    data = io.BytesIO()
    try:
        with file.open() as source:
            while part := source.read(CHUNK):
                data.write(part)
                if limits is not None and data.tell() > limits.file_bytes:
                    raise PictureFileError(f"It is larger than {limits.file_bytes // 1_000_000} MB.")
    except (PictureFileError, MemoryError):
        raise
    except Exception as error:  # of the file system, of zipfile, of zlib
        raise PictureFileError(f"It can't be read, it may be damaged ({error!s:.80}).") from None
    data.seek(0)
    return open_picture(data)


def run_files(
    run: Callable[[GenerateRequest], Result],
    request: Callable[[Image.Image], GenerateRequest],
    files: Iterable[Given],
    limits: Limits | None = None,
) -> Iterator[Done]:
    """What comes of each file, one after the other.

    Args:
        run: makes the pictures of a request, such as ``Engine.run``.
        request: what is asked of the picture of a file.
        files: of `gathered`.
        limits: as there.

    Raises:
        RequestError: something that concerns all files, such as a translator that is not here.
    """
    for file in files:
        try:
            opened = _read(file, limits)
            result = run(request(opened.picture))
            done = Done(file.name, replace(result, notes=(*opened.notes, *result.notes)))
        except (PictureFileError, PictureError) as error:
            done = Done(file.name, problem=str(error))
        yield done


class Names:
    """Names of the files that are written: the words of those that were given, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, name: str, count: int = 1) -> list[str]:
        """File names for the `count` pictures of what was called `name`."""
        stem = unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).stem)
        stem = re.sub(r"[^\w .()+-]+|\s+", " ", stem).strip(". ")[:STEM_CHARACTERS].strip(". ") or "picture"
        number, found = 1, stem
        while found.casefold() in self._taken:
            number += 1
            found = f"{stem} ({number})"
        self._taken.add(found.casefold())
        return [f"{found}.png"] if count == 1 else [f"{found}-{index + 1}.png" for index in range(count)]


def into_zip(done: Iterable[Done], path: Path) -> Iterator[Done]:
    """Write the pictures of what comes by into a zip, as PNG with their settings, and pass it on."""
    names = Names()
    with zipfile.ZipFile(path, "w") as archive:
        for one in done:
            yield _written(one, names, archive.writestr)


def into_folder(done: Iterable[Done], folder: Path) -> Iterator[Done]:
    """The same with a folder; what has the same names there is written over."""
    names = Names()
    for one in done:
        yield _written(one, names, lambda name, data: (folder / name).write_bytes(data))


def _written(one: Done, names: Names, write: Callable[[str, bytes], object]) -> Done:
    if one.result is None:
        return one
    files = names.new(one.name, len(one.result.pictures))
    for index, name in enumerate(files):
        buffer = io.BytesIO()
        one.result.pictures[index].save(buffer, "PNG", pnginfo=png_info(one.result, index))
        write(name, buffer.getvalue())
    return Done(one.name, one.result, files=tuple(files))
