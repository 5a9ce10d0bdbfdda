"""The sheet of the README: the first 64 everyday prompts as the page draws them, one evaluation each, none chosen.

python -m benchmarks.sheet --out docs/sheet.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from app.styles import ANY_STYLE, with_style
from benchmarks.everyday import read_prompts
from yoso_core.engine import Engine
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest

SHOWN = 64
COLUMNS, SIDE, CAPTION = 8, 128, 22  # pixels


def sheet(engine: Engine, texts: list[str], steps: int = 1, seed: int = 0) -> Image.Image:
    """Pictures, eight a row, each over its prompt; in the style that the seed chooses."""
    words = engine.models[DEFAULT_MODEL].words
    rows = -(-len(texts) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for index, text in enumerate(texts):
        prompt = with_style(text, ANY_STYLE, words.styles)
        picture = engine.run(GenerateRequest(prompt, seed=seed, steps=steps)).pictures[0]
        left, top = index % COLUMNS * SIDE, index // COLUMNS * (SIDE + CAPTION)
        canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
        told = words.spelled_out(text)  # the font has no emoji
        told = told if len(told) < 22 else told[:21] + "…"
        draw.text((left + SIDE / 2, top + SIDE + 3), told, fill="#555", font=font, anchor="ma")
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/sheet.png"))
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(Engine(MODELS), read_prompts()[:SHOWN], options.steps, options.seed).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
