"""Files and zips of strangers, read safely.

Nothing that a zip claims is believed: neither its names nor its sizes nor its number of files. Nothing is unpacked to
where a name says, and no more memory is taken than was agreed to.
"""

import io
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from yoso_core.requests import RequestError

CHUNK = 2**18  # bytes
ENTRY_BYTES = 1000  # of a zip's table of contents, for each file that may be in it
PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # only these are unpacked in parts of bounded size
UTF8_NAME = 0x800  # a flag
STEM_CHARACTERS, STEM_BYTES = 90, 180  # of a file's name; file systems take 255 bytes in all


class UnreadableError(RequestError):
    """A file, in a zip or not, that is not read, and why: one sentence."""


@dataclass(frozen=True)
class Member:
    """A file in a zip.

    Attributes:
        path: as the zip has it, with slashes; it may lead anywhere.
        bytes: what it is said to have when unpacked.
        refusal: the sentence that says why it is not read; "" if it is.
    """

    path: PurePosixPath
    bytes: int
    refusal: str
    _archive: zipfile.ZipFile
    _info: zipfile.ZipInfo

    def open(self) -> BinaryIO:
        """For reading, while the zip is open.

        Raises:
            UnreadableError: it is refused.
            Exception: of half a dozen unrelated types, where it is damaged; `read_parts` tells them as one.
        """
        if self.refusal:
            raise UnreadableError(self.refusal)
        return self._archive.open(self._info)


def open_file(path: Path, buffering: int = -1) -> BinaryIO:
    """An ordinary file for reading, with `buffering` as `open` has it.

    Raises:
        UnreadableError: there is none, or it may not be read.
    """
    if not path.is_file():  # a pipe or a device would be waited for
        raise UnreadableError("There is no such file.")
    try:
        return open(path, "rb", buffering)
    except OSError as error:
        raise UnreadableError(f"It can't be opened ({error.strerror}).") from None


@contextmanager
def open_zip(path: Path, most: int) -> Iterator[zipfile.ZipFile]:
    """A zip for as long as the block lasts.

    Args:
        path: of the zip.
        most: files and folders that it is expected to hold. Its table of contents is not read if it is far too long
            for them; a shorter one may still list more.

    Raises:
        UnreadableError: there is no such file, it is no zip or a damaged one, or its table of contents is too long.
    """
    with open_file(path, buffering=0) as raw:
        try:
            archive = zipfile.ZipFile(_Bounded(raw, most))
        except (UnreadableError, MemoryError):
            raise
        except Exception:  # zipfile raises half a dozen unrelated types on damaged files
            raise UnreadableError("This is no zip that can be read, it may be damaged.") from None
        yield archive


class _Bounded(io.BufferedReader):
    """A zip read in parts of bounded size: its table of contents is one, and may claim to have gigabytes."""

    def __init__(self, raw: io.RawIOBase, most: int) -> None:
        super().__init__(raw)
        self.most, self.limit = most, max(4 * CHUNK, most * ENTRY_BYTES)

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(self.limit + 1 if size is None or size < 0 else min(size, self.limit + 1))
        if len(found) > self.limit:
            raise too_many(self.most)
        return found


def members(archive: zipfile.ZipFile) -> Iterator[Member]:
    """The files of a zip, without those that nobody means to hand over: hidden ones, and those of __MACOSX."""
    for info in archive.infolist():
        name = name_of(info).replace("\\", "/")
        path = PurePosixPath(name)
        hidden = any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.parts)
        if path.parts and not name.endswith("/") and not hidden:
            yield Member(path, info.file_size, _refusal(path, info), archive, info)


def name_of(info: zipfile.ZipInfo) -> str:
    """What a file in a zip is called, composed (NFC).

    Many programs, those of macOS among them, write UTF-8 without saying so, which Python takes for code page 437;
    others say it in a field of its own.
    """
    name = info.orig_filename
    if not info.flag_bits & UTF8_NAME:
        raw = name.encode("cp437")
        with suppress(UnicodeDecodeError):
            name = (_unicode_path(info.extra, raw) or raw).decode()
    return unicodedata.normalize("NFC", name.partition("\0")[0])


def _unicode_path(extra: bytes, raw: bytes) -> bytes:
    """The UTF-8 name in Info-ZIP's field 0x7075, if it is for the name that it has the checksum of; b"" otherwise."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and len(field) == size > 5 and field[:5] == struct.pack("<BI", 1, zlib.crc32(raw)):
            return field[5:]
    return b""


def _refusal(path: PurePosixPath, info: zipfile.ZipInfo) -> str:
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", str(path)):
        return "Its path leads out of the zip."
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "It is a link or another special file."
    if info.flag_bits & 1:
        return "It is locked with a password; pack it without one."
    if info.compress_type not in PLAIN_METHODS:
        return "It is packed in an unusual way; pack it as an ordinary zip."
    return ""


def read_parts(opener: Callable[[], BinaryIO], limit: int | None = None) -> Iterator[bytes]:
    """The bytes of a file, counted as they come, because what a zip says of them need not be true.

    Args:
        opener: opens it, such as `Member.open`.
        limit: bytes that it may have; None for any number.

    Raises:
        UnreadableError: it is refused, damaged or too large.
    """
    read = 0
    try:
        with opener() as source:
            while part := source.read(CHUNK):
                read += len(part)
                if limit is not None and read > limit:
                    raise too_large(limit)
                yield part
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:  # of the file system, of zipfile, of zlib
        raise UnreadableError(f"It can't be read, it may be damaged ({error!s:.80}).") from None


def too_many(most: int) -> UnreadableError:
    return UnreadableError(f"It holds too many files: at most {most:,} are taken; split it.")


def too_large(limit: int) -> UnreadableError:
    return UnreadableError(f"It is too large: at most {amount(limit)} are read.")


def amount(number: int) -> str:
    """Bytes in the unit that people say them in, such as "20 MB"."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number / 1000:.3g} kB"


def safe_stem(name: str) -> str:
    """What a file is called, without folders and suffix, as any file system takes it; "picture" where nothing is left.

    Its words stay, because they may become a caption.
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).stem)
    stem = "".join(one if one.isprintable() and one not in '<>:"|?*' else " " for one in stem)
    stem = " ".join(stem.split())[:STEM_CHARACTERS].encode()[:STEM_BYTES].decode(errors="ignore")
    return stem.strip(". ") or "picture"
