"""Scenes as an ordinary folder of captioned pictures, for everything that trains or measures on one.

    python -m train.recipes.corpus.export --out data/scenes --count 6000
    python -m train.recipes.corpus.export --out data/day-night --count 2500 --weathers day night
    python -m train.recipes.corpus.export --out data/flat-3d --count 2500 --styles flat 3d

Beside the scenes it holds the held-out sprites, marked so that nothing trains on them. With ``--weathers`` every scene
is there once in each light or weather, with ``--styles`` once in each style, and its captions say which: so the two are
domains to learn from, and pairs by name to measure against.
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from train.loop.console import run_command
from train.recipes.corpus.art import CORPUS, STYLES, process_pool
from train.recipes.corpus.corpus import Corpus
from train.recipes.corpus.grounds import GROUND_PLACES, WEATHER_WORDS, WEATHERS
from train.recipes.corpus.scenes import Scenes, describe

AT_ONCE = 256  # pictures


@dataclass(frozen=True)
class Exported:
    """Scenes under one name, and what their rows say beside the caption."""

    prefix: str
    scenes: Scenes
    held_out: bool = False
    word: str = ""  # added to every caption


def _write(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, compress_level=1)


def export(corpus: Corpus, out: Path, parts: list[Exported]) -> int:
    """Write the pictures and ``metadata.jsonl``; returns how many."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with process_pool() as pool:
        for part in parts:
            for start in tqdm(range(0, len(part.scenes), AT_ONCE), desc=part.prefix, unit="batch"):
                chosen = torch.arange(start, min(start + AT_ONCE, len(part.scenes)))
                scenes = part.scenes[chosen]
                pictures = _bytes(corpus.painter(scenes))
                names = [f"{part.prefix}-{index:06d}.png" for index in chosen.tolist()]
                list(pool.map(_write, [out / name for name in names], pictures, chunksize=16))
                for row, (name, caption) in enumerate(zip(names, scenes.captions, strict=True)):
                    first = scenes.sprite[row, 0].item()
                    sprite = corpus.art[first] if first >= 0 else None
                    rows.append(
                        {
                            "file_name": name,
                            "label": sprite.label if sprite else "",
                            "style": sprite.style if sprite else "",
                            "captions": [f"{caption}, {part.word}" if part.word else caption],
                            "held_out": part.held_out,
                        }
                    )
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(rows)


def _bytes(pictures: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8."""
    return ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def outdoor_scenes(corpus: Corpus, count: int, seed: int) -> Scenes:
    """Scenes that light and weather change."""
    found = describe(corpus.describer, count * 6, seed)
    outdoors = (found.ground[:, GROUND_PLACES["outdoors"]][:, 0] > 0).nonzero()[:count, 0]
    return found[outdoors]


def restyled(corpus: Corpus, scenes: Scenes, style: str) -> Scenes:
    """The same scenes with every sprite in another style, where all of them have that and are not held out."""
    places = {(one.label, one.style): index for index, one in enumerate(corpus.art) if not one.held_out}
    now = torch.tensor([places.get((one.label, style), -2) for one in corpus.art])
    sprite = torch.where(scenes.sprite >= 0, now[scenes.sprite.clamp_min(0)], -1)
    return Scenes(scenes.captions, scenes.ground, sprite, scenes.place, scenes.weather)


def scenes_in_styles(corpus: Corpus, count: int, seed: int, styles: list[str]) -> list[Scenes]:
    """`count` scenes in each of the styles, captions without a style's name."""
    found = describe(corpus.describer, count * 3, seed)
    found = found[torch.tensor([not words_in(caption) & {*STYLES} for caption in found.captions]).nonzero()[:, 0]]
    variants = [restyled(corpus, found, style) for style in styles]
    whole = torch.stack([(each.sprite != -2).all(1) for each in variants]).all(0) & (found.counts > 0)
    chosen = whole.nonzero()[:count, 0]
    return [each[chosen] for each in variants]


def words_in(caption: str) -> set[str]:
    return set(re.findall(r"\w+", caption.lower()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CORPUS, help="the corpus")
    parser.add_argument("--out", type=Path, default=Path("data/scenes"), help="folder to write")
    parser.add_argument("--count", type=int, default=6000, help="scenes")
    parser.add_argument("--seed", type=int, default=2, help="of the scenes")
    parser.add_argument("--weathers", nargs="+", choices=WEATHERS, default=[], help="each scene in each of these")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=[], help="each scene in each of these")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    corpus = Corpus.load(options.data, device)
    if options.weathers:
        scenes = outdoor_scenes(corpus, options.count, options.seed)
        plain = [_without_weather(caption) for caption in scenes.captions]
        scenes = Scenes(plain, scenes.ground, scenes.sprite, scenes.place, scenes.weather)
        parts = [Exported(name, scenes.under(name), word=name) for name in options.weathers]
    elif options.styles:
        variants = scenes_in_styles(corpus, options.count, options.seed, options.styles)
        parts = [Exported(name, scenes, word=name) for name, scenes in zip(options.styles, variants, strict=True)]
    else:
        scenes = describe(corpus.describer, options.count, options.seed)
        held_out = sum(one.held_out for one in corpus.art)
        parts = [
            Exported("scene", scenes),
            Exported("sprite", describe(corpus.unseen, held_out, options.seed), held_out=True),
        ]
    print(f"{export(corpus, options.out, parts)} pictures in {options.out}")


def _without_weather(caption: str) -> str:
    """A caption without what it says of light and weather; the domain's word says that."""
    said = sorted({word for phrases in WEATHER_WORDS.values() for word in phrases if word}, key=len, reverse=True)
    for phrase in said:
        caption = caption.replace(f" {phrase}", "")
    return caption


if __name__ == "__main__":
    run_command(main)
