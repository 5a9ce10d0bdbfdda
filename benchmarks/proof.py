"""Is one step enough? YOSO against its teacher, against other ways to one step, and without each of its parts.

    python -m benchmarks.proof train      # the runs of every table, into runs/proof; each resumes
    python -m benchmarks.proof measure    # 2,000 pictures a seed for every row, into benchmarks/proof.json
    python -m benchmarks.proof report     # the tables in Markdown, and docs/proof-curves.png

All on the bundled family: the same teacher, data, judge, noise. `train` and `measure` take names, to do a part.
Tables 2 and 3 compare equal and small budgets (`BUDGET`), each method from the same recipe with what makes it another
method changed; the bundled LoRA of table 1 had more.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from train.config import load_config
from train.console import run_command
from train.diffusion import DiffusionConfig
from train.evaluate import (
    EvaluateConfig,
    Reference,
    Report,
    Row,
    Sampling,
    Scores,
    ceilings,
    load_generator,
    load_judge,
    make_pictures,
    measure,
)
from train.export import DIFFUSERS_FILE
from train.runs import train_diffusion, train_yoso
from train.yoso import YosoConfig

ROOT = Path(__file__).resolve().parent.parent
RUNS, RESULTS, CURVES = ROOT / "runs/proof", ROOT / "benchmarks/proof.json", ROOT / "docs/proof-curves.png"
RECIPE = ROOT / "train/recipes/yoso.json"
BUNDLED, CORPUS = "models/yoso-emoji", ROOT / "data/emoji"
BUDGET = {"steps": 300, "batch": 32, "warmup": 30, "ema": 0.98, "compile": False, "preview_every": 300}
SEEDS, COUNT = (0, 1, 2), 2000
TEACHER_STEPS = (1, 2, 4, 8, 25, 50)
GUIDANCES = (1.0, 1.5, 2.0, 3.0)
SEARCHED = 8  # above this many steps the best guidance of this many is taken: the search would cost more than the rows


@dataclass(frozen=True)
class Method:
    """One run: what it shows, and what it changes in the recipe."""

    title: str
    changes: dict
    model: str = BUNDLED


NO_PRIOR_BASE = str(RUNS / "epsilon-base" / "output")
METHODS = {
    "yoso": Method("YOSO", {}),
    "yoso-seed-1": Method("YOSO, another seed", {"seed": 1}),
    "yoso-seed-2": Method("YOSO, a third seed", {"seed": 2}),
    "distillation": Method(
        "consistency distillation alone",
        {
            "adversarial_weight": 0.0,
            "reconstruction_weight": 0.0,
            "consistency_path": "teacher",
            "consistency_cap": 1.0,  # all noise levels alike, as is usual there: YOSO's weight is 0 at pure noise
            "consistency_floor": 1.0,
        },
    ),
    "diffusion-gan": Method("diffusion GAN on real data", {"cooperation_offset": 1000, "consistency_weight": 0.0}),
    "no-cooperation": Method("YOSO without cooperation", {"cooperation_offset": 1000}),
    "plain-distance": Method("YOSO, plain squared distance", {"consistency_distance": "mse"}),
    "no-reconstruction": Method("YOSO without reconstruction", {"reconstruction_weight": 0.0}),
    "full": Method("YOSO, all weights trained", {"adapter": "full", "learning_rate": 2e-4}),
    "epsilon": Method("YOSO on an epsilon teacher", {}, NO_PRIOR_BASE),
}
EPSILON_BASE = DiffusionConfig(
    model=BUNDLED,
    data=str(CORPUS),
    prediction="epsilon",
    zero_terminal_snr=False,
    learning_rate=2e-4,
    steps=400,
    batch=32,
    ema=0.98,
    preview_guidance=2.0,
)
TABLES = {
    "1. Teacher and student": ["teacher", "bundled"],
    "2. Other ways to one step, at equal budget": ["yoso", "distillation", "diffusion-gan"],
    "3. Without its parts, at equal budget": [
        *("yoso", "no-cooperation", "plain-distance", "no-reconstruction", "full", "epsilon", "epsilon-no-prior"),
    ],
    "4. Three seeds of training": ["yoso", "yoso-seed-1", "yoso-seed-2"],
}


def train(names: list[str]) -> None:
    for name in names or METHODS:
        method = METHODS[name]
        if method.model == NO_PRIOR_BASE:
            train_diffusion(EPSILON_BASE, RUNS / "epsilon-base")
        recipe = load_config(YosoConfig, RECIPE)
        train_yoso(dataclasses.replace(recipe, **BUDGET | {"model": method.model} | method.changes), RUNS / name)


def rows_of(title: str, model, sampling: Sampling, reference: Reference, seeds=SEEDS, count=COUNT) -> list[Row]:
    """A row a split: pictures of every seed, measured."""
    rows = []
    for name, split in reference.splits.items():
        scores = []
        for seed in seeds:
            captions = split.captions[:count]
            with torch.autocast(model.unet.device.type, torch.bfloat16):  # twice as fast; the same for every row
                made = make_pictures(model, captions, seed, sampling)
            scores.append(measure(made.pictures, reference, name, made.seconds))
        rows.append(Row(title, name, sampling.evaluations, len(captions), tuple(scores)))
        print(
            f"{title}, {name}: Fréchet {rows[-1].mean('frechet'):.2f}, R@5 {rows[-1].mean('first_five'):.3f}",
            flush=True,
        )
    return rows


def measure_teacher(reference: Reference, done: Callable[[str, list[Row]], None]) -> None:
    """DDIM at every number of steps, at the guidance of least Fréchet distance over the trained pairs of one seed."""
    model, search = (
        load_generator(BUNDLED, "none"),
        dataclasses.replace(reference, splits={"trained": reference.splits["trained"]}),
    )
    best = GUIDANCES[0]
    for steps in TEACHER_STEPS:
        if steps <= SEARCHED:
            found = {
                guidance: rows_of(f"search {guidance:g}", model, Sampling("ddim", steps, guidance), search, (0,))[0]
                for guidance in GUIDANCES
            }
            best = min(found, key=lambda guidance: found[guidance].mean("frechet"))
        title = f"teacher, {steps} steps, guidance {best:g}"
        done(f"teacher-{steps}", rows_of(title, model, Sampling("ddim", steps, best), reference))


def measure_all(names: list[str]) -> None:
    reference = Reference.load(CORPUS, load_judge("emoji"), COUNT)

    def done(key: str, rows: list[Row]) -> None:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[key] = [dataclasses.asdict(row) for row in rows]
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")

    for name in names or ["ceilings", "bundled", *METHODS, "teacher"]:
        if name == "ceilings":
            done(name, ceilings(load_generator(BUNDLED, "none"), reference))
        elif name == "teacher":
            measure_teacher(reference, done)
        elif name == "bundled":
            model = load_generator(BUNDLED)
            for steps in (1, 2, 4):
                title = f"YOSO, {steps} step{'s' * (steps > 1)}"
                done(f"bundled-{steps}", rows_of(title, model, Sampling("consistency", steps), reference))
        else:
            method, out = METHODS[name], RUNS / name / "output"
            lora = out / DIFFUSERS_FILE
            model = load_generator(method.model, str(lora if lora.exists() else out))
            if name == "epsilon":
                for key, prior in (("epsilon", True), ("epsilon-no-prior", False)):
                    title = f"{method.title}, {'with' if prior else 'without'} informative prior"
                    done(key, rows_of(title, model, Sampling("consistency", 1, 1.0, prior), reference))
            else:
                done(name, rows_of(method.title, model, Sampling("consistency", 1), reference))


def read_results() -> dict[str, list[Row]]:
    stored = json.loads(RESULTS.read_text())
    return {
        key: [Row(**row | {"scores": tuple(Scores(**one) for one in row["scores"])}) for row in rows]
        for key, rows in stored.items()
    }


def report() -> None:
    results = read_results()
    for title, keys in {"0. What can be reached": ["ceilings"], **TABLES}.items():
        found = [key for wanted in keys for key in results if key == wanted or key.rsplit("-", 1)[0] == wanted]
        found = sorted(dict.fromkeys(found), key=lambda key: _order(key, keys))
        rows = [row for key in found for row in results[key]]
        if rows:
            print(f"### {title}\n\n{Report(EvaluateConfig(), tuple(rows)).to_markdown()}")


def _order(key: str, keys: list[str]) -> tuple[int, int]:
    if key in keys:
        return keys.index(key), 0
    name, number = key.rsplit("-", 1)
    return keys.index(name), int(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure", "report"))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(METHODS)}; to measure also ceilings, bundled, teacher")
    options = parser.parse_args()
    if options.what == "report":
        report()
    else:
        (train if options.what == "train" else measure_all)(options.names)


if __name__ == "__main__":
    run_command(main)
