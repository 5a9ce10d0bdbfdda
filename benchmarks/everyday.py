"""Is what people type what they get? 200 everyday prompts, written by somebody who knew neither corpus nor model.

    python -m benchmarks.everyday --json benchmarks/everyday.json

One evaluation each, seed 0, emoji characters spelled out as the studio does it. A prompt counts where the judge finds
it among the five nearest of a hundred of them. Words that the judge does not know say nothing to it, so prompts of such
words alone are counted as not found.
"""

import argparse
import json
from pathlib import Path

import torch

from train.loop.randomness import Use, generator_for
from train.measure.evaluate import Sampling, load_generator, load_judge, look_at, make_pictures
from train.measure.metrics import retrieval

PROMPTS = Path(__file__).with_suffix(".txt")
POOL = 100  # prompts to choose from


def read_prompts() -> list[str]:
    return PROMPTS.read_text(encoding="utf-8").split("\n")[:-1]


def everyday(model: str) -> dict[str, float]:
    """Rates from 0 to 1."""
    generator = load_generator(model)
    texts = [generator.spec.words.spelled_out(text) for text in read_prompts()]
    judge = load_judge("emoji")
    made = make_pictures(generator, texts, seed=0, sampling=Sampling(steps=1))
    captions = judge.read(texts)
    rates = retrieval(look_at(judge, made.pictures).vectors, captions, POOL, generator_for(0, Use.POOLS))
    known = (captions.norm(dim=1) > 0).float().mean().item()
    return {"prompts": len(texts), "first": rates[1], "among five": rates[5], "known to the judge": known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yoso-emoji", help="a known model or a folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with torch.inference_mode():
        found = everyday(options.model)
    print(" | ".join(f"{name} {value:.3g}" for name, value in found.items()))
    if options.json:
        options.json.write_text(json.dumps({"model": options.model} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
