"""How alike the pictures of the runtimes are: in levels of 255, and to the judge.

    python -m benchmarks.runtimes --json benchmarks/runtimes.json

The same prompts and seeds by torch, by OpenVINO in float32, and by OpenVINO in bfloat16. The judge's Fréchet distance
between two runtimes stands beside that between two sets of seeds of the same runtime, which is what chance alone makes.
"""

import argparse
import json
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.measure.evaluate import load_judge, look_at
from train.measure.metrics import frechet_distance, retrieval
from yoso_core.engine import Engine
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest
from yoso_core.runtimes.openvino import OpenVINO

POOL = 100  # captions that a picture's own is to be found among


def pictures(engine: Engine, captions: list[str], first: int) -> Tensor:
    """(N, 3, S, S) uint8, one of each caption; seeds count up from `first`."""
    made = [
        np.asarray(engine.run(GenerateRequest(caption, seed=first + index)).pictures[0])
        for index, caption in enumerate(captions)
    ]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m benchmarks.runtimes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--count", type=int, default=600, help="pictures of each runtime; default 600")
    options = parser.parse_args()
    words = MODELS[DEFAULT_MODEL].words
    styles = cycle(words.styles or [""])
    captions = [
        f"{name}, {style}" for name, style in zip(islice(cycle(words.names), options.count), styles, strict=False)
    ]
    engines = {"torch float32": Engine(device="cpu")}
    for precision in ("f32", "bf16"):
        engine = Engine(device="cpu")
        engine.runtime = OpenVINO(engine.lock, precision)
        engines[f"openvino {precision}"] = engine
    judge = load_judge("emoji")
    read = judge.read(captions)
    seen, made = {}, {}
    for name, engine in engines.items():
        engine.load(DEFAULT_MODEL)
        made[name] = pictures(engine, captions, 0)
        seen[name] = look_at(judge, made[name])
    reference = engines["torch float32"]
    chance = look_at(judge, pictures(reference, captions, 100_000)).features
    plain = seen["torch float32"].features
    found = {"other seeds": {"frechet": frechet_distance(plain, chance)}}
    for name, one in seen.items():
        difference = (made[name].int() - made["torch float32"].int()).abs().float()
        found[name] = {
            "mean": difference.mean().item(),
            "p99": float(np.percentile(difference.numpy(), 99)),
            "frechet": frechet_distance(plain, one.features),
            "found": retrieval(one.vectors, read, POOL, torch.Generator().manual_seed(0))[5],
        }
    print("| | levels, mean | 99th percentile | Fréchet to torch | caption found |\n|---|---:|---:|---:|---:|")
    for name, one in found.items():
        cells = (f"{one[key]:.3f}" if key in one else "" for key in ("mean", "p99", "frechet", "found"))
        print(f"| {name} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
