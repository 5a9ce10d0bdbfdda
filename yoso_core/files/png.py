"""What a PNG carries beside its pixels: texts and a colour profile, read chunk by chunk and in bounded size.

PIL refuses the whole picture for one compressed text or profile of more than a megabyte, wherever it stands.
"""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PROFILE = b"iCCP"
TEXT_LIMIT = 64_000_000  # bytes of all texts of a picture, unpacked
PROFILE_LIMIT = 16_000_000  # bytes; those of printers with large tables have a few million
DEFLATE_RATIO = 1032  # what a byte unpacks to at most
FRAME = 12  # bytes of a chunk that are not its data: length, kind, checksum


class Chunk(NamedTuple):
    """A part of a PNG.

    Attributes:
        kind: four letters.
        start: where its data begin in the file.
        length: of its data in bytes.
    """

    kind: bytes
    start: int
    length: int


@dataclass(frozen=True)
class Bare:
    """A PNG without what PIL stumbles over.

    Attributes:
        file: the PNG without its texts and its profile.
        profile: the ICC profile; b"" of one that can't be read; None where there is none.
    """

    file: BinaryIO
    profile: bytes | None


def is_png(file: BinaryIO) -> bool:
    """By its first bytes; the place in the file stays."""
    start = file.tell()
    try:
        return file.read(len(SIGNATURE)) == SIGNATURE
    finally:
        file.seek(start)


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of a PNG up to its end, or up to where it is damaged; the file is read from its beginning."""
    size = file.seek(0, io.SEEK_END)
    place = len(SIGNATURE)
    while place + FRAME <= size:
        file.seek(place)
        head = file.read(8)
        chunk = Chunk(head[4:], place + 8, int.from_bytes(head[:4], "big"))
        if chunk.start + chunk.length > size:
            return
        yield chunk
        place += FRAME + chunk.length


def bare(file: BinaryIO) -> Bare:
    """A PNG as PIL reads it without refusing it for its texts."""
    found = list(chunks(file))
    dropped = [chunk for chunk in found if chunk.kind in (*TEXTS, PROFILE)]
    profiles = [_read_profile(file, chunk) for chunk in dropped if chunk.kind == PROFILE]
    if dropped:
        file.seek(0)
        kept, place = io.BytesIO(), 0
        for chunk in dropped:
            kept.write(file.read(chunk.start - 8 - place))
            place = chunk.start + chunk.length + FRAME - 8
            file.seek(place)
        kept.write(file.read())
        file = kept
    file.seek(0)
    return Bare(file, profiles[0] if profiles else None)


def _read_profile(file: BinaryIO, chunk: Chunk) -> bytes:
    file.seek(chunk.start)
    _, _, rest = file.read(chunk.length).partition(b"\0")
    return _inflated(rest[1:], PROFILE_LIMIT) or b""


def texts(file: BinaryIO) -> dict[str, str]:
    """The texts of a PNG by their keywords; of those with the same the first. Those that can't be read are left out."""
    found: dict[str, str] = {}
    room = TEXT_LIMIT
    for chunk in chunks(file):
        if chunk.kind not in TEXTS or chunk.length > room:
            continue
        file.seek(chunk.start)
        keyword, _, rest = file.read(chunk.length).partition(b"\0")
        data = _text_bytes(chunk.kind, rest, room)
        if data is None:
            room -= DEFLATE_RATIO * len(rest)  # at most so many bytes were unpacked in vain
        else:
            room -= len(data)
            found.setdefault(keyword.decode("latin-1"), _decoded(data))
    return found


def _text_bytes(kind: bytes, rest: bytes, limit: int) -> bytes | None:
    """What follows a keyword, unpacked; None where it can't be."""
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _inflated(rest[1:], limit)
    packed = rest[:1] == b"\1"
    _, _, translated = rest[2:].partition(b"\0")  # after the language
    _, _, data = translated.partition(b"\0")
    return _inflated(data, limit) if packed else data


def _decoded(data: bytes) -> str:
    """UTF-8, which many programs write even where the format has Latin 1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _inflated(data: bytes, limit: int) -> bytes | None:
    """Unpacked bytes; None where they are damaged or more than `limit`."""
    reader = zlib.decompressobj()
    try:
        unpacked = reader.decompress(data, limit + 1)
    except zlib.error:
        return None
    return unpacked if reader.eof and len(unpacked) <= limit else None
