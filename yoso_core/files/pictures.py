"""Any picture as people have it, read safely: 8-bit RGB, upright, opaque, of bounded size."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from yoso_core.requests import PIXEL_LIMIT, RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
LONGEST = 4  # times the side of a square that a network was trained on: more it has never seen
AREA_TOLERANCE = 0.25
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


class PictureFileError(RequestError):
    """A file that no picture can be read from, in one sentence."""


@dataclass(frozen=True)
class Opened:
    """A picture that was read.

    Attributes:
        picture: RGB, upright, without metadata, shared with nobody.
        notes: what was done to it, in plain words; empty for an ordinary picture.
    """

    picture: Image.Image
    notes: tuple[str, ...]


def open_picture(source: Path | BinaryIO | Image.Image) -> Opened:
    """Read a PNG, JPEG, WebP or GIF (its first frame), whatever its file name says.

    The size is checked in the header, before anything is decoded.

    Raises:
        PictureFileError: no such file, another format, damaged, empty, or more than 25 megapixels.
    """
    if isinstance(source, Path) and not source.is_file():  # a pipe or a device would be waited for
        raise PictureFileError("There is no such file.")
    try:
        if isinstance(source, Image.Image):
            return _plain(source)
        with Image.open(source, formats=FORMATS) as picture:
            return _plain(picture)
    except (PictureFileError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PictureFileError("This is no PNG, JPEG, WebP or GIF picture, or its beginning is damaged.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureFileError(f"The picture is far larger than {PIXEL_LIMIT / 1e6:g} megapixels.") from None
    except Exception as error:  # PIL's readers raise a dozen unrelated types on damaged files
        raise PictureFileError(f"The picture can't be read, it may be damaged ({error!s:.80}).") from error


def _plain(picture: Image.Image) -> Opened:
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
    picture.load()
    mode = picture.mode.split(";")[0]  # "I;16B" is as "I"
    if mode in MODE_NOTES:
        notes.append(MODE_NOTES[mode])
    turn = TURNS.get(_orientation(picture))
    if mode in ("I", "F"):
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            notes.append("transparent: put on white")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    plain = picture.convert("RGB")
    if turn is not None:
        notes.append("rotated as its EXIF says")
        plain = plain.transpose(turn)
    plain.info = {}  # an EXIF orientation left in it would turn it again
    return Opened(plain, tuple(notes))


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


def square(picture: Image.Image, size: int, how: str = "crop") -> Image.Image:
    """A picture as `size` x `size` pixels.

    Args:
        picture: RGB, or L.
        size: side in pixels.
        how: "crop" keeps the middle, "fit" squeezes the whole picture into the square, "pad" puts the whole picture,
            shapes kept, on white.
    """
    if picture.size == (size, size):
        return picture
    if how == "crop":
        return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    if how == "fit":
        return picture.resize((size, size), Image.Resampling.LANCZOS)
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    canvas = Image.new(picture.mode, (size, size), "white")
    canvas.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return canvas


def whole(picture: Image.Image, size: int, unit: int) -> Image.Image:
    """All of a picture in about as many pixels as a square has, its shape kept as nearly as the unit allows.

    Args:
        picture: RGB, or L; left alone where it has such sides already.
        size: side of the square in pixels.
        unit: of which each side becomes a multiple; the longer one at most `LONGEST` times the square's.
    """
    width, height = picture.size
    if width % unit == height % unit == 0 and abs(width * height / size**2 - 1) < AREA_TOLERANCE:
        return picture
    ratio = math.sqrt(width / height)
    sides = (min(round(side / unit) * unit, LONGEST * size) for side in (size * ratio, size / ratio))
    width, height = (max(unit, side) for side in sides)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def own_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height in which what is made of a picture is given back: its own, sides at most `OWN_SIDE`."""
    scale = min(1.0, OWN_SIDE / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return width, height


def square_note(picture: Image.Image, how: str) -> str | None:
    """What `square` does to a picture, in words; None where it only changes its size."""
    if picture.width == picture.height:
        return None
    shape = f"{picture.width} x {picture.height}"
    return {
        "crop": f"{shape}: cropped to its middle",
        "fit": f"{shape}: squeezed into a square",
        "pad": f"{shape}: put on a white square",
    }[how]
