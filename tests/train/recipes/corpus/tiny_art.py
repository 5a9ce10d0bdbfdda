"""A corpus of a dozen sprites, drawn here, laid out as ``train.recipes.corpus.art`` lays its own out."""

import json
from dataclasses import asdict
from pathlib import Path

from PIL import Image, ImageDraw

from train.recipes.corpus.art import SIDE, STYLES, Sprite

KINDS = (  # label, emoji, tags, group, subgroup, colour
    ("dog face", "🐶", ("dog", "pet"), "animals-nature", "animal-mammal", (200, 120, 60)),
    ("cat", "🐈", ("pet",), "animals-nature", "animal-mammal", (120, 120, 120)),
    ("automobile", "🚗", ("car", "vehicle"), "travel-places", "transport-ground", (220, 30, 30)),
    ("rocket", "🚀", ("space",), "travel-places", "transport-air", (230, 230, 240)),
    ("sailboat", "⛵", ("boat",), "travel-places", "transport-water", (30, 80, 220)),
    ("top hat", "🎩", ("hat",), "objects", "clothing", (30, 30, 30)),
)
HELD_OUT = ("cat", "flat")


def write_art(folder: Path, styles: tuple[str, ...] = STYLES[:2]) -> Path:
    """Write it; discs in one style, squares in the other."""
    rows = []
    for style_number, style in enumerate(styles):
        (folder / style).mkdir(parents=True)
        for index, (label, emoji, tags, group, subgroup, colour) in enumerate(KINDS):
            picture = Image.new("RGBA", (SIDE, SIDE))
            draw = ImageDraw.Draw(picture)
            (draw.rectangle if style_number else draw.ellipse)((16, 16 + 4 * index, 112, 112), fill=(*colour, 255))
            code = f"{ord(emoji[0]):x}"
            file = f"{style}/{code}.webp"
            picture.save(folder / file, lossless=True)
            held_out = (label, style) == HELD_OUT
            rows.append(asdict(Sprite(code, emoji, label, tags, group, subgroup, file, style, held_out)))
    (folder / "art.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


class Here:
    """A pool that works in this process: the real one's processes take seconds to begin."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def map(self, call, *values, chunksize=1):
        return map(call, *values)
