"""Pictures in styles that the bundled model does not know, made from its corpus by image processing.

    python -m train.styles --data data/emoji --out data/styles

writes a folder of captioned pictures a style, for ``python -m train teacher --adapter lora``. Captions name the style
in two words that no caption of the corpus has, so that the LoRA can be called by them.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from tqdm import tqdm

from train.data import not_held_out, read_listing
from yoso_core.pictures import open_picture

SIDE = 128  # pixels; training takes what it needs
PIXELS = 16  # a side of pixel art
COLOURS = 10  # of one piece of pixel art
NIGHT = ((10, 14, 38), (70, 60, 150), (255, 214, 140))  # black, middle and white of the night palette
INK, PAPER = (38, 34, 30), (250, 247, 240)


def pixel_art(picture: Image.Image) -> Image.Image:
    """A coarse grid of few flat colours."""
    small = picture.resize((PIXELS, PIXELS), Image.Resampling.BOX)
    few = small.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    return few.resize(picture.size, Image.Resampling.NEAREST)


def line_art(picture: Image.Image) -> Image.Image:
    """Ink outlines on paper, without any fill: the gradient of the smoothed picture, over all three channels."""
    smooth = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    down, right = np.gradient(smooth, axis=(0, 1))
    strength = np.hypot(down, right).max(axis=2)
    ink = Image.fromarray((np.clip((strength - 6) / 22, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    return Image.composite(Image.new("RGB", picture.size, INK), Image.new("RGB", picture.size, PAPER), ink)


def night(picture: Image.Image) -> Image.Image:
    """As if lit by a lamp at night: dark blue where it was white, amber where it was dark."""
    grey = ImageOps.autocontrast(ImageOps.invert(picture.convert("L")), cutoff=1)
    return ImageOps.colorize(grey, *(NIGHT[index] for index in (0, 2)), mid=NIGHT[1])


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "pixel art": pixel_art,
    "line art": line_art,
    "night palette": night,
}


def build(data: Path, out: Path, style: str) -> int:
    """Write the pictures of one style with their captions; returns how many."""
    folder = out / style.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_listing(data, not_held_out).rows
    lines = []
    for row in tqdm(rows, desc=style):
        picture = open_picture(data / row["file_name"]).picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        name = row["file_name"].replace("/", "-")
        STYLES[style](picture).save(folder / name)
        captions = [f"{caption}, {style}" for caption in row["captions"][:4]]
        lines.append(json.dumps({"file_name": name, "captions": captions}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="folder of the corpus")
    parser.add_argument("--out", type=Path, default=Path("data/styles"), help="gets a folder a style")
    options = parser.parse_args()
    for style in STYLES:
        print(f"{build(options.data, options.out, style)} pictures in {style}")


if __name__ == "__main__":
    main()
