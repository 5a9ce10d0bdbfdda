"""Any picture as people have it, read safely: 8-bit sRGB, upright, opaque, of bounded size."""

import itertools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from yoso_core.files import png
from yoso_core.requests import PIXEL_LIMIT, RequestError, Size, sides_of

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif")  # how such files are called
LONGEST = 4  # times the side of a square that a network was trained on: more it has never seen
AREA_TOLERANCE = 0.25
KEPT = 1.25  # how much wider or higher than a picture its shape may be drawn: small networks have large units
OWN_SIDE = 2048  # pixels; a network of 64 or 512 pixels has nothing to say about more

# How a picture is turned upright, by its EXIF orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MODE_NOTES = {
    "1": "black and white: converted",
    "L": "grey: converted",
    "LA": "grey: converted",
    "P": "palette: converted",
    "PA": "palette: converted",
    "CMYK": "CMYK: converted",
    "I": "16-bit: scaled to 8",
    "F": "floating point: scaled to 8 bits",
}
# What PIL multiplies samples of few bits by, and forgets to do so with the one that means transparent.
GREY_SCALES = {"L;2": 85, "L;4": 17}
OTHERS = (  # how files begin that people take for pictures, and what they are
    (re.compile(rb"....ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "a HEIC picture"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "an AVIF picture"),
    (re.compile(rb"....JXL |\xff\x0a", re.DOTALL), "a JPEG XL picture"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF picture or a camera's raw file"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), "a BMP picture"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"gimp xcf"), "a GIMP file"),
    (re.compile(rb"%PDF-"), "a PDF"),
    (re.compile(rb"\s*(<\?xml|<svg)"), "a drawing in SVG or another XML file"),
)
PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space to what it converts
BROKEN_PROFILE = "its colour profile can't be used: ignored"
PROBE_LEVELS = 9  # of each channel


class PictureFileError(RequestError):
    """A file that no picture can be read from, in one sentence."""


@dataclass(frozen=True)
class Opened:
    """A picture that was read.

    Attributes:
        picture: RGB as sRGB has it, upright, without metadata, shared with nobody.
        notes: what was done to it, in plain words; empty for an ordinary picture.
    """

    picture: Image.Image
    notes: tuple[str, ...]


def open_picture(source: Path | BinaryIO | Image.Image, ground: str = "white") -> Opened:
    """Read a PNG, JPEG, WebP or GIF (its first frame), whatever its file name says.

    The size is checked in the header, before anything is decoded.

    Args:
        source: where it is.
        ground: the colour that what is transparent is put on.

    Raises:
        PictureFileError: no such file, another format, damaged, empty, or more than 25 megapixels.
    """
    with opened(source) as found:
        return _plain(found.picture, found.profile, ground)


def open_mask(source: Path | BinaryIO | Image.Image) -> Image.Image:
    """Read a mask as "L": bright where to paint, as far as it is opaque. What is transparent is not painted.

    Raises:
        PictureFileError: as `open_picture`.
    """
    return open_picture(source, ground="black").picture.convert("L")


class Header(NamedTuple):
    """A picture whose pixels are not read yet.

    Attributes:
        picture: as PIL has it.
        profile: ICC profile; b"" of one that can't be read; None where there is none.
        texts: those of a PNG by their keywords.
    """

    picture: Image.Image
    profile: bytes | None
    texts: Callable[[], dict[str, str]]


@contextmanager
def opened(source: Path | BinaryIO | Image.Image) -> Iterator[Header]:
    """A picture for as long as the block lasts; whatever goes wrong with it there is one sentence.

    Raises:
        PictureFileError: as `open_picture`.
    """
    if isinstance(source, Path) and not source.is_file():  # a pipe or a device would be waited for
        raise PictureFileError("There is no such file.")
    try:
        if isinstance(source, Image.Image):
            yield Header(source, _profile(source), lambda: dict(getattr(source, "text", {})))
        elif isinstance(source, Path):
            with open(source, "rb") as file, _header(file) as found:
                yield found
        else:
            with _header(source) as found:
                yield found
    except (RequestError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PictureFileError("This is no PNG, JPEG, WebP or GIF picture, or its beginning is damaged.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureFileError(f"The picture is far larger than {PIXEL_LIMIT / 1e6:g} megapixels.") from None
    except Exception as error:  # PIL's readers raise a dozen unrelated types on damaged files
        raise PictureFileError(f"The picture can't be read, it may be damaged ({error!s:.80}).") from error


@contextmanager
def _header(file: BinaryIO) -> Iterator[Header]:
    if png.is_png(file):
        bare = png.bare(file)
        with Image.open(bare.file, formats=FORMATS) as picture:
            yield Header(picture, bare.profile, lambda: png.texts(file))
        return
    start = file.read(16)
    named = next((name for pattern, name in OTHERS if pattern.match(start)), None)
    if named is not None:
        raise PictureFileError(f"This is {named} and no PNG, JPEG, WebP or GIF; save it as one of these.")
    file.seek(0)
    with Image.open(file, formats=FORMATS) as picture:
        yield Header(picture, _profile(picture), dict)


def _profile(picture: Image.Image) -> bytes | None:
    """The ICC profile; b"" of one that PIL could not put together; None where there is none."""
    return (picture.info["icc_profile"] or b"") if "icc_profile" in picture.info else None


def _plain(picture: Image.Image, profile: bytes | None, ground: str) -> Opened:
    width, height = picture.size
    if width * height > PIXEL_LIMIT:
        raise PictureFileError(
            f"The picture has {width * height / 1e6:.1f} megapixels; at most {PIXEL_LIMIT / 1e6:g} are read."
        )
    if not width * height:
        raise PictureFileError("The picture has no pixels.")
    notes = []
    # Phones put a second picture behind the first ("MPO"), which is no animation.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        notes.append("animated: first frame used")
    tiles = getattr(picture, "tile", None)  # gone once it is loaded
    packed = str(tiles[0].args) if tiles else ""
    picture.load()
    mode = picture.mode.split(";")[0]  # "I;16B" is as "I"
    if mode in MODE_NOTES:
        notes.append(MODE_NOTES[mode])
    turn = TURNS.get(_orientation(picture))
    opacity = _opacity(picture, packed)
    plain, told = _to_srgb(_eight_bits(picture) if mode in ("I", "F") else picture, profile)
    notes += told
    if opacity is not None:
        notes.append(f"transparent: put on {ground}")
        plain = Image.composite(plain, Image.new("RGB", plain.size, ground), opacity)
    if turn is not None:
        notes.append("rotated as its EXIF says")
        plain = plain.transpose(turn)
    plain.info = {}  # an EXIF orientation left in it would turn it again
    return Opened(plain, tuple(notes))


def _opacity(picture: Image.Image, packed: str) -> Image.Image | None:
    """How opaque each pixel is, "L"; None where all are.

    Args:
        picture: of any mode.
        packed: how its samples are stored, as PIL calls that; "" where it is not known.
    """
    if not picture.has_transparency_data:
        return None
    if picture.mode.startswith("I"):
        hidden = np.asarray(picture) == picture.info["transparency"]
        opacity = Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))
    else:
        if packed in GREY_SCALES:
            picture = picture.copy()
            picture.info["transparency"] *= GREY_SCALES[packed]
        elif packed == "RGB;16B":  # of which PIL keeps the upper bytes
            picture = picture.copy()
            picture.info["transparency"] = tuple(value >> 8 for value in picture.info["transparency"])
        opacity = picture.convert("RGBA").getchannel("A")
    return opacity if opacity.getextrema()[0] < 255 else None


def _to_srgb(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    """The colours that a picture of 8 bits means, as RGB without transparency, and what was done in words."""
    if profile is None:
        return _without_alpha(picture, "RGB"), []
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        wanted = PROFILE_MODES[source.profile.xcolor_space.strip()]
        if (picture.mode == "CMYK") != (wanted == "CMYK") or (wanted == "L" and picture.mode not in ("1", "L", "LA")):
            raise ValueError("for other pictures")
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), wanted, "RGB")
        if _changes_nothing(transform, wanted):
            return _without_alpha(picture, "RGB"), []
        plain = ImageCms.applyTransform(_without_alpha(picture, wanted), transform)
    except MemoryError:
        raise
    except Exception:  # a profile is a small program that somebody wrote
        return _without_alpha(picture, "RGB"), [BROKEN_PROFILE]
    return plain, [f"colours: from {_name(source)} to sRGB"]


def _without_alpha(picture: Image.Image, mode: str) -> Image.Image:
    """A picture in "RGB", "L" or "CMYK", its colours as they are under its transparency."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")  # "P" would mix in the colours that are hidden
    if picture.mode == mode:
        return picture.copy()
    return picture.convert(mode)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours stay what they are but for rounding, as with the profiles that mean sRGB."""
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, PROBE_LEVELS).round().astype(np.uint8)
    if mode == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        probe = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(PROBE_LEVELS, -1, 3))
    before = np.asarray(probe.convert("RGB")).astype(int)
    return np.abs(np.asarray(ImageCms.applyTransform(probe, transform)) - before).max() <= 1


def _name(profile: ImageCms.ImageCmsProfile) -> str:
    """What a profile calls itself, on one line of bounded length."""
    text = ImageCms.getProfileDescription(profile)
    words = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return f"“{words:.60}”" if words else "its profile"


def _orientation(picture: Image.Image) -> int:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises anything, and is no reason to refuse the picture
        return 1


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits or more as "L": PIL's own conversion would clip all above 255 to white.

    "I" and "F" don't say their range: the least of 1, 8 and 16 bits that holds all values is taken, else their own.
    """
    values = np.asarray(picture).astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise PictureFileError("The picture has values that are no finite numbers.")
    ceilings = (65535,) if picture.mode.startswith("I;") else (1, 255, 65535)
    if low >= 0 and high <= ceilings[-1]:
        low, high = 0, next(ceiling for ceiling in ceilings if high <= ceiling)
    return Image.fromarray(np.round((values - low) * (255 / ((high - low) or 1))).astype(np.uint8))


def fitted(picture: Image.Image, size: Size, how: str = "crop") -> Image.Image:
    """A picture in this size.

    Args:
        picture: RGB, or L.
        size: side of a square, or width and height, in pixels.
        how: "crop" keeps the middle, "fit" squeezes the whole picture into the shape, "pad" puts the whole picture,
            shapes kept, on white; "keep" squeezes by what `shape_of` rounds, and crops what is of another shape.
    """
    width, height = sides_of(size)
    if picture.size == (width, height):
        return picture
    if how == "keep":
        apart = (picture.width * height) / (picture.height * width)
        how = "fit" if 1 / KEPT < apart < KEPT else "crop"
    if how == "crop":
        return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    if how == "fit":
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    scale = min(width / picture.width, height / picture.height)
    inner = tuple(max(1, round(side * scale)) for side in picture.size)
    canvas = Image.new(picture.mode, (width, height), "white")
    place = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    canvas.paste(picture.resize(inner, Image.Resampling.LANCZOS), place)
    return canvas


def shape_of(shape: tuple[int, int], size: Size, unit: int) -> tuple[int, int]:
    """Width and height in a shape, of about as many pixels as `size` has.

    Args:
        shape: width and height, of any unit; as it is where it is a size already.
        size: side of a square, or width and height, in pixels.
        unit: of which each side becomes a multiple; the longer one at most `LONGEST` times that of the square.
    """
    area = math.prod(sides_of(size))
    width, height = shape
    if width % unit == height % unit == 0 and abs(width * height / area - 1) < AREA_TOLERANCE:
        return shape
    side, ratio = math.sqrt(area), width / height
    exact = (side * math.sqrt(ratio), side / math.sqrt(ratio))
    longest = round(LONGEST * side)
    around = (
        {min(longest, max(unit, whole(each / unit) * unit)) for whole in (math.floor, math.ceil)} for each in exact
    )

    def off(sides: tuple[int, int]) -> float:
        """How far from the shape, and half as bad, from the area."""
        return abs(math.log(sides[0] / sides[1] / ratio)) + abs(math.log(math.prod(sides) / area)) / 2

    return min(itertools.product(*around), key=off)


def whole(picture: Image.Image, size: Size, unit: int) -> Image.Image:
    """All of a picture in about as many pixels as `size` has, its shape kept as nearly as the unit allows."""
    shape = shape_of(picture.size, size, unit)
    return picture if picture.size == shape else picture.resize(shape, Image.Resampling.LANCZOS)


def own_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height in which what is made of a picture is given back: its own, sides at most `OWN_SIDE`."""
    scale = min(1.0, OWN_SIDE / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return width, height


def fit_note(picture: Image.Image, size: Size, how: str) -> str | None:
    """What `fitted` does to a picture, in words; None where it keeps its shape."""
    width, height = sides_of(size)
    if how == "keep" or picture.width * height == picture.height * width:
        return None
    shape, wanted = f"{picture.width} x {picture.height}", "square" if width == height else f"{width} x {height}"
    return {
        "crop": f"{shape}: cropped to its middle",
        "fit": f"{shape}: squeezed into {'a square' if wanted == 'square' else wanted}",
        "pad": f"{shape}: put on a white {wanted}",
    }[how]
