"""What it costs to change LoRAs between two requests of the bundled model.

    python -m benchmarks.swap --lora runs/styles/line-art/output --lora runs/styles/pixel-art/output

Requests with one set of LoRAs and with another take turns, each twice: the first pays for the change, the second does
not, and the difference of their medians is the extra cost. The model's own one-step LoRA acts in all of them. Sets have
one LoRA and five; where there are too few files for ten LoRAs, files stand for several, which costs the same.
"""

import argparse
import sys
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import torch

from yoso_core.cached import LORA_FILE
from yoso_core.engine import Engine
from yoso_core.lora.library import bundled
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, LORA_LIMIT, GenerateRequest, LoraUse, RequestError

REPEATS = 50
MARK = 20.0  # milliseconds
WARM_UP = 4  # requests of each set: prompts are encoded, memory is taken


@dataclass(frozen=True)
class Row:
    """One size of a set, in milliseconds.

    Attributes:
        loras: how many are exchanged.
        with_swap: median of a request that comes after one with the other set.
        without: median of a request that comes after the same one.
        weights: what of `with_swap` goes into the weights.
    """

    loras: int
    with_swap: float
    without: float
    weights: float

    @property
    def extra(self) -> float:
        return self.with_swap - self.without


def measure(engine: Engine, names: list[str], repeats: int) -> Row:
    """Exchange the first half of the LoRAs for the second one, and back, `repeats` times in all."""
    half = len(names) // 2
    sets = [tuple(LoraUse(name, 1 / half) for name in some) for some in (names[:half], names[half:])]
    requests = [GenerateRequest("a red heart, 3d", loras=loras) for loras in sets]
    for _ in range(WARM_UP):
        for request in requests:
            engine.run(request)
    totals: dict[bool, list[float]] = {True: [], False: []}
    weights = []
    for request in islice(cycle(requests), repeats):
        for swaps in (True, False):
            seconds = engine.run(request).seconds
            totals[swaps].append(seconds["total"] * 1000)
            if swaps:
                weights.append(seconds["weights"] * 1000)
    return Row(half, median(totals[True]), median(totals[False]), median(weights))


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| LoRAs | with a swap | without | extra cost | of it weights | of a picture |", f"|{'---:|' * 6}"]
    for row in rows:
        times = f"{row.with_swap:.1f} ms | {row.without:.1f} ms | {row.extra:.1f} ms | {row.weights:.1f} ms"
        lines.append(f"| {row.loras} | {times} | {row.extra / row.without:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files_help = "a file, or the output folder of a run, as often as you like; default: the bundled ones"
    parser.add_argument("--lora", type=Path, action="append", metavar="PATH", help=files_help)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"timed swaps a row; default {REPEATS}")
    options = parser.parse_args()
    files = [path / LORA_FILE if path.is_dir() else path for path in options.lora or []]
    files = files or [entry.path for entry in bundled()]
    if not files:
        sys.exit("error: No LoRAs are bundled; name some with --lora.")
    engine = Engine(MODELS)
    try:
        rows = []
        for count in (1, LORA_LIMIT):
            names = [f"{count}-{index}" for index in range(2 * count)]
            for name, path in zip(names, cycle(files), strict=False):
                engine.add_lora(name, path)
            rows.append(measure(engine, names, options.repeats))
    except RequestError as error:
        sys.exit(f"error: {error}")
    title = MODELS[DEFAULT_MODEL].title
    print(f"{title} on {engine.device}, {torch.get_num_threads()} threads, median of {options.repeats} swaps:\n")
    print(f"{table(rows)}\n")
    for row in rows:
        verdict = "under" if row.extra < MARK else "NOT under"
        print(f"Swapping {row.loras}: {row.extra:.1f} ms, {verdict} the mark of {MARK:g} ms.")


if __name__ == "__main__":
    main()
