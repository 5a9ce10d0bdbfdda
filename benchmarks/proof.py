"""Is one step enough? YOSO against its teacher, against other ways to one step, and without each of its parts.

    python -m benchmarks.proof train      # the runs of every table, into runs/proof; each resumes
    python -m benchmarks.proof measure    # 2,000 pictures a seed for every row, into benchmarks/proof.json
    python -m benchmarks.proof report     # fills the tables of PAGES, draws docs/proof-*.png

All on the bundled family: the same teacher, data, judge, noise. `train` and `measure` take names, to do a part.
Methods are compared at equal and small budgets, each with the settings of `YOSO` and what makes it another method
changed.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill

import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw, ImageFont

from train.loop.console import run_command
from train.loop.randomness import Use, generator_for
from train.measure.evaluate import (
    EvaluateConfig,
    Made,
    Reference,
    Report,
    Row,
    Sampling,
    Scores,
    ceilings,
    load_generator,
    load_judge,
    make_pictures,
    rows_of,
    to_levels,
)
from train.runs.assemble import load, train_diffusion, train_scratch, train_yoso
from train.tasks.diffusion import DiffusionConfig
from train.tasks.scratch import CONTEXT, FAMILY, TIMESTEPS, ScratchConfig, ScratchDiffusionConfig
from train.tasks.yoso import YosoConfig
from yoso_core.condition import Condition
from yoso_core.denoiser import Denoiser
from yoso_core.sampling import ddim, ddim_timesteps, few_step, few_step_timesteps
from yoso_core.schedule import NoiseSchedule

ROOT = Path(__file__).resolve().parent.parent
RUNS, RESULTS = ROOT / "runs/proof", ROOT / "benchmarks/proof.json"
PAGES = (ROOT / "docs/proof.md", ROOT / "models/yoso-emoji/README.md")
CURVES, PICTURES = ROOT / "docs/proof-curves.png", ROOT / "docs/proof-pictures.png"
BUNDLED, CORPUS = "models/yoso-emoji", ROOT / "data/emoji"
YOSO = YosoConfig(
    model=BUNDLED,
    data=str(CORPUS),
    steps=300,
    batch=32,
    warmup=30,
    ema=0.98,
    learning_rate=5e-4,
    discriminator_learning_rate=2e-4,
    rank=16,
    alpha=16,
    adversarial_weight=0.2,
    consistency_floor=0.2,
    reconstruction_floor=0.5,
    last_timestep_share=0.4,
    preview_every=300,
)
SEEDS, COUNT = (0, 1, 2), 2000
TEACHER_STEPS = (1, 2, 4, 8, 25, 50)
GUIDANCES = (1.0, 1.5, 2.0, 3.0)
SEARCHED, SEARCH_COUNT = 25, 500  # guidance is searched up to so many steps, on so many pictures of one seed


@dataclass(frozen=True)
class Method:
    """One run: what it shows, and what it changes in `YOSO`."""

    title: str
    changes: dict
    model: str = BUNDLED


GUIDED = {  # the recipe of the bundled LoRA, train/recipes/yoso.json
    "consistency_path": "teacher",
    "teacher_guidance": 2.0,
    "consistency_offset": 250,
    "consistency_floor": 1.0,
    "adversarial_weight": 0.1,
    "last_timestep_share": 0.5,
}
EPSILON_OUTPUT = str(RUNS / "epsilon-base" / "output")
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
    "diffusion-gan": Method(
        "diffusion GAN on real data, with reconstruction", {"cooperation_offset": 1000, "consistency_weight": 0.0}
    ),
    "no-cooperation": Method("YOSO without cooperation", {"cooperation_offset": 1000}),
    "no-adversary": Method("YOSO without adversary", {"adversarial_weight": 0.0}),
    "plain-distance": Method("YOSO, plain squared distance", {"consistency_distance": "mse"}),
    "no-reconstruction": Method("YOSO without reconstruction", {"reconstruction_weight": 0.0}),
    "guided": Method("YOSO, consistent with its guided teacher", GUIDED),
    "guided-no-adversary": Method("the same without adversary", GUIDED | {"adversarial_weight": 0.0}),
    "guided-longer": Method("that with 5 times the samples", GUIDED | {"steps": 700, "batch": 64, "ema": 0.99}),
    "paper": Method(
        "YOSO, the paper's own weights",
        {
            "adversarial_weight": 1.0,
            "consistency_floor": 0.0,
            "reconstruction_floor": 0.0,
            "last_timestep_share": 0.0,
        },
    ),
    "full": Method("YOSO, all weights trained", {"adapter": "full", "learning_rate": 2e-4}),
    "epsilon": Method("YOSO on an epsilon teacher", {}, EPSILON_OUTPUT),
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
SCRATCH_BUDGET = {"steps": 400, "batch": 32, "warmup": 40, "ema": 0.98, "preview_every": 400, "data": str(CORPUS)}
SCRATCH = {"scratch": ScratchConfig(**SCRATCH_BUDGET), "scratch-diffusion": ScratchDiffusionConfig(**SCRATCH_BUDGET)}
SCRATCH_STEPS = {"scratch": (1,), "scratch-diffusion": (1, 10)}
MEASURES = ("frechet", "kernel", "precision", "recall", "first", "first_five")  # no times: runs share the processor
TABLES = {  # where `report` puts them: between marks of these names in `PAGES`
    "ceilings": ["ceilings"],
    "in short": ["teacher-1", "teacher-4", "teacher-25", "bundled-1"],
    "teacher and student": ["teacher", "teacher-unguided", "bundled"],
    "other ways": ["yoso", "distillation", "diffusion-gan"],
    "parts": [
        *("yoso", "no-cooperation", "no-adversary", "plain-distance", "no-reconstruction", "paper", "full"),
        *("epsilon", "epsilon-no-prior", "guided", "guided-no-adversary", "guided-longer"),
    ],
    "seeds": ["yoso", "yoso-seed-1", "yoso-seed-2"],
    "scratch": ["scratch", "scratch-diffusion"],
}


def train(names: list[str]) -> None:
    loaded = {}
    for name in names or [*METHODS, *SCRATCH]:
        if name in SCRATCH:
            train_scratch(SCRATCH[name], RUNS / name)
            continue
        method = METHODS[name]
        if method.model == EPSILON_OUTPUT:
            train_diffusion(EPSILON_BASE, RUNS / "epsilon-base")
        config = dataclasses.replace(YOSO, model=method.model, **method.changes)
        if method.model not in loaded:
            loaded[method.model] = load(config, RUNS / name)
        train_yoso(config, RUNS / name, loaded[method.model])


def rows_of_model(title: str, model, sampling: Sampling, reference: Reference, seeds=SEEDS) -> list[Row]:
    """A row a split, the pictures drawn in bfloat16: twice as fast, and the same for every row."""

    def make(captions: list[str], seed: int) -> Made:
        with torch.autocast(model.device.type, torch.bfloat16):
            return make_pictures(model, captions, seed, sampling)

    rows = rows_of(title, sampling.evaluations, make, reference, seeds)
    for row in rows:
        print(f"{title}, {row.split}: Fréchet {row.mean('frechet'):.2f}, R@5 {row.mean('first_five'):.3f}", flush=True)
    return rows


@torch.inference_mode()
def measure_scratch(name: str, judge, done: Callable[[str, list[Row]], None]) -> None:
    """Pictures without prompts against the real ones at the same size; there are no captions to be retrieved."""
    config, out = SCRATCH[name], RUNS / name / "output/unet"
    real = Reference.load(CORPUS, judge, COUNT, config.size).splits["trained"]
    reference = Reference({"trained": dataclasses.replace(real, vectors=None)}, judge, torch.device("cpu"))
    network = UNet2DConditionModel.from_pretrained(out).eval().to(memory_format=torch.channels_last)
    schedule, one_step = NoiseSchedule.from_config(TIMESTEPS), name == "scratch"
    denoise = Denoiser(partial(FAMILY.predict, network), schedule, "v_prediction", consistent=one_step)
    for steps in SCRATCH_STEPS[name]:

        def make(captions: list[str], seed: int, steps: int = steps) -> Made:
            shape = (steps if one_step else 1, len(captions), 3, config.size, config.size)
            noises = torch.randn(shape, generator=generator_for(seed, Use.PICTURE))
            parts, started = [], time.perf_counter()
            for start in range(0, len(captions), 100):
                part = [noise[start : start + 100] for noise in noises]
                empty = Condition(torch.zeros(len(part[0]), 1, CONTEXT))
                with torch.autocast("cpu", torch.bfloat16):
                    if one_step:
                        timesteps = few_step_timesteps(steps)
                        parts.append(few_step(denoise, schedule, part[0], empty, timesteps, part[1:]))
                    else:
                        timesteps = ddim_timesteps(steps, schedule.last)
                        parts.append(ddim(denoise, schedule, part[0], empty, timesteps))
            return Made(to_levels(torch.cat(parts)), (time.perf_counter() - started) / len(captions))

        title = f"{'YOSO' if one_step else 'diffusion'} from scratch, {steps} step{'s' * (steps > 1)}"
        seeds = SEEDS if steps == 1 else SEEDS[:1]  # many steps take minutes
        done(f"{name}-{steps}", rows_of(title, steps, make, reference, seeds))


def measure_teacher(reference: Reference, done: Callable[[str, list[Row]], None]) -> None:
    """DDIM at every number of steps, at the guidance of least Fréchet distance over some of the trained pairs.

    The most steps take the guidance that was best at the most searched, and one seed; so does the row without guidance.
    """
    model = load_generator(BUNDLED, "none")
    model.network.compile()  # a third faster; hours become one
    trained = reference.splits["trained"]
    some = dataclasses.replace(
        trained, captions=trained.captions[:SEARCH_COUNT], vectors=trained.vectors[:SEARCH_COUNT]
    )
    search, best = dataclasses.replace(reference, splits={"trained": some}), GUIDANCES[0]
    for steps in TEACHER_STEPS:
        if steps <= SEARCHED:
            tried = {
                guidance: rows_of_model(
                    f"search {guidance:g}", model, Sampling("ddim", steps, guidance), search, SEEDS[:1]
                )
                for guidance in GUIDANCES
            }
            best = min(tried, key=lambda guidance: tried[guidance][0].mean("frechet"))
        title = f"teacher, {steps} step{'s' * (steps > 1)}, guidance {best:g}"
        seeds = SEEDS if steps <= SEARCHED else SEEDS[:1]
        done(f"teacher-{steps}", rows_of_model(title, model, Sampling("ddim", steps, best), reference, seeds))
    title = f"teacher, {SEARCHED} steps, no guidance"
    done("teacher-unguided", rows_of_model(title, model, Sampling("ddim", SEARCHED), reference, SEEDS[:1]))


def measure_all(names: list[str]) -> None:
    reference = Reference.load(CORPUS, load_judge("emoji"), COUNT)

    def done(key: str, rows: list[Row]) -> None:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[key] = [dataclasses.asdict(row) for row in rows]
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")

    for name in names or ["ceilings", "bundled", *METHODS, *SCRATCH, "teacher"]:
        if name in SCRATCH:
            measure_scratch(name, reference.judge, done)
        elif name == "ceilings":
            done(name, ceilings(load_generator(BUNDLED, "none"), reference))
        elif name == "teacher":
            measure_teacher(reference, done)
        elif name == "bundled":
            model = load_generator(BUNDLED)
            for steps in (1, 2, 4):
                title = f"YOSO, {steps} step{'s' * (steps > 1)}"
                done(f"bundled-{steps}", rows_of_model(title, model, Sampling("lcm", steps), reference))
        else:
            method, out = METHODS[name], str(RUNS / name / "output")
            whole = method.changes.get("adapter") == "full"
            model = load_generator(out, "own") if whole else load_generator(method.model, out)
            if name == "epsilon":
                for key, prior in (("epsilon", True), ("epsilon-no-prior", False)):
                    title = f"{method.title}, {'with' if prior else 'without'} informative prior"
                    done(key, rows_of_model(title, model, Sampling("lcm", 1, 1.0, prior), reference))
            else:
                done(name, rows_of_model(method.title, model, Sampling("lcm", 1), reference))


def read_results() -> dict[str, list[Row]]:
    stored = json.loads(RESULTS.read_text())
    return {
        key: [Row(**row | {"scores": tuple(Scores(**one) for one in row["scores"])}) for row in rows]
        for key, rows in stored.items()
    }


def report() -> None:
    """Fill the tables of the pages with all that has been measured; draw the curves and the pictures."""
    results = read_results()
    for path in PAGES:
        page = path.read_text()
        for name, wanted in TABLES.items():
            start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
            if start in page:
                rows = [row for one in wanted for key in keys_of(results, one) for row in results[key]]
                before, _, rest = page.partition(start)
                table = Report(EvaluateConfig(), tuple(rows)).to_markdown(MEASURES)
                page = f"{before}{start}\n{table}\n{rest[rest.index(end) :]}"
        path.write_text(page)
    draw_curves(TABLES["seeds"])
    draw_pictures(results)


def keys_of(results: dict[str, list[Row]], name: str) -> list[str]:
    """The key of that name, or its keys by number of steps."""
    keys = [key for key in results if key == name or (key.startswith(f"{name}-") and key[len(name) + 1 :].isdigit())]
    return sorted(keys, key=lambda key: (len(key), key))


def draw_curves(names: list[str]) -> None:
    """One panel a loss term, one line a seed."""
    from matplotlib import pyplot

    panels = [("discriminator",), ("logit_real", "logit_fake"), ("consistency",), ("reconstruction",)]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(14, 3), layout="constrained")
    for index, name in enumerate(names):
        points: list[dict] = []
        for line in map(json.loads, (RUNS / name / "events.jsonl").read_text().splitlines()):
            if line["event"] == "StepDone":  # a run that was taken up again has some steps twice
                points = [one for one in points if one["step"] < line["step"]] + [line]
        for axis, terms in zip(axes, panels, strict=True):
            for term, style in zip(terms, ("-", ":"), strict=False):
                steps, values = [one["step"] for one in points], [one["losses"][term] for one in points]
                axis.plot(steps, _smooth(values), style, color=f"C{index}", linewidth=1)
            axis.set_title(" (dotted: ".join(terms) + ")" * (len(terms) - 1), fontsize=9)
            axis.set_xlabel("step", fontsize=8)
    axes[0].legend([f"seed {index}" for index in range(len(names))], fontsize=8)
    figure.savefig(CURVES, dpi=110)


def _smooth(values: list[float], weight: float = 0.8) -> list[float]:
    """Running mean, so that the course shows through the noise of batches."""
    smooth = values[:1]
    for value in values[1:]:
        smooth.append(weight * smooth[-1] + (1 - weight) * value)
    return smooth


HEAD, FOOT = 20, 64  # pixels above and below the pictures


def draw_pictures(results: dict[str, list[Row]], columns: int = 6, side: int = 80) -> None:
    """The first captions of both splits, from the same noise: real, teacher, YOSO. None is chosen."""
    splits = Reference.load(CORPUS, load_judge("emoji")).splits.values()
    captions = [caption for split in splits for caption in split.captions[:columns]]
    teacher, student = load_generator(BUNDLED, "none"), load_generator(BUNDLED)
    rows = [("real pictures", torch.cat([split.pictures[:columns] for split in splits]))]
    for steps in (1, 4, 25):
        evaluations = results[f"teacher-{steps}"][0].evaluations
        guidance = float(results[f"teacher-{steps}"][0].name.rpartition(" ")[2])
        made = make_pictures(teacher, captions, 0, Sampling("ddim", steps, guidance))
        rows.append((f"teacher\n{evaluations} evaluation{'s' * (evaluations > 1)}", made.pictures))
    rows.append(("YOSO\n1 evaluation", make_pictures(student, captions, 0, Sampling()).pictures))
    canvas = Image.new("RGB", (side * (len(captions) + 1) + 12, side * len(rows) + HEAD + FOOT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    write = functools.partial(draw.multiline_text, fill="#555", font=font)
    for index, title in ((0, "trained pairs"), (columns, "held-out pairs")):
        write((_left(index, columns, side), 3), title)
    for row, (title, pictures) in enumerate(rows):
        write((4, HEAD + (row + 0.5) * side), title, anchor="lm")
        for index, picture in enumerate(pictures):
            tile = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BICUBIC)
            canvas.paste(tile, (_left(index, columns, side), HEAD + row * side))
    for index, caption in enumerate(captions):
        middle = _left(index, columns, side) + side / 2, HEAD + len(rows) * side + 4
        write(middle, fill(caption, 13), anchor="ma", align="center")
    canvas.save(PICTURES, optimize=True)


def _left(index: int, columns: int, side: int) -> int:
    """Of a column; the held-out ones stand a little apart."""
    return (index + 1) * side + 12 * (index >= columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure", "report"))
    names = [*METHODS, *SCRATCH, "ceilings", "bundled", "teacher"]
    parser.add_argument("names", nargs="*", help=f"all, or of {', '.join(names)}; the last three are only measured")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    if options.what == "report":
        report()
    else:
        (train if options.what == "train" else measure_all)(options.names)


if __name__ == "__main__":
    run_command(main)
