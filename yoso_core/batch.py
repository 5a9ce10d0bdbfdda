"""Many pictures at once: files and zips in, what was made of each out.

One that can't be read keeps none of the others out.
"""

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from yoso_core.engine import PictureError, Result
from yoso_core.files.archives import (
    UnreadableError,
    amount,
    members,
    open_file,
    open_zip,
    read_parts,
    safe_stem,
    too_large,
)
from yoso_core.files.metadata import png_info
from yoso_core.files.pictures import Opened, PictureFileError, open_picture
from yoso_core.requests import GenerateRequest, RequestError

OWN_MEMBERS = 1_000_000  # files in a zip of one's own
OWN_FOLDER_FILES = 10_000  # that are looked at in a folder of one's own
OWN_BYTES = 500_000_000  # of a picture of one's own, in a zip or not


@dataclass(frozen=True)
class Limits:
    """How much is taken at once.

    Attributes:
        files: how many pictures, and how many files that are pictures or zips.
        file_bytes: of a picture.
        total_bytes: of all pictures, and of what zips unpack to.
    """

    files: int = 200
    file_bytes: int = 20_000_000
    total_bytes: int = 200_000_000


class PictureFile(NamedTuple):
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
def gathered(paths: Sequence[Path], limits: Limits | None = None) -> Iterator[tuple[list[PictureFile], list[Done]]]:
    """The files of a batch for as long as the block lasts, and what is left out of it, with the reason.

    Args:
        paths: files; what is called .zip gives the files in it.
        limits: how much is taken; None where files are one's own.
    """
    files: list[PictureFile] = []
    left: list[Done] = []
    room = limits.total_bytes if limits else 0
    taken = paths[: limits.files] if limits else paths
    with ExitStack() as kept:
        for path in taken:
            if limits and len(files) >= limits.files:  # nothing more is opened
                left.append(Done(path.name, problem=_beyond(limits, len(files), 0, room)))
                continue
            before, more = len(files), 0
            with ExitStack() as opened:
                try:
                    for file, size in _files_of(path, limits, opened):
                        problem = _beyond(limits, len(files), size, room)
                        if not problem:
                            files.append(file)
                            room -= size
                        elif file.name != path.name and limits and max(len(files), len(left)) >= limits.files:
                            more += 1
                        else:
                            left.append(Done(file.name, problem=problem))
                except UnreadableError as error:
                    left.append(Done(path.name, problem=str(error)))
                except (OSError, ValueError):  # gone, or a name that no path can have
                    left.append(Done(path.name, problem="There is no such file."))
                if len(files) > before:
                    kept.enter_context(opened.pop_all())
            if limits and more:
                left.append(Done(path.name, problem=_rest(limits, more, len(files))))
        if limits and (more := len(paths) - len(taken)):
            name = f"{more:,} more file{'s' if more > 1 else ''}"
            left.append(Done(name, problem=f"At most {limits.files:,} files are taken at once."))
        yield files, left


def _rest(limits: Limits, more: int, before: int) -> str:
    """Why the last files of a zip, `more` of them, are not told one by one."""
    words = f"{more:,} more pictures in it were" if more > 1 else "1 more picture in it was"
    told = f"{words} left out: at most {limits.files:,} are taken at once"
    if before >= limits.files:
        return f"{told}."
    return f"{told}, of {amount(limits.file_bytes)} each and {amount(limits.total_bytes)} in all."


def _files_of(path: Path, limits: Limits | None, opened: ExitStack) -> Iterator[tuple[PictureFile, int]]:
    """What a path gives, with the bytes that it is said to have; a zip stays open as long as `opened`."""
    if path.suffix.lower() != ".zip":
        yield PictureFile(path.name, partial(open_file, path)), path.stat().st_size
        return
    archive = opened.enter_context(open_zip(path, limits.files if limits else OWN_MEMBERS))
    for member in members(archive):
        yield PictureFile(f"{path.name}/{member.path}", member.open), member.bytes


def _beyond(limits: Limits | None, before: int, size: int, room: int) -> str:
    """Why a file is not taken after so many others; "" if it is."""
    if limits is None:
        return ""
    if before >= limits.files:
        return f"At most {limits.files:,} pictures are taken at once."
    if size > limits.file_bytes:
        return str(too_large(limits.file_bytes))
    if size > room:
        return f"At most {amount(limits.total_bytes)} are taken at once."
    return ""


def read_file(file: PictureFile, limits: Limits | None = None) -> Opened:
    """The picture of a file.

    Raises:
        UnreadableError: it can't be read.
        PictureFileError: it is no picture.
    """
    data = io.BytesIO()
    for part in read_parts(file.open, limits.file_bytes if limits else OWN_BYTES):
        data.write(part)
    data.seek(0)
    return open_picture(data)


def run_files(
    run: Callable[[GenerateRequest], Result],
    request: Callable[[Image.Image], GenerateRequest],
    files: Iterable[PictureFile],
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
            opened = read_file(file, limits)
            result = run(request(opened.picture))
            done = Done(file.name, replace(result, notes=(*opened.notes, *result.notes)))
        except (UnreadableError, PictureFileError, PictureError) as error:
            done = Done(file.name, problem=str(error))
        except RequestError:
            raise
        except Exception as error:  # what nobody foresaw about one picture is no reason to lose the others
            done = Done(file.name, problem=f"Nothing could be made of it ({type(error).__name__}: {error!s:.80}).")
        yield done


class Names:
    """Names of the files that are written: the words of those that were given, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, name: str, count: int = 1) -> list[str]:
        """File names for the `count` pictures of what was called `name`."""
        stem = safe_stem(name)
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
    """The same with a folder; what has the same names there is replaced, links too, never what these lead to."""
    names = Names()
    for one in done:
        yield _written(one, names, lambda name, data: _replace(folder / name, data))


def _replace(path: Path, data: bytes) -> None:
    partial_path = path.with_name(f".{path.name}.partial")
    partial_path.unlink(missing_ok=True)  # of a run that was cut off
    try:
        with open(partial_path, "xb") as file:  # "x" follows no link
            file.write(data)
        os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)


def _written(one: Done, names: Names, write: Callable[[str, bytes], object]) -> Done:
    if one.result is None:
        return one
    files = names.new(one.name, len(one.result.pictures))
    for index, name in enumerate(files):
        buffer = io.BytesIO()
        one.result.pictures[index].save(buffer, "PNG", pnginfo=png_info(one.result, index))
        write(name, buffer.getvalue())
    return Done(one.name, one.result, files=tuple(files))
