"""One-step translation against three other ways, on the same inputs: how near the target domain, how much is kept.

    python -m benchmarks.translate train   # networks without a backbone, and the ablation: 90 minutes of a core
    python -m benchmarks.translate measure --json benchmarks/translate.json

Lines to emoji starts from edges and scribbles of the 300 pictures that nothing was trained on. Flat to 3D and back
starts from 500 pictures of a domain: the training saw most of them, never with their counterparts. Every picture is one
network evaluation. The other ways: SDEdit at every strength, the bundled ControlNet on the edges of the input, and
CycleGAN's network without any pretrained part, trained on the same data by the same losses in as many steps. The judge
is the bundled evaluator; none of these was trained against it.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.control import BATCH, TOLERANCE, maps_of
from benchmarks.one_step import say
from benchmarks.plain import PlainGenerator
from train.data.latents import grid, load_pictures, to_unit_range
from train.data.reader import not_held_out
from train.loop.config import load_config
from train.loop.console import follow, run_command
from train.loop.randomness import Use, generator_for
from train.loop.trainer import Trainer
from train.measure.evaluate import load_generator, load_judge, look_at, through_autoencoder, to_levels
from train.measure.evaluator import WIDTHS, Evaluator
from train.measure.metrics import edge_f1, frechet_distance, retrieval
from train.runs.assemble import build_translation, train_translate
from train.tasks.base import load_base
from train.tasks.perception import load_perception
from train.tasks.translate_config import TRAINED, TranslateConfig
from train.tasks.translate_data import drawn_lines
from yoso_core.autoencoder import decode, encode
from yoso_core.condition import Condition
from yoso_core.conditioning import CONTROLS, Guide, load_control
from yoso_core.loading import LoadedModel
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.sampling import one_step, prior_start, sdedit_start, strength_timestep
from yoso_core.translate import BACK, FORWARD, TRANSLATORS_FOLDER, load_translator, read_translator

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "translate"
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COUNT = 500  # pictures of a domain that are translated
ABLATION_STEPS = 150
PLAIN_RATE = 2e-4  # learning rate, as published
PLAIN = {"plain-edges": "edges", "plain-flat-3d": "flat-3d"}
JOBS = (*PLAIN, *TRAINED)
POOL = 100  # captions to choose from
WEIGHTS = "generator.safetensors"
SHOWN = 8  # pictures in a row
OURS, TOLD = "ours", " with captions"
KINDS = {"edges": "edges (Canny)", "scribble": "scribble"}
RECIPES = {"edges": ROOT / "train/recipes/edges.json", "flat-3d": ROOT / "train/recipes/flat-3d.json"}


def recipe(name: str, **changes: Any) -> TranslateConfig:
    """What a bundled translator was trained with."""
    return replace(load_config(TranslateConfig, RECIPES[name]), **changes)


@dataclass(frozen=True)
class Row:
    """How one way does on one kind of input; means over the pictures.

    Attributes:
        task: what is translated.
        way: how.
        frechet: distance to the pictures of the target domain, 0 or more; rows of one task compare.
        edges: F1 of the edges of what was made and those asked for, which may be off by a pixel.
        features: distance to the picture to keep, by the deep features of the judge: root mean square of deviations.
        prompt: share whose caption is among the five nearest of a hundred.
    """

    task: str
    way: str
    frechet: float
    edges: float
    features: float
    prompt: float


@dataclass(frozen=True)
class Inputs:
    """What is translated, and what it is measured by.

    Attributes:
        task: its name.
        translator: the bundled one for it, a key of `RECIPES`.
        direction: of that.
        given: (N, 3, S, S) uint8, as people give it.
        asked: (N, S, S) bool, the edges to keep.
        kind: of edges, a key of `benchmarks.control.MAPS`.
        kept: (N, 3, S, S) uint8, the picture whose content is to be kept.
        domain: (M, 3, S, S) uint8, pictures of the target domain.
        captions: of the pictures to make.
        fixed: the prompt of all, where a translator has one.
    """

    task: str
    translator: str
    direction: str
    given: Tensor
    asked: Tensor
    kind: str
    kept: Tensor
    domain: Tensor
    captions: list[str]
    fixed: str | None = None


def read_inputs(data: Path, size: int) -> Iterator[Inputs]:
    flat, solid = (
        load_pictures(data, size, keep=lambda row, style=style: row["style"] == style) for style in ("flat", "3d")
    )
    ways = (("flat to 3D", FORWARD, flat, solid, "3d"), ("3D to flat", BACK, solid, flat, "flat"))
    for task, direction, start, end, word in ways:
        chosen = torch.randperm(len(start), generator=generator_for(0, Use.PROMPTS))[:COUNT]
        given = start.pictures[chosen]
        captions = [f"{start.rows[index]['label']}, {word}" for index in chosen.tolist()]
        asked = maps_of(given, KINDS["edges"])
        yield Inputs(
            task, "flat-3d", direction, given, asked, KINDS["edges"], given, end.pictures, captions, fixed=word
        )
    held_out = load_pictures(data, size, keep=lambda row: not not_held_out(row))
    captions, pictures = [phrasings[0] for phrasings in held_out.captions], held_out.pictures
    for name, kind in KINDS.items():
        asked = maps_of(pictures, kind)
        given = to_levels(drawn_lines(asked.byte() * 255, recipe("edges").ink))
        yield Inputs(f"{name} to emoji", "edges", FORWARD, given, asked, kind, pictures, pictures, captions)


class Measure:
    """Scores of pictures made of inputs; what is real is looked at once.

    Args:
        inputs: what was translated.
        judge: looks.
    """

    def __init__(self, inputs: Inputs, judge: Evaluator) -> None:
        self.inputs, self.judge = inputs, judge
        self.real = look_at(judge, inputs.domain).features
        self.kept = look_at(judge, inputs.kept).features[:, WIDTHS[1] :]  # the deep half says what is drawn
        self.read = judge.read(inputs.captions)

    def __call__(self, way: str, made: Tensor) -> Row:
        inputs, seen = self.inputs, look_at(self.judge, made)
        asked = edge_f1(inputs.asked, maps_of(made, inputs.kind), TOLERANCE).mean().item()
        apart = (seen.features[:, WIDTHS[1] :] - self.kept).square().mean(1).sqrt().mean().item()
        near = retrieval(seen.vectors, self.read, POOL, generator_for(0, Use.POOLS))[5]
        row = Row(inputs.task, way, frechet_distance(self.real, seen.features), asked, apart, near)
        say(f"{row.task}, {way}: Fréchet {row.frechet:.1f}, edges {row.edges:.3f}, features {row.features:.3f}")
        return row


def in_parts(make: Callable[[Tensor, Condition, slice], Tensor], given: Tensor, conditions: Condition) -> Tensor:
    """`make` of pictures in [-1, 1] and conditions, a few at a time -> uint8."""
    made = []
    for start in range(0, len(given), BATCH):
        rows = slice(start, start + BATCH)
        pictures = to_unit_range(given[rows]).contiguous(memory_format=torch.channels_last)
        made.append(to_levels(make(pictures, conditions[rows], rows)))
    return torch.cat(made)


def conditions_of(model: LoadedModel, inputs: Inputs, named: bool) -> Condition:
    """N rows: captions, or the fixed prompt."""
    if named or inputs.fixed is None:
        return model.encode_texts(inputs.captions)
    return model.encode_texts([inputs.fixed]).expand(len(inputs.given))


def noises(model: LoadedModel, count: int) -> Tensor:
    """(N, C, h, w); picture i has the same noise in all rows."""
    side = model.spec.resolution // model.pixels_per_latent
    shape = (model.channels, side, side)
    return torch.stack([torch.randn(shape, generator=generator_for(0, Use.PICTURE, index)) for index in range(count)])


def by_translator(model: LoadedModel, inputs: Inputs, folder: Path) -> Tensor:
    loaded, direction = load_translator(read_translator(folder), model), inputs.direction
    model.loras.apply([(model.one_step, 1.0), (loaded.loras[direction], 1.0)])
    translate, conditions = loaded.on(model, direction), conditions_of(model, inputs, False)
    made = in_parts(lambda given, condition, rows: translate(given, condition), inputs.given, conditions)
    model.loras.apply([(model.one_step, 1.0)])
    return made


def by_sdedit(model: LoadedModel, inputs: Inputs, strength: float, named: bool) -> Tensor:
    denoise, noise = model.denoiser(), noises(model, len(inputs.given))
    t = strength_timestep(model.schedule, strength, noise.shape[-1])

    def make(given: Tensor, condition: Condition, rows: slice) -> Tensor:
        start = sdedit_start(model.schedule, encode(model.autoencoder, given), noise[rows], t)
        return decode(model.decoder, one_step(denoise, start, condition, t))

    return in_parts(make, inputs.given, conditions_of(model, inputs, named))


def by_controlnet(model: LoadedModel, inputs: Inputs, named: bool) -> Tensor:
    follow = partial(model.family.follow, load_control(CONTROLS["emoji"], model))
    noise = prior_start(model.schedule, noises(model, len(inputs.given)), model.prior_mean, model.prior_deviation)

    def make(given: Tensor, condition: Condition, rows: slice) -> Tensor:
        maps = inputs.asked[rows][:, None].float().expand(-1, 3, -1, -1)
        denoise = model.denoiser(control=Guide(follow, maps, model.schedule.last))
        start = noise[rows].contiguous(memory_format=torch.channels_last)
        return decode(model.decoder, one_step(denoise, start, condition, model.schedule.last))

    return in_parts(make, inputs.given, conditions_of(model, inputs, named))


def by_plain(model: LoadedModel, inputs: Inputs, file: Path) -> Tensor:
    generator = plain_generator(recipe(inputs.translator), model)
    generator.load_state_dict(load_file(file))
    generator.eval()
    conditions = conditions_of(model, inputs, False)
    return in_parts(
        lambda given, condition, rows: generator(given, condition, inputs.direction), inputs.given, conditions
    )


def plain_generator(config: TranslateConfig, model: LoadedModel) -> PlainGenerator:
    """Pairs come with prompts, so their network is told them; between two domains there is nothing to tell."""
    return PlainGenerator(config.directions, 0 if config.domains else model.network.config.cross_attention_dim)


def ways(model: LoadedModel, inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    """What is made of the inputs, way by way; what has not been trained is left out."""
    yield OURS, by_translator(model, inputs, TRANSLATORS_FOLDER / inputs.translator)
    for named in (False, True) if inputs.fixed is not None else (True,):
        told = TOLD if named and inputs.fixed is not None else ""
        for strength in STRENGTHS:
            yield f"SDEdit {strength:g}{told}", by_sdedit(model, inputs, strength, named)
        yield f"ControlNet{told}", by_controlnet(model, inputs, named)
    plain = RUNS / f"plain-{inputs.translator}" / "output" / WEIGHTS
    if plain.exists():
        yield "no backbone", by_plain(model, inputs, plain)
    for trained in TRAINED if inputs.translator == "edges" else ():
        folder = RUNS / trained / "output"
        if folder.exists():
            yield f"{ABLATION_STEPS} steps, {trained}", by_translator(model, inputs, folder)
    yield "the input as it is", inputs.given
    yield "the picture to keep, through the autoencoder", through_autoencoder(model, inputs.kept).pictures


@torch.inference_mode()
def measure(data: Path, show: Path | None) -> Iterator[Row]:
    """Go through all tasks and ways; sheets of pictures go to `show`."""
    model, judge = load_generator(DEFAULT_MODEL), load_judge("emoji")
    for inputs in read_inputs(data, model.spec.resolution):
        score, rows, pictures = Measure(inputs, judge), [], {}
        chosen = torch.arange(SHOWN) * len(inputs.given) // SHOWN
        for way, made in ways(model, inputs):
            rows.append(score(way, made))
            pictures[way] = to_unit_range(made[chosen])
            yield rows[-1]
        if show:
            shown = [row.way for row in told_of(rows) if "steps" not in row.way and "the " not in row.way]
            sheet = grid(torch.cat([to_unit_range(inputs.given[chosen]), *(pictures[way] for way in shown)]), SHOWN)
            show.mkdir(parents=True, exist_ok=True)
            path = show / f"{inputs.task.replace(' ', '-').lower()}.png"
            sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.LANCZOS).save(path)
            say(f"{path}: the input, {', '.join(shown)}")


def train_plain(config: TranslateConfig, folder: Path) -> bool:
    """A network without a backbone, by the same task; writes ``output/generator.safetensors``."""
    base = load_base(config, torch.device("cpu"), one_step=True)
    torch.manual_seed(config.seed)
    generator = plain_generator(config, base)
    folder.mkdir(parents=True, exist_ok=True)
    task = build_translation(generator, load_perception(config.perceptual), config, base, folder)

    def hand_over(trainer: Trainer) -> None:
        (folder / "output").mkdir(exist_ok=True)
        weights = trainer.averages["generator"].state_dict()
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / "output" / WEIGHTS)

    return follow(Trainer(task, config, folder, hand_over))


def train(name: str, steps: int | None) -> None:
    """Train one of `JOBS`. A network without a backbone sees as many pictures as ours did, in as many steps."""
    folder, changes = RUNS / name, {"steps": steps} if steps else {}
    if name in PLAIN:
        train_plain(recipe(PLAIN[name], **{"learning_rate": PLAIN_RATE} | changes), folder)
    else:
        train_translate(recipe("edges", **{"steps": ABLATION_STEPS, "trained": name} | changes), folder)


def told_of(rows: list[Row]) -> list[Row]:
    """The rows of one task, of SDEdit's strengths only the one with the least Fréchet distance."""
    best = set()
    for told in ("", TOLD):
        swept = [row for row in rows if row.way.startswith("SDEdit") and row.way.endswith(TOLD) == bool(told)]
        best |= {row.way for row in sorted(swept, key=lambda row: row.frechet)[:1]}
    return [row for row in rows if not row.way.startswith("SDEdit") or row.way in best]


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| task | way | Fréchet ↓ | edges kept ↑ | feature distance ↓ | caption found ↑ |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for task in dict.fromkeys(row.task for row in rows):
        for row in told_of([row for row in rows if row.task == task]):
            figures = f"{row.frechet:.1f} | {row.edges:.3f} | {row.features:.3f} | {row.prompt:.2f}"
            lines.append(f"| {task} | {row.way} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure"))
    parser.add_argument("--only", choices=JOBS, help="train this one alone")
    parser.add_argument("--steps", type=int, help="of what is trained")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--show", type=Path, help="folder for sheets of pictures")
    parser.add_argument("--data", type=Path, default=ROOT / "data/emoji", help="folder of the corpus")
    options = parser.parse_args()
    if options.what == "train":
        for name in [options.only] if options.only else JOBS:
            train(name, options.steps)
        return
    rows: list[Row] = []
    for row in measure(options.data, options.show):
        rows.append(row)
        if options.json:  # as they come: it takes a quarter of an hour
            options.json.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    run_command(main)
