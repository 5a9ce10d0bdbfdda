"""The sheet of the README: 64 one-step pictures from prompts as people type them, first seed, none chosen.

python -m benchmarks.sheet --out docs/sheet.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from yoso_core.engine import Engine
from yoso_core.models import MODELS
from yoso_core.requests import GenerateRequest

PROMPTS = """
a red heart, 3d | grinning face flat | dog face, noto | a slice of pizza, twemoji | rocket 3d | evergreen tree, flat
a red car, noto | golden crown twemoji | blue whale, 3d | strawberry flat | a cat face, noto | sunflower, twemoji
wrapped gift 3d | soccer ball, flat | hot dog noto | a pumpkin, twemoji | alien, 3d | penguin flat | umbrella, noto
guitar twemoji | a red apple, 3d | snowman, flat | robot face, noto | mushroom twemoji | octopus, 3d | candle flat
green frog, noto | bicycle, twemoji | the earth, 3d | cactus, flat | a pig, noto | ice cream twemoji | light bulb, 3d
a bee, flat | skull noto | turtle, twemoji | lemon 3d | tomato, flat | panda, noto | hamburger, twemoji
smiling face with sunglasses, 3d | crying face, flat | angry face, noto | sleepy face, twemoji
ghost, 3d | fire, flat | star noto | moon, twemoji | birthday cake, 3d | doughnut flat | cherries, noto
grapes, twemoji
elephant, 3d | fox flat | lion, noto | chick, twemoji | airplane, 3d | sailboat flat | bus, noto | tent, twemoji
key, 3d | bell flat | tulip, noto | basketball twemoji
"""
COLUMNS, SIDE, CAPTION = 8, 128, 22  # pixels


def prompts() -> list[str]:
    return [prompt.strip() for prompt in PROMPTS.replace("\n", "|").split("|") if prompt.strip()]


def sheet(engine: Engine, texts: list[str], steps: int = 1, seed: int = 0) -> Image.Image:
    """Pictures, eight a row, each over its prompt."""
    rows = -(-len(texts) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for index, text in enumerate(texts):
        picture = engine.run(GenerateRequest(text, seed=seed, steps=steps)).pictures[0]
        left, top = index % COLUMNS * SIDE, index // COLUMNS * (SIDE + CAPTION)
        canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
        words = text if len(text) < 22 else text[:21] + "…"
        draw.text((left + SIDE / 2, top + SIDE + 3), words, fill="#555", font=font, anchor="ma")
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/sheet.png"))
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(Engine(MODELS), prompts(), options.steps, options.seed).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
