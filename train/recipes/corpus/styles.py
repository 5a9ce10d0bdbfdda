"""Pictures in styles that the bundled model does not know, made from its corpus by image processing.

    python -m train.recipes.corpus.styles --data data/emoji --out data/styles

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

from train.data.reader import not_held_out, read_listing
from train.loop.console import run_command
from train.recipes.corpus.emoji import CORPUS
from yoso_core.files.pictures import open_picture, square

SIDE = 128  # pixels; training takes what it needs
INK, PAPER = (38, 34, 30), (255, 255, 255)  # white, because the bundled autoencoder knows no other ground

Colour = tuple[int, int, int]


def line_art(picture: Image.Image) -> Image.Image:
    """Ink outlines on paper, without any fill: the gradient of the smoothed picture, over all three channels."""
    smooth = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    down, right = np.gradient(smooth, axis=(0, 1))
    strength = np.hypot(down, right).max(axis=2)
    ink = Image.fromarray((np.clip((strength - 6) / 22, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    return Image.composite(Image.new("RGB", picture.size, INK), Image.new("RGB", picture.size, PAPER), ink)


def duotone(picture: Image.Image, dark: Colour, middle: Colour) -> Image.Image:
    """Brightness as a ramp of two inks on white paper."""
    grey = ImageOps.autocontrast(picture.convert("L"), cutoff=1)
    return ImageOps.colorize(grey, dark, "white", mid=middle)


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "line art": line_art,
    "blueprint ink": lambda picture: duotone(picture, (10, 30, 90), (60, 130, 220)),
    "dusk palette": lambda picture: duotone(picture, (38, 20, 90), (222, 92, 120)),
}


def build(data: Path, out: Path, style: str) -> int:
    """Write the pictures of one style with their captions; returns how many."""
    folder = out / style.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_listing(data, not_held_out).rows
    lines = []
    for row in tqdm(rows, desc=style):
        picture = square(open_picture(data / row["file_name"]).picture, SIDE)
        name = row["file_name"].replace("/", "-")
        STYLES[style](picture).save(folder / name)
        captions = [f"{caption}, {style}" for caption in row["captions"][:4]]
        lines.append(json.dumps({"file_name": name, "captions": captions}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CORPUS, help="folder of the corpus")
    parser.add_argument("--out", type=Path, default=Path("data/styles"), help="gets a folder a style")
    options = parser.parse_args()
    for style in STYLES:
        print(f"{build(options.data, options.out, style)} pictures in {style}")


if __name__ == "__main__":
    run_command(main)
