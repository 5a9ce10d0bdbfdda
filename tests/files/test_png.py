"""Texts and profiles of PNGs, whatever their size and state."""

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from yoso_core.files import png


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def stored(**options):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", **options)
    return file.getvalue()


def texts(*parts):
    data = stored()
    return png.texts(io.BytesIO(data[:33] + b"".join(parts) + data[33:]))


def test_texts_are_what_pil_wrote():
    info = PngInfo()
    info.add_text("parameters", "a café\nSteps: 1")
    info.add_text("packed", "x" * 5_000_000, zip=True)
    info.add_itxt("wide", "猫, a cat", lang="ja", tkey="猫")
    info.add_itxt("both", "猫" * 9, zip=True)
    found = png.texts(io.BytesIO(stored(pnginfo=info)))
    assert found == {"parameters": "a café\nSteps: 1", "packed": "x" * 5_000_000, "wide": "猫, a cat", "both": "猫" * 9}


def test_the_first_of_a_name_counts_and_utf8_is_read_where_latin1_belongs():
    assert texts(chunk(b"tEXt", b"a\0one"), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"two"))) == {"a": "one"}
    assert texts(chunk(b"tEXt", b"a\0" + "猫".encode()), chunk(b"tEXt", b"b\0caf\xe9")) == {"a": "猫", "b": "café"}


@pytest.mark.parametrize("body", [b"", b"a", b"a\0", b"a\0\1", b"a\0\0rubbish", b"a\0\1\0\0\0rubbish", b"\0\0\0"])
@pytest.mark.parametrize("kind", png.TEXTS)
def test_odd_texts_keep_no_other_out(kind, body):
    assert texts(chunk(kind, body), chunk(b"tEXt", b"b\0kept"))["b"] == "kept"


def test_no_more_is_unpacked_than_agreed():
    bomb = zlib.compress(bytes(png.TEXT_LIMIT + 1))
    assert texts(chunk(b"zTXt", b"a\0\0" + bomb), chunk(b"tEXt", b"b\0kept")) == {}  # all that there was room for
    half = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(png.TEXT_LIMIT // 2 + 1)))
    assert list(texts(half, half.replace(b"a\0\0", b"b\0\0"), chunk(b"tEXt", b"c\0kept"))) == ["a"]


@pytest.mark.parametrize("end", [0, 8, 20, 33, 40, -20])
def test_what_is_cut_off_is_read_as_far_as_it_goes(end):
    file = io.BytesIO(stored()[:end])
    assert png.texts(file) == {} and png.bare(file).profile is None


def test_nothing_is_copied_where_nothing_is_dropped():
    file = io.BytesIO(stored())
    assert png.bare(file).file is file and png.is_png(file) and not png.is_png(io.BytesIO(b"\x89PN"))
