"""Pictures in styles that the bundled model does not know, made from scenes by image processing.

    python -m train.recipes.corpus.styles --data data/scenes --out data/styles

writes a folder of captioned pictures a style, for ``python -m train teacher --adapter lora``. Captions name the style
in two words that no caption of the corpus has, so that the LoRA can be called by them.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFilter
from tqdm import tqdm

from train.data.reader import not_held_out, read_listing
from train.loop.console import run_command
from train.recipes.corpus.art import SIDE, process_pool
from yoso_core.files.pictures import open_picture, square

INK, PAPER = (38, 34, 30), (250, 248, 242)
PIXELS = 32  # large ones a side
NIGHT = (12, 8, 28)


def edges(picture: Image.Image, blur: float, low: float, high: float) -> Image.Image:
    """How steep the smoothed picture is, over all three channels: from 0 at `low` levels a pixel to 255 at `high`."""
    smooth = np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32)
    down, right = np.gradient(smooth, axis=(0, 1))
    strength = np.hypot(down, right).max(axis=2)
    return Image.fromarray((np.clip((strength - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def line_art(picture: Image.Image) -> Image.Image:
    """Ink outlines on paper, without any fill."""
    ink = edges(picture, 1.2, 6, 28).filter(ImageFilter.MaxFilter(3))
    return Image.composite(Image.new("RGB", picture.size, INK), Image.new("RGB", picture.size, PAPER), ink)


def pixel_art(picture: Image.Image) -> Image.Image:
    """A small grid of few colours, enlarged without smoothing."""
    small = picture.resize((PIXELS, PIXELS), Image.Resampling.BOX)
    few = small.quantize(16, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    return few.resize(picture.size, Image.Resampling.NEAREST)


def watercolour(picture: Image.Image) -> Image.Image:
    """Pale washes with dark rims, on grained paper."""
    wash = picture
    for _ in range(2):
        wash = wash.filter(ImageFilter.MedianFilter(5))
    pale = np.asarray(wash.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32)
    pale = 255 - (255 - pale) * 0.72
    rim = np.asarray(edges(wash, 1.5, 2, 40), dtype=np.float32)[..., None] / 255
    grain = np.random.default_rng(0).normal(0, 1, (SIDE // 2, SIDE // 2)).astype(np.float32)
    grain = np.asarray(Image.fromarray(grain).resize(picture.size, Image.Resampling.BICUBIC))[..., None]
    painted = pale * (1 - 0.28 * rim) + grain * 5 * (1 - pale / 400)
    return Image.fromarray(np.clip(painted * (0.99, 0.98, 0.95), 0, 255).astype(np.uint8))


def neon_night(picture: Image.Image) -> Image.Image:
    """Glowing outlines in bright hues on a dark night."""
    hue, saturation, _ = picture.filter(ImageFilter.GaussianBlur(2)).convert("HSV").split()
    vivid = saturation.point(lambda value: min(255, 120 + value))
    light = Image.merge("HSV", (hue, vivid, Image.new("L", picture.size, 255))).convert("RGB")
    tube = edges(picture, 1.0, 8, 30)
    glow = ImageChops.screen(tube, tube.filter(ImageFilter.GaussianBlur(5)).point(lambda value: min(255, value * 2)))
    night = ImageChops.add(Image.new("RGB", picture.size, NIGHT), picture.point(lambda value: value // 9))
    return Image.composite(light, night, glow)


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "line art": line_art,
    "pixel art": pixel_art,
    "watercolour painting": watercolour,
    "neon night": neon_night,
}


def _restyle(style: str, source: Path, out: Path) -> None:
    STYLES[style](square(open_picture(source).picture, SIDE)).save(out, compress_level=1)


def build(data: Path, out: Path, style: str) -> int:
    """Write the pictures of one style with their captions; returns how many."""
    folder = out / style.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_listing(data, not_held_out).rows
    sources = [data / row["file_name"] for row in rows]
    names = [row["file_name"].replace("/", "-") for row in rows]
    with process_pool() as pool:
        made = pool.map(partial(_restyle, style), sources, [folder / name for name in names], chunksize=32)
        list(tqdm(made, desc=style, total=len(rows)))
    lines = [
        json.dumps(
            {"file_name": name, "captions": [f"{caption}, {style}" for caption in row["captions"][:4]]},
            ensure_ascii=False,
        )
        for name, row in zip(names, rows, strict=True)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/scenes"), help="folder of scenes")
    parser.add_argument("--out", type=Path, default=Path("data/styles"), help="gets a folder a style")
    options = parser.parse_args()
    for style in STYLES:
        print(f"{build(options.data, options.out, style)} pictures in {style}")


if __name__ == "__main__":
    run_command(main)
