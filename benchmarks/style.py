"""What the preset "Style, quick" makes of 30 pictures: how long it takes, how much of the style, how much is kept.

    python -m benchmarks.style
    python -m benchmarks.style --times 3

The style is one that nothing bundled has seen: the corpus' pictures as three-tone stencils. 30 of them, named after
what they show and spread over the corpus, are trained on by a process of its own, as in the Train tab, without a word
that calls the style; then 300 other labels are drawn in one evaluation each, before and after, with the same prompts
and seeds. The project's evaluator looks at them: Fréchet distance to real pictures of the style (none of the 30), and
how often the label of a picture is among the five nearest of a hundred. The same for real pictures of the style sent
through the autoencoder, which is the limit.

A run takes its seconds from the press of the button to its end. The Train tab has a process stand by once pictures are
there, which brings libraries into memory while they are looked at and named; so it is here, and with `--times` both
ways take turns.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from train.data.datasets import OWN, Dataset
from train.data.latents import grid
from train.data.reader import not_held_out, read_listing
from train.loop.randomness import Use, generator_for
from train.measure.evaluator import Evaluator
from train.measure.metrics import frechet_distance, retrieval
from train.runs.jobs import STANDBY, Job, Runs
from train.runs.presets import PRESETS, settings
from yoso_core.autoencoder import decode, encode, to_tensor
from yoso_core.engine import Engine
from yoso_core.files.pictures import fitted, open_picture
from yoso_core.lora.library import of_run
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, LoraUse

BASE_STYLE = "flat"  # one that the model knows: without any it mixes all of them
LEARNED, DRAWN = 30, 300  # pictures
POOL = 100  # captions to choose from in retrieval
SIDE = 128  # pixels of the pictures that are handed over
NAMING = 15.0  # seconds from the pictures to the press of the button
TONES = np.array([[14, 61, 68], [96, 190, 166], [255, 255, 255]], np.uint8)
EDGES = (0.42, 0.8)  # of the brightness, between the tones


def stencil(picture: Image.Image) -> Image.Image:
    """Three tones, as if sprayed through two sheets of card."""
    smooth = picture.convert("L").filter(ImageFilter.GaussianBlur(picture.width / 90))
    tones = TONES[np.digitize(np.asarray(smooth) / 255, EDGES)]
    return Image.fromarray(tones).filter(ImageFilter.SMOOTH)


@dataclass(frozen=True)
class Source:
    """A picture of the corpus and its name."""

    label: str
    path: Path

    def styled(self, side: int) -> Image.Image:
        return stencil(fitted(open_picture(self.path).picture, SIDE)).resize((side, side), Image.Resampling.LANCZOS)


def sources(corpus: Path) -> tuple[list[Source], list[Source]]:
    """Those to learn from, spread over the corpus, and all others."""
    rows = [row for row in read_listing(corpus, not_held_out).rows if row["style"] == "noto"]
    everything = [Source(row["label"], corpus / row["file_name"]) for row in rows]
    chosen = {index * len(everything) // LEARNED for index in range(LEARNED)}
    return [everything[i] for i in sorted(chosen)], [one for i, one in enumerate(everything) if i not in chosen]


def train(learned: list[Source], root: Path, standing_by: bool = True) -> tuple[Job, float]:
    """Hand the pictures over and press the button; returns the finished run and its seconds, loading included."""
    job = Runs(root).draft("")
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / f"{one.label}.png" for one in learned]
        for one, path in zip(learned, paths, strict=True):
            one.styled(SIDE).save(path)
        dataset = Dataset(job.data, OWN)
        problems = dataset.add(paths)
    assert not problems, problems
    preset = PRESETS["quick"]
    config = settings(preset, DEFAULT_MODEL, MODELS[DEFAULT_MODEL], title="Mint stencil")
    if standing_by:
        STANDBY.call()
        time.sleep(NAMING)
    started = time.monotonic()
    job = Runs(root).begin(job, preset.task, "quick", config.title, asdict(config))
    while job.state not in ("finished", "failed", "paused", "interrupted"):
        time.sleep(0.2)
    seconds = time.monotonic() - started
    if job.state != "finished":
        raise SystemExit(f"the run is {job.state}: {job.reason}")
    return job, seconds


def draw(engine: Engine, labels: list[str], loras: tuple[LoraUse, ...]) -> Tensor:
    """(N, 3, H, W) in [-1, 1], one evaluation each."""
    requests = [
        GenerateRequest(f"{label}, {BASE_STYLE}", seed=number, loras=loras) for number, label in enumerate(labels)
    ]
    return torch.cat([to_tensor(engine.run(request).pictures[0]) for request in requests])


@torch.inference_mode()
def through_autoencoder(engine: Engine, pictures: Tensor) -> Tensor:
    autoencoder = engine.load(DEFAULT_MODEL).autoencoder
    return torch.cat([decode(autoencoder, encode(autoencoder, part)).clamp(-1, 1) for part in pictures.split(50)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="folder of the corpus")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/style.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/style.png"), help="pictures before and after")
    parser.add_argument("--run", type=Path, help="a finished run of this benchmark, to measure it again")
    parser.add_argument("--times", type=int, help="measure nothing but seconds, so often")
    options = parser.parse_args()
    learned, others = sources(options.data)
    if options.times:
        for _ in range(options.times):
            for standing_by in (True, False):
                with tempfile.TemporaryDirectory() as place:
                    _, seconds = train(learned, Path(place), standing_by)
                print(f"{seconds:.1f} s, {'a process stood by' if standing_by else 'without one that stood by'}")
        return
    drawn = [others[index * len(others) // DRAWN] for index in range(DRAWN)]
    labels = [one.label for one in drawn]
    with tempfile.TemporaryDirectory() as place:
        job, seconds = (Job(options.run), 0.0) if options.run else train(learned, Path(place))
        engine = Engine(device="cpu")
        before = draw(engine, labels, ())
        engine.add_lora("style", of_run(job.folder)[0].path)
        after = draw(engine, labels, (LoraUse("style", 1.0),))
    side = before.shape[-1]
    real = torch.cat([to_tensor(one.styled(side)) for one in others])
    wanted = torch.cat([to_tensor(one.styled(side)) for one in drawn])
    kinds = {"before": before, "after": after, "limit": through_autoencoder(engine, wanted)}
    judge = Evaluator.load()
    with torch.inference_mode():
        texts, target = judge.read(labels), judge.look(real).features
        kept = json.loads(options.json.read_text()) if options.run and options.json.exists() else {}
        figures = {"seconds": kept.get("seconds", seconds), "steps": PRESETS["quick"].small["steps"]}
        for kind, pictures in kinds.items():
            seen = judge.look(pictures)
            nearest = retrieval(seen.vectors, texts, POOL, generator_for(0, Use.POOLS))
            figures[kind] = {"frechet": frechet_distance(target, seen.features), "r@5": nearest[5]}
    rows = [to_tensor(one.styled(side)) for one in learned[:10]] + [
        kinds[kind][:200:20] for kind in ("before", "after")
    ]
    sheet = grid(torch.cat(rows), 10)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * 3 // 2, sheet.height * 3 // 2), Image.Resampling.LANCZOS).save(options.out)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
