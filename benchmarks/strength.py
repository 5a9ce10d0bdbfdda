"""Does an edit's strength act evenly? How far edits go from their pictures, from strength 0 to 1.

    python -m benchmarks.strength --json benchmarks/strength.json

measures LPIPS (AlexNet; fetch it once by ``python -m train.measure.lpips_weights``) between pictures of the corpus that
the bundled model was never trained on and their edits, towards the caption of another picture and towards their own, in
one step and in two, and draws docs/strength.png. `--mappings` also measures other ways from strength to noise, in one
step.
"""

import argparse
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.one_step import say
from train.data.latents import load_pictures, to_unit_range
from train.data.reader import not_held_out
from train.loop.console import run_command
from train.loop.randomness import Use, generator_for
from train.measure.evaluate import load_generator, to_levels
from train.measure.lpips_weights import load_lpips
from yoso_core.autoencoder import decode, encode
from yoso_core.loading import LoadedModel
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.sampling import edit_timesteps, few_step, sdedit_start, strength_timestep
from yoso_core.schedule import NoiseSchedule

ROOT = Path(__file__).resolve().parent.parent
BATCH = 50
CURVES = {  # title: whose caption, steps
    "another caption, 1 step": ("other", 1),
    "another caption, 2 steps": ("other", 2),
    "own caption, 1 step": ("own", 1),
    "own caption, 2 steps": ("own", 2),
}
SHOWN = 11  # pictures under the curve

Mapping = Callable[[NoiseSchedule, float], int]


def by_angle(power: float) -> Mapping:
    """The angle of the noise, arctan(sigma_t / alpha_t), grows by a power of strength."""

    def timestep(schedule: NoiseSchedule, strength: float) -> int:
        angle = torch.atan2(schedule.sigma, schedule.alpha)
        return int((angle - strength**power * angle[-1]).abs().argmin()) if strength > 0 else 0

    return timestep


MAPPINGS: dict[str, Mapping] = {
    "share that noise hides (in use)": strength_timestep,
    **{f"angle, power {power:g}": by_angle(power) for power in (1, 1.5, 2, 2.5)},
    "timesteps, evenly": lambda schedule, strength: round(strength * schedule.last),
}


class Chosen(NamedTuple):
    """Pictures (N, 3, S, S) uint8 to edit, and N prompts of each kind."""

    pictures: Tensor
    captions: dict[str, list[str]]


def choose(folder: Path, size: int, count: int) -> Chosen:
    """Held-out pictures of a corpus, and for each its own caption and that of the next one with another label."""
    data = load_pictures(folder, size, keep=lambda row: not not_held_out(row))
    order = torch.randperm(len(data), generator=generator_for(0, Use.PROMPTS)).tolist()
    captions: dict[str, list[str]] = {"own": [], "other": []}
    for place, index in enumerate(order[:count]):
        label = data.rows[index]["label"]
        following = order[place + 1 :] + order[:place]
        another = next(one for one in following if data.rows[one]["label"] != label)
        captions["own"].append(data.captions[index][0])
        captions["other"].append(data.captions[another][0])
    return Chosen(data.pictures[order[:count]], captions)


class Edits:
    """Edits of the chosen pictures from any timestep; picture i has the same noise in all of them."""

    def __init__(self, model: LoadedModel, chosen: Chosen) -> None:
        self.model, self.length = model, len(chosen.pictures)
        self.denoise = model.denoiser()
        pixels = to_unit_range(chosen.pictures).contiguous(memory_format=torch.channels_last)
        self.latents = torch.cat([encode(model.autoencoder, part) for part in pixels.split(BATCH)])
        self.conditions = {kind: model.encode_texts(captions) for kind, captions in chosen.captions.items()}
        generators = [generator_for(0, Use.PICTURE, index) for index in range(self.length)]
        shape = self.latents.shape[1:]
        self.noises = [torch.stack([torch.randn(shape, generator=one) for one in generators]) for _ in range(2)]

    def __call__(self, kind: str, t: int, steps: int) -> Tensor:
        """(N, 3, S, S) uint8; at t = 0 the pictures as the autoencoder returns them."""
        parts = []
        for rows in torch.arange(self.length).split(BATCH):
            clean = self.latents[rows]
            if t:
                first, second = (noise[rows].contiguous(memory_format=torch.channels_last) for noise in self.noises)
                start = sdedit_start(self.model.schedule, clean, first, t)
                timesteps = edit_timesteps(steps, t, len(self.model.schedule))
                condition, fresh = self.conditions[kind][rows], [second][: steps - 1]
                clean = few_step(self.denoise, self.model.schedule, start, condition, timesteps, fresh)
            parts.append(to_levels(decode(self.model.decoder, clean)))
        return torch.cat(parts)


def steadiness(curve: list[float]) -> dict[str, float]:
    """The largest and the smallest step of a curve, in steps of a straight line between its ends."""
    jumps = np.diff(curve) * (len(curve) - 1) / (curve[-1] - curve[0])
    return {"largest": jumps.max().item(), "smallest": jumps.min().item()}


def measure(edits: Edits, chosen: Chosen, strengths: list[float], mappings: dict[str, Mapping]) -> dict:
    """The figures: of `CURVES`, and in one step of each mapping."""
    lpips, real, schedule = load_lpips("alex"), to_unit_range(chosen.pictures), edits.model.schedule

    @cache
    def distance(kind: str, t: int, steps: int) -> float:
        made = to_unit_range(edits(kind, t, steps)).split(BATCH)
        found = [lpips(part, same) for part, same in zip(made, real.split(BATCH), strict=True)]
        return torch.cat(found).mean().item()

    def curve(kind: str, steps: int, mapping: Mapping) -> list[float]:
        return [distance(kind, mapping(schedule, strength), steps) for strength in strengths]

    figures: dict = {"pictures": len(real), "strengths": strengths}
    figures["timesteps"] = [strength_timestep(schedule, strength) for strength in strengths]
    figures["curves"], figures["mappings"] = {}, {}
    for title, (kind, steps) in CURVES.items():
        values = curve(kind, steps, strength_timestep)
        figures["curves"][title] = {"lpips": values} | steadiness(values)
        say(title)
    for name, mapping in mappings.items():
        kinds = {kind: curve(kind, 1, mapping) for kind in chosen.captions}
        timesteps = [mapping(schedule, strength) for strength in strengths]
        found = {kind: {"lpips": values} | steadiness(values) for kind, values in kinds.items()}
        figures["mappings"][name] = {"timesteps": timesteps} | found
        say(name)
    return figures


def tables(figures: dict) -> str:
    """Markdown."""
    curves = figures["curves"]
    lines = [f"| strength | timestep | {' | '.join(curves)} |", f"|---:|---:|{'---:|' * len(curves)}"]
    columns = zip(*(one["lpips"] for one in curves.values()), strict=True)
    for strength, t, row in zip(figures["strengths"], figures["timesteps"], columns, strict=True):
        lines.append(f"| {strength:.2f} | {t} | {' | '.join(f'{value:.3f}' for value in row)} |")
    for ratio in ("largest", "smallest"):
        values = " | ".join(f"{one[ratio]:.2f}" for one in curves.values())
        lines.append(f"| {ratio} step / even step | | {values} |")
    if figures["mappings"]:
        lines += ["", "| from strength to noise | other: largest / even | smallest | own: largest / even | smallest |"]
        lines.append("|---|---:|---:|---:|---:|")
    for name, kinds in figures["mappings"].items():
        values = " | ".join(
            f"{kinds[kind][ratio]:.2f}" for kind in ("other", "own") for ratio in ("largest", "smallest")
        )
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def plot(figures: dict, edits: Edits, chosen: Chosen, path: Path) -> None:
    """The curves, and under them the first picture on its way to another caption, each above its strength."""
    from matplotlib import pyplot

    figure, (top, strip) = pyplot.subplots(
        2, 1, figsize=(9, 5), height_ratios=(4, 1), sharex=True, layout="constrained"
    )
    for index, (title, one) in enumerate(figures["curves"].items()):
        line = "-" if CURVES[title][1] == 1 else ":"
        top.plot(figures["strengths"], one["lpips"], line, color=f"C{index // 2}", label=title)
    top.set_ylabel(f"LPIPS to the input, mean of {figures['pictures']}", fontsize=9)
    top.set_ylim(0)
    top.grid(alpha=0.3)
    top.legend(fontsize=8)
    half = 0.47 / (SHOWN - 1)
    for index in range(SHOWN):
        strength = index / (SHOWN - 1)
        made = edits("other", strength_timestep(edits.model.schedule, strength), 1)[0]
        strip.imshow(made.permute(1, 2, 0).numpy(), extent=(strength - half, strength + half, 0, 1), aspect="auto")
    strip.set(xlim=(-0.06, 1.06), ylim=(0, 1), yticks=[], xticks=[index / 10 for index in range(11)])
    titles = chosen.captions["own"][0], chosen.captions["other"][0]
    strip.set_xlabel(f'strength; below the curves "{titles[0]}" on its way to "{titles[1]}", 1 step', fontsize=9)
    figure.savefig(path, dpi=110)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--png", type=Path, default=ROOT / "docs/strength.png", help="where the picture goes")
    parser.add_argument("--data", type=Path, default=ROOT / "data/emoji", help="folder of the corpus")
    parser.add_argument("--count", type=int, default=100, help="pictures; default 100")
    parser.add_argument("--points", type=int, default=21, help="strengths from 0 to 1; default 21")
    parser.add_argument("--mappings", action="store_true", help="compare ways from strength to noise; takes minutes")
    options = parser.parse_args()
    if options.points < 2 or options.count < 1:
        parser.error("a curve takes at least 2 points, of at least 1 picture")
    model = load_generator(DEFAULT_MODEL)
    chosen = choose(options.data, model.spec.resolution, options.count)
    edits = Edits(model, chosen)
    strengths = [index / (options.points - 1) for index in range(options.points)]
    figures = measure(edits, chosen, strengths, MAPPINGS if options.mappings else {})
    print(tables(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    plot(figures, edits, chosen, options.png)


if __name__ == "__main__":
    run_command(main)
