"""Any file in, an upright opaque RGB picture or one sentence out."""

import io
import os
import pickle
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    P3_PROFILE,
    SRGB,
    cmyk_profile,
    gamma_curve,
    grey_profile,
    rgb_profile,
    srgb_curve,
)
from yoso_core.files.pictures import (
    PIXEL_LIMIT,
    PictureFileError,
    fit_note,
    fitted,
    open_mask,
    open_picture,
    own_size,
    shape_of,
    whole,
)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def noise(width=40, height=30, mode="RGB", seed=0):
    """A picture of random pixels of one mode."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def stored(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(data):
    return open_picture(io.BytesIO(data))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width, height):
    """A whole PNG whose header promises pixels that are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def refusal(source):
    """The sentence with which a source is refused."""
    with pytest.raises(PictureFileError) as caught:
        open_picture(source)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 200
    return sentence


def test_ordinary_pictures_pass_unchanged_and_without_a_note(tmp_path):
    picture = noise()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = stored(picture, kind, **options)
        (tmp_path / "picture").write_bytes(data)  # no suffix: the content decides
        for source in (tmp_path / "picture", io.BytesIO(data), Image.open(io.BytesIO(data))):
            result = open_picture(source)
            assert same(result.picture, picture) and result.notes == ()
    data = stored(picture, "JPEG")
    assert same(opened(data).picture, Image.open(io.BytesIO(data))) and opened(data).notes == ()


def test_a_picture_in_memory_is_copied():
    picture = noise()
    result = open_picture(picture).picture
    result.paste("red", (0, 0, *result.size))
    assert same(picture, noise())


@pytest.mark.parametrize(
    ("mode", "kind", "word"),
    [
        ("L", "PNG", "grey"),
        ("L", "JPEG", "grey"),
        ("LA", "PNG", "grey"),
        ("1", "PNG", "black and white"),
        ("P", "PNG", "palette"),
        ("P", "GIF", "palette"),
        ("CMYK", "JPEG", "CMYK"),
    ],
)
def test_other_modes_are_converted_with_a_note(mode, kind, word):
    picture = noise(mode=mode)
    result = opened(stored(picture, kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert result.picture.mode == "RGB" and len(result.notes) == 1 and word in result.notes[0]
    difference = np.asarray(result.picture).astype(int) - np.asarray(picture.convert("RGB"))
    assert np.abs(difference).mean() < (8 if kind == "JPEG" else 1e-9)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5000].reshape(50, 100)
    expected = np.round(values / 257).astype(np.uint8)
    pictures = [
        Image.open(io.BytesIO(stored(Image.fromarray(values)))),
        Image.frombytes("I;16B", (100, 50), values.astype(">u2").tobytes()),
        Image.fromarray(values.astype(np.int32)),
        Image.fromarray(values.astype(np.float32)),
    ]
    assert [picture.mode for picture in pictures] == ["I;16", "I;16B", "I", "F"]
    for picture in pictures:
        result = open_picture(picture)
        assert (np.asarray(result.picture) == expected[..., None]).all() and "scaled" in result.notes[0]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (-3.5, 9.25), (-1e300, 1e300)])
def test_wide_values_keep_their_darkest_and_brightest(low, high):
    values = np.linspace(low, high, 64).astype(np.float32 if abs(high) < 1e30 else np.float64).reshape(8, 8)
    if values.dtype == np.float64:
        values = (values / 1e262).astype(np.float32)  # about as large as "F" can hold
    levels = np.asarray(open_picture(Image.fromarray(values)).picture)[..., 0].ravel()
    assert levels[0] == 0 and levels[-1] == 255 and (np.diff(levels.astype(int)) >= 0).all()


def test_values_that_are_no_numbers_are_refused():
    assert "finite" in refusal(Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    assert same(open_picture(Image.fromarray(np.full((4, 4), -7.0, np.float32))).picture, Image.new("RGB", (4, 4)))


def half_transparent(mode):
    """Left half red and opaque, right half invisible; as RGBA, LA or with one transparent palette entry or colour."""
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 0), (4, 0, 8, 8))
    if mode == "RGB":
        return stored(picture.convert("RGB"), transparency=(0, 255, 0))
    if mode == "P":
        return stored(picture.convert("RGB").quantize(2), transparency=bytes([255, 0]))
    if mode == "GIF":
        return stored(picture, "GIF")
    return stored(picture.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "GIF"])
@pytest.mark.filterwarnings("error")
def test_what_is_transparent_becomes_white(mode):
    result = opened(half_transparent(mode))
    assert "transparent: put on white" in result.notes
    pixels = [result.picture.getpixel((x, 4)) for x in (0, 7)]
    assert sorted(pixels)[1] == (255, 255, 255) and pixels[0] != pixels[1]


def test_an_opaque_alpha_channel_is_no_news_and_half_opacity_is_mixed():
    picture = noise()
    picture.putalpha(255)
    assert opened(stored(picture)).notes == ()
    grey = opened(stored(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))).picture.getpixel((0, 0))
    assert grey == (127, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(noise(), kind, exif=exif)
    result = opened(data)
    assert same(result.picture, ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB")))
    assert result.notes == (() if orientation == 1 else ("rotated as its EXIF says",))
    assert same(ImageOps.exif_transpose(result.picture), result.picture)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0rubbish" * 9, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"MM"])
def test_damaged_exif_is_no_reason_to_refuse(exif):
    for kind in ("PNG", "JPEG", "WEBP"):
        assert opened(stored(noise(), kind, exif=exif)).picture.size == (40, 30)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    result = opened(stored(frames[0], kind, save_all=True, append_images=frames[1:], **lossless))
    assert "animated: first frame used" in result.notes and same(result.picture, frames[0])


def test_the_second_picture_of_a_phone_is_no_animation():
    data = stored(noise(), "MPO", save_all=True, append_images=[noise(20, 15)])
    result = opened(data)
    assert result.picture.size == (40, 30) and result.notes == ()


def gif_with_a_large_frame(width, height):
    data = bytearray(stored(Image.new("P", (4, 4)), "GIF"))
    frame = data.index(b",\0\0\0\0\4\0\4\0")
    data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        png_of_size(5001, 5000),
        png_of_size(20_000, 20_000),
        png_of_size(2**31 - 1, 2**31 - 1),
        stored(Image.new("RGB", (16383, 1600)), "WEBP", lossless=True, method=0),
        gif_with_a_large_frame(6000, 6000),
        gif_with_a_large_frame(65535, 65535),
    ],
    ids=["just above", "bomb", "largest", "webp", "gif frame", "gif bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_pictures_are_refused_before_they_are_decoded(data, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", lambda self: pytest.fail("decoded"))
    assert len(data) < 10_000 and "megapixels" in refusal(io.BytesIO(data))


def test_the_limit_itself_is_allowed():
    assert opened(stored(Image.new("1", (5000, PIXEL_LIMIT // 5000)))).picture.size == (5000, 5000)
    assert "megapixels" in refusal(Image.new("1", (5001, 5000)))


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_and_damaged_files_are_refused_or_read_but_nothing_else(kind):
    data = stored(noise(), kind)
    refused = 0
    for length in range(0, len(data) * 3 // 4, max(1, len(data) // 60)):
        refusal(io.BytesIO(data[:length]))
    picker = random.Random(kind)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(picker.randint(1, 8)):
            damaged[picker.randrange(min(len(data), 400))] = picker.randrange(256)
        try:
            result = opened(bytes(damaged))
        except PictureFileError:
            refused += 1
        else:
            assert result.picture.mode == "RGB"
    assert refused > 10


def test_errors_of_any_type_are_one_sentence():
    data = stored(noise())
    control = chunk(b"acTL", b"")  # PIL raises ValueError
    assert "can't be read" in refusal(io.BytesIO(data[:33] + control + data[33:]))
    assert "can't be read" in refusal(Image.new("La", (4, 4)))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
@pytest.mark.parametrize("last", [False, True])
def test_texts_are_no_reason_to_refuse_a_picture(kind, last):
    """However long, damaged or many: PIL refuses a picture for a megabyte of packed text."""
    data, packed = stored(noise()), zlib.compress(bytes(10_000_000))
    body = {b"zTXt": b"\0" + packed, b"iTXt": b"\1\0\0\0" + packed, b"tEXt": bytes(10_000_000)}[kind]
    place = len(data) - 12 if last else 33
    for text in (body, body[:40], b""):
        found = chunk(kind, b"name\0" + text)
        harmed = found[:-1] + bytes([found[-1] ^ 1])  # its checksum
        for texts in (found, found * 8, harmed):
            assert same(opened(data[:place] + texts + data[place:]).picture, noise())


def png(depth, colours, row, transparent):
    """A PNG of one row as it is stored, with one colour that is transparent."""
    width = len(row) * 8 // depth // (3 if colours == 2 else 1)
    header = struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colours", "row", "transparent", "wanted"),
    [
        (1, 0, bytes([0b01000000]), struct.pack(">H", 1), [0, 255, 0, 0, 0, 0, 0, 0]),
        (2, 0, bytes([0b00011011]), struct.pack(">H", 2), [0, 85, 255, 255]),
        (2, 0, bytes([0b00011011]), struct.pack(">H", 0), [255, 85, 170, 255]),
        (4, 0, bytes([0x03, 0x5A]), struct.pack(">H", 5), [0, 51, 255, 170]),
        (8, 0, bytes([7, 9]), struct.pack(">H", 7), [255, 9]),
        (16, 0, struct.pack(">3H", 2570, 2571, 51400), struct.pack(">H", 2571), [10, 255, 200]),
        (8, 2, bytes([7] * 3 + [9] * 3), struct.pack(">3H", 9, 9, 9), [7, 255]),
        (16, 2, struct.pack(">6H", *[2570] * 3, *[51400] * 3), struct.pack(">3H", *[51400] * 3), [10, 255]),
    ],
)
def test_a_transparent_colour_is_so_at_any_depth(depth, colours, row, transparent, wanted):
    result = opened(png(depth, colours, row, transparent))
    assert np.asarray(result.picture)[0, :, 0].tolist() == wanted and "transparent: put on white" in result.notes


GREEN = Image.new("RGB", (8, 8), (60, 160, 60))
P3_GAMMA = rgb_profile("Display P3", DISPLAY_P3, gamma_curve(2.2))


@pytest.mark.parametrize(
    ("profile", "wanted", "name"),
    [
        (P3_GAMMA, (0, 164, 35), "Display P3"),
        (P3_PROFILE, (0, 163, 40), "Display P3"),
        (rgb_profile("Adobe\n RGB" * 30, ADOBE_RGB, gamma_curve(2.2)), (0, 161, 47), "Adobe RGB"),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_colours_become_those_of_srgb(profile, wanted, name, kind):
    exact = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    result = opened(stored(GREEN, kind, icc_profile=profile, **exact))
    assert np.abs(np.subtract(result.picture.getpixel((0, 0)), wanted)).max() <= (3 if kind == "JPEG" else 1)
    (note,) = result.notes
    assert note.startswith(f"colours: from “{name}") and note.endswith("to sRGB") and len(note) < 100
    again = opened(stored(result.picture, kind, **exact))
    assert not again.notes  # its profile is gone with its colours


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGBA 0", "L", "LA", "1"])
def test_colours_are_converted_in_any_mode(mode):
    picture = GREEN.copy()
    if mode.startswith("RGBA"):
        picture.putalpha(128 if mode == "RGBA" else 0)
    else:
        picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    plain, result = opened(stored(picture)), opened(stored(picture, icc_profile=P3_GAMMA))
    wanted = {"RGBA": (128, 210, 145), "P": (0, 164, 35), "RGBA 0": (255, 255, 255)}.get(mode)
    if wanted is None:  # greys of Display P3 are greys; only its curve differs a little
        assert np.abs(np.asarray(result.picture).astype(int) - np.asarray(plain.picture)).max() <= 3
    else:
        assert np.abs(np.subtract(result.picture.getpixel((0, 0)), wanted)).max() <= 1
    assert len(result.notes) == len(plain.notes) + 1 and result.picture.mode == "RGB"


def test_grey_and_cmyk_have_profiles_too():
    for picture in (Image.new("L", (4, 4), 119), Image.fromarray(np.full((4, 4), 119 * 257, np.uint16))):
        linear = opened(stored(picture, icc_profile=grey_profile(1.0)))
        assert linear.picture.getpixel((0, 0)) == (182, 182, 182) and "colours: from “grey” to sRGB" in linear.notes
    half = Image.new("CMYK", (8, 8), (0, 0, 0, 128))
    for colour in ((0, 0, 0, 128), (200, 40, 0, 128)):  # a printer without inks but black
        half.paste(colour, (0, 0, 8, 8))
        printed = opened(stored(half, "JPEG", quality=100, icc_profile=cmyk_profile()))
        assert np.abs(np.subtract(printed.picture.getpixel((0, 0)), 118)).max() <= 2  # L* 50
    assert printed.notes == ("CMYK: converted", "colours: from “printer” to sRGB")


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile("sRGB IEC61966-2.1", SRGB, srgb_curve()),
    ],
)
def test_the_profile_of_srgb_changes_no_pixel(profile):
    result = opened(stored(noise(), icc_profile=profile))
    assert same(result.picture, noise()) and result.notes == ()


def test_a_profile_that_can_not_be_used_is_told_and_ignored():
    broken = [b"rubbish", P3_PROFILE[:300], P3_PROFILE[:60] + bytes(200), cmyk_profile(), grey_profile(2.2)]
    damaged = bytearray(P3_PROFILE)
    damaged[132:240] = b"\xff" * 108  # its table of contents
    for profile in (*broken, bytes(damaged)):
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
            result = opened(stored(GREEN, kind, icc_profile=profile, **options))
            assert same(result.picture, GREEN) and result.notes == ("its colour profile can't be used: ignored",)
    data = stored(GREEN)
    packed = zlib.compress(P3_PROFILE)
    for body in (b"", b"name", b"name\0\0" + packed[:-30], b"name\0\0rubbish", b"n\0\0" + zlib.compress(bytes(10**8))):
        result = opened(data[:33] + chunk(b"iCCP", body) + data[33:])
        assert same(result.picture, GREEN) and result.notes == ("its colour profile can't be used: ignored",)
    parts = stored(GREEN, "JPEG", icc_profile=bytes(100_000))  # in two parts, of which one is lost
    lost = parts.index(b"ICC_PROFILE\0\2")
    assert opened(parts[:lost] + b"X" + parts[lost + 1 :]).notes == ("its colour profile can't be used: ignored",)


def test_a_large_profile_is_read():
    padded = P3_GAMMA + bytes(3_000_000)
    sized = struct.pack(">I", len(padded)) + padded[4:]
    result = opened(stored(GREEN, icc_profile=sized))
    assert result.picture.getpixel((0, 0)) == (0, 164, 35)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x24ftypheic", "HEIC"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"II*\0", "TIFF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"BM\x36\0\1\0\0\0\0\0", "BMP"),
        (b"%PDF-1.7", "PDF"),
        (b'<svg xmlns="http', "SVG"),
    ],
)
def test_other_formats_are_named(start, name):
    sentence = refusal(io.BytesIO(start + bytes(500)))
    assert name in sentence and "no PNG, JPEG, WebP or GIF; save it as one of these." in sentence


def strokes(colour, ground, size=(40, 30)):
    """A stroke on a layer."""
    layer = Image.new("RGBA", size, ground)
    layer.paste(colour, (5, 5, 15, 15))
    return layer


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "1", "I;16", "GIF", "WEBP"])
def test_what_is_transparent_is_not_painted(mode):
    layer = strokes("white", (255, 255, 255, 0))
    if mode in ("RGB", "L", "1", "I;16"):  # without transparency: black is not painted
        layer = strokes("white", (0, 0, 0, 255)).convert("RGB")
    if mode == "I;16":
        layer = Image.fromarray(np.asarray(layer.convert("L")).astype(np.uint16) * 257)
        data = stored(layer)
    elif mode == "P":
        data = stored(layer.quantize(8))
    elif mode in ("GIF", "WEBP"):
        data = stored(layer, mode, **({"lossless": True} if mode == "WEBP" else {}))
    else:
        data = stored(layer.convert(mode))
    mask = open_mask(io.BytesIO(data))
    wanted = np.zeros((30, 40), bool)
    wanted[5:15, 5:15] = True
    assert mask.mode == "L" and np.array_equal(np.asarray(mask) == 255, wanted)
    assert np.array_equal(np.asarray(mask) == 0, ~wanted)


def test_a_stroke_that_is_half_opaque_is_half_painted():
    assert open_mask(strokes((255, 255, 255, 128), (255, 255, 255, 0))).getpixel((10, 10)) == 128
    assert open_mask(strokes((0, 0, 0, 255), (0, 0, 0, 0))).getextrema() == (0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"no picture at all",
        pickle.dumps(print),
        png_of_size(0, 5),
        png_of_size(5, 0),
        stored(noise(), "BMP"),
        stored(noise(), "TIFF"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_what_is_no_picture_of_ours_is_refused(data, tmp_path):
    assert "PNG, JPEG, WebP or GIF" in refusal(io.BytesIO(data))
    (tmp_path / "a.png").write_bytes(data)
    assert "PNG, JPEG, WebP or GIF" in refusal(tmp_path / "a.png")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # would block for ever
    for path in (tmp_path / "nothing", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        assert "no such file" in refusal(path)
    assert "no pixels" in refusal(Image.new("RGB", (0, 5)))


STRIPES = ("red", "lime", "blue")


def striped(vertical):
    """90 x 30 in three stripes, or the same upright."""
    picture = Image.new("RGB", (90, 30))
    for index, colour in enumerate(STRIPES):
        picture.paste(colour, (30 * index, 0, 30 * index + 30, 30))
    return picture.transpose(Image.Transpose.ROTATE_270) if vertical else picture


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("size", [16, 30, 120])
def test_a_square_keeps_the_middle_or_everything(vertical, size):
    def colours(how):
        picture = fitted(striped(vertical), size, how)
        assert picture.size == (size, size) and picture.mode == "RGB"
        places = [size // 6, size // 2, size - 1 - size // 6]
        pixels = [picture.getpixel((size // 2, at) if vertical else (at, size // 2)) for at in places]
        return [STRIPES[np.argmax(pixel)] for pixel in pixels], picture

    assert colours("crop")[0] == ["lime"] * 3
    squeezed, picture = colours("fit")
    assert squeezed == list(STRIPES) and np.asarray(picture).min(-1).max() < 128  # no white
    padded, picture = colours("pad")
    assert padded == list(STRIPES)
    assert picture.getpixel((0, 0)) == picture.getpixel((size - 1, size - 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((64, 64), (64, 64)),
        ((500, 500), (64, 64)),
        ((300, 100), (112, 40)),
        ((100, 300), (40, 112)),
        ((112, 40), (112, 40)),
        ((72, 72), (64, 64)),
        ((65, 63), (64, 64)),
        ((3000, 10), (256, 8)),
        ((1, 1), (64, 64)),
    ],
)
def test_whole_keeps_everything_and_the_shape(given, found):
    made = whole(striped(vertical=False).resize(given, Image.Resampling.NEAREST), 64, 8)
    assert made.size == found
    if min(given) > 3:
        pixels = [made.getpixel((at * found[0] // 6, found[1] // 2)) for at in (1, 3, 5)]
        assert [STRIPES[np.argmax(pixel)] for pixel in pixels] == list(STRIPES)


@pytest.mark.parametrize(
    "given, found", [((300, 100), (300, 100)), ((4096, 1), (2048, 1)), ((1000, 4000), (512, 2048))]
)
def test_own_size_is_bounded(given, found):
    assert own_size(Image.new("L", given)) == found


@pytest.mark.parametrize("how", ["crop", "fit", "pad"])
def test_square_takes_any_shape_and_leaves_squares_alone(how):
    for width, height in ((1, 900), (900, 1), (1, 1), (7, 5)):
        assert fitted(noise(width, height), 16, how).size == (16, 16)
    assert same(fitted(noise(16, 16), 16, how), noise(16, 16))


@pytest.mark.parametrize(
    ("shape", "drawn"), [((120, 60), (96, 48)), ((60, 120), (48, 96)), ((64, 64), (64, 64)), ((9000, 1), (256, 8))]
)
def test_a_shape_is_kept_in_about_as_many_pixels(shape, drawn):
    assert shape_of(shape, 64, 8) == drawn
    assert shape_of(drawn, 64, 8) == drawn or max(drawn) == 256  # and stays what it is
    picture = fitted(noise(*shape), drawn, "keep")
    assert picture.size == drawn


def test_what_is_fitted_is_told_only_where_its_shape_changes():
    wide = noise(90, 60)
    assert fit_note(wide, 64, "keep") is None and fit_note(wide, (96, 64), "crop") is None
    assert fit_note(wide, 64, "fit") == "90 x 60: squeezed into a square"
    assert fit_note(wide, (64, 96), "pad") == "90 x 60: put on a white 64 x 96"
