"""What becomes of letters on the way from flat to 3D: one-step translation, SDEdit and the ControlNet.

    python -m benchmarks.letters --out docs/letters.png

Letters are what a change of a picture breaks first. Words of one to three random signs, of a random colour on white,
which nothing was trained on; every picture is one network evaluation. Printed is the F1 of the words' edges within a
pixel; the sheet has a column a word, the first ones of the seed, and a row a way, the words themselves first.
"""

import argparse
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.control import TOLERANCE, maps_of
from train.data.latents import grid, to_unit_range
from train.loop.console import run_command
from train.measure.metrics import edge_f1
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL, ControlUse, EditRequest, GenerateRequest, TranslateRequest

COUNT, SHOWN = 100, 8  # words
LONGEST = 3  # signs
STRENGTHS = (0.3, 0.5, 0.7)


def words(side: int) -> Iterator[Image.Image]:
    """Words on white, as large as fits: `side` x `side` pixels, drawn four times as large and made smaller."""
    numbers = np.random.default_rng(0)
    for _ in range(COUNT):
        word = "".join(numbers.choice(list(string.ascii_letters + string.digits), numbers.integers(1, LONGEST + 1)))
        colour = tuple(numbers.integers(0, 180, 3).tolist())
        large = Image.new("RGB", (4 * side, 4 * side), "white")
        font = ImageFont.load_default(5 * side / max(2, len(word)))
        ImageDraw.Draw(large).text((2 * side, 2 * side), word, colour, font, "mm", stroke_width=side // 16)
        yield large.resize((side, side), Image.Resampling.LANCZOS)


def ways() -> Iterator[tuple[str, Callable[[Image.Image], GenerateRequest]]]:
    yield "ours", lambda picture: TranslateRequest("", picture=picture, translator="flat-3d", direction="a2b")
    for strength in STRENGTHS:
        yield (
            f"SDEdit {strength:g}",
            lambda picture, strength=strength: EditRequest("3d", picture=picture, strength=strength),
        )
    yield "ControlNet", lambda picture: GenerateRequest("3d", control=ControlUse(picture=picture, annotator="canny"))


def stack(pictures: list[Image.Image]) -> Tensor:
    """(N, 3, S, S) uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="PNG of the first words")
    options = parser.parse_args()
    engine = Engine()
    given = list(words(engine.models[DEFAULT_MODEL].resolution))
    asked, rows = maps_of(stack(given), "edges (Canny)"), [stack(given[:SHOWN])]
    for name, request in ways():
        made = stack([engine.run(request(picture)).pictures[0] for picture in given])
        print(f"{name}: edges {edge_f1(asked, maps_of(made, 'edges (Canny)'), TOLERANCE).mean():.3f}", flush=True)
        rows.append(made[:SHOWN])
    if options.out:
        sheet = grid(to_unit_range(torch.cat(rows)), SHOWN)
        sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(options.out)
        print(options.out)


if __name__ == "__main__":
    run_command(main)
