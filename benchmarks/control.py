"""Does a one-step picture follow the edges asked for? F1 of its edges, with a ControlNet and without.

    python -m benchmarks.control --json benchmarks/control.json

takes the edges (Canny) and the scribbles of pictures that nothing was trained on, draws their captions with these maps,
with those of other pictures and with none, and compares the maps of what was drawn with those asked for. Edges may be
off by a pixel. A model that knows its captions well draws much of this without being asked, so the same is done with
the pictures turned, scaled, shifted and mirrored: no caption says that. `--controlnet` measures another ControlNet than
the bundled one, in the precision that it is stored in.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from benchmarks.one_step import say
from train.data.latents import load_pictures
from train.data.lines import CANNY_THRESHOLDS, scribble, varied
from train.data.reader import not_held_out
from train.loop.console import run_command
from train.loop.randomness import Use, generator_for
from train.measure.evaluate import load_generator, through_autoencoder, to_levels
from train.measure.metrics import edge_f1
from yoso_core.autoencoder import decode
from yoso_core.conditioning import CONTROLS, Guide, find_control, load_control
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.sampling import few_step, few_step_timesteps, prior_start

ROOT = Path(__file__).resolve().parent.parent
BATCH = 50
STEPS = (1, 2)
TOLERANCE = 1  # pixels
MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # (S, S, 3) uint8 -> (S, S), 0 or 255
    "edges (Canny)": lambda picture: cv2.Canny(picture, *CANNY_THRESHOLDS[0]),
    "scribble": scribble,
}


@dataclass(frozen=True)
class Row:
    """F1, mean over the pictures, of one kind of map.

    Attributes:
        kind: of map.
        pictures: what the maps are of.
        steps: network evaluations a picture.
        own: drawn with the map asked for.
        other: drawn with the map of another picture.
        without: drawn with none.
        real: of the real pictures through the autoencoder: what can be reached.
    """

    kind: str
    pictures: str
    steps: int
    own: float
    other: float
    without: float
    real: float


def turned(pictures: Tensor) -> Tensor:
    """(N, 3, S, S) uint8, each turned, scaled, shifted and perhaps mirrored, always the same way."""
    numbers = np.random.default_rng(0)
    found = [np.array(varied(Image.fromarray(one), numbers)) for one in pictures.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def maps_of(pictures: Tensor, kind: str) -> Tensor:
    """(N, S, S) bool of (N, 3, S, S) uint8."""
    found = [MAPS[kind](np.ascontiguousarray(one)) for one in pictures.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(found)) > 0


@torch.inference_mode()
def measure(folder: str, data: Path, count: int, strength: float) -> list[Row]:
    """Compare maps asked for with those of what was drawn; picture i has the same noise in all rows.

    Args:
        folder: of the ControlNet.
        data: folder of the corpus.
        count: pictures.
        strength: of the control.
    """
    model = load_generator(DEFAULT_MODEL)
    follow = partial(model.family.follow, load_control(find_control(folder, model.spec.family), model))
    held_out = load_pictures(data, model.spec.resolution, keep=lambda row: not not_held_out(row))
    chosen = torch.randperm(len(held_out), generator=generator_for(0, Use.PROMPTS))[:count]
    pictures = {"as they are": held_out.pictures[chosen], "turned": turned(held_out.pictures[chosen])}
    captions = [held_out.captions[index][0] for index in chosen.tolist()]
    conditions = model.encode_texts(captions)
    side = model.spec.resolution // model.pixels_per_latent
    shape = (model.channels, side, side)
    generators = [generator_for(0, Use.PICTURE, index) for index in range(len(captions))]
    noises = [torch.stack([torch.randn(shape, generator=one) for one in generators]) for _ in range(max(STEPS))]
    noises[0] = prior_start(model.schedule, noises[0], model.prior_mean, model.prior_deviation)

    def drawn(maps: Tensor | None, steps: int) -> Tensor:
        parts = []
        for rows in torch.arange(len(captions)).split(BATCH):
            guide = None
            if maps is not None:
                guide = Guide(follow, maps[rows][:, None].float().expand(-1, 3, -1, -1), model.schedule.last, strength)
            denoise = model.denoiser(control=guide)
            start, *fresh = (noise[rows].contiguous(memory_format=torch.channels_last) for noise in noises[:steps])
            timesteps = few_step_timesteps(steps, len(model.schedule))
            clean = few_step(denoise, model.schedule, start, conditions[rows], timesteps, fresh)
            parts.append(to_levels(decode(model.decoder, clean)))
        return torch.cat(parts)

    rows, free = [], {steps: drawn(None, steps) for steps in STEPS}
    for title, real in pictures.items():
        decoded = through_autoencoder(model, real).pictures
        for kind in MAPS:
            asked = maps_of(real, kind)

            def score(made: Tensor, kind: str = kind, asked: Tensor = asked) -> float:
                return edge_f1(asked, maps_of(made, kind), TOLERANCE).mean().item()

            for steps in STEPS:
                own, other = drawn(asked, steps), drawn(asked.roll(1, 0), steps)
                rows.append(Row(kind, title, steps, score(own), score(other), score(free[steps]), score(decoded)))
                say(f"{kind} of pictures {title}, {steps} step{'s' * (steps > 1)}")
    return rows


def stored(folder: Path) -> dict:
    """The weights of a diffusers folder as they are on disk: parameters, bytes and types."""
    parameters, types = 0, set()
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - it is no dict
                value = weights.get_slice(key)
                parameters += int(np.prod(value.get_shape()))
                types.add(value.get_dtype())
    return {"parameters": parameters, "bytes": sum(file.stat().st_size for file in files), "types": sorted(types)}


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| map | pictures | steps | with its map | with another's | without | with / without | autoencoder only |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = f"{row.own / row.without:.2f}" if row.without else "-"
        values = f"{row.own:.3f} | {row.other:.3f} | {row.without:.3f} | {ratio} | {row.real:.3f}"
        lines.append(f"| {row.kind} | {row.pictures} | {row.steps} | {values} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--controlnet", default=CONTROLS["emoji"].source.place, help="diffusers folder of a ControlNet")
    parser.add_argument("--data", type=Path, default=ROOT / "data/emoji", help="folder of the corpus")
    parser.add_argument("--count", type=int, default=300, help="pictures; default 300")
    parser.add_argument("--strength", type=float, default=1.0, help="of the control; default 1")
    options = parser.parse_args()
    rows = measure(options.controlnet, options.data, options.count, options.strength)
    kept = stored(Path(options.controlnet))
    print(
        f"{Path(options.controlnet).name}: {kept['parameters'] / 1e6:.1f} million parameters, "
        f"{kept['bytes'] / 1e6:.1f} MB as {' and '.join(kept['types'])}\n\n{table(rows)}"
    )
    if options.json:
        figures = {"count": options.count, "strength": options.strength, "tolerance": TOLERANCE, "stored": kept}
        options.json.write_text(json.dumps(figures | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
