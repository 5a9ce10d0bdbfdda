"""Every family in its real size with random weights: the seconds and the most memory that a picture takes here.

    python -m benchmarks.full_size [NAME ...] [--folder FOLDER] [--runtime RUNTIME]

A model is written in its true layout in bfloat16, and drawn with as a person would, at its own size and steps, in a
process of its own: it is loaded, and draws two pictures of two prompts. The most memory is what that process ever had
in RAM, what it reads of files included.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.pixart import write_random_pixart
from benchmarks.sana import write_random_sana
from benchmarks.sd15 import write_random_sd15
from benchmarks.sdxl import write_random_sdxl
from yoso_core.checkpoints import Source
from yoso_core.engine import Engine
from yoso_core.models import MODELS, ModelSpec
from yoso_core.requests import AUTO, RUNTIME_HELP, RUNTIMES, GenerateRequest

LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "sd15": write_random_sd15,
    "sdxl": write_random_sdxl,
    "pixart512": write_random_pixart,
    "pixart1024": partial(write_random_pixart, sized=True),
    "sana0.6b": write_random_sana,
    "sana1.6b": partial(write_random_sana, size="1.6b"),
}
SAMPLES = {  # names of models, and the layouts that they are drawn in
    "sd15-yoso": "sd15",
    "sdxl-turbo": "sdxl",
    "sdxl-lightning-1": "sdxl",
    "pixart512-yoso": "pixart512",
    "pixart1024-yoso": "pixart1024",
    "sana-sprint-0.6b": "sana0.6b",
    "sana-sprint-1.6b": "sana1.6b",
}
PROMPTS = ("a red heart", "a blue cat on a dog")
HEAD = "| model | pixels | steps | executed by | load | first picture | second | text, network, decode | memory |"


@dataclass(frozen=True)
class Drawn:
    """What two pictures took.

    Attributes:
        size: width and height in pixels.
        evaluations: of the network, a picture.
        runtime: who executed the networks of the second picture.
        seconds: until the model was loaded, of the first and of the second picture.
        stages: seconds of the second, by stage.
        peak: most bytes that were in RAM.
    """

    size: tuple[int, int]
    evaluations: int
    runtime: str
    seconds: tuple[float, float, float]
    stages: dict[str, float]
    peak: int

    def row(self, name: str) -> str:
        spent = " | ".join(f"{each:.1f} s" for each in self.seconds)
        stages = ", ".join(f"{self.stages.get(stage, 0):.1f}" for stage in ("text", "network", "decode"))
        size = f"{self.size[0]} x {self.size[1]}"
        return (
            f"| {name} | {size} | {self.evaluations} | {self.runtime} | {spent} | {stages} | {self.peak / 1e9:.1f} GB |"
        )


def sample(name: str, folder: Path, runtime: str = AUTO) -> Drawn:
    """Two pictures of a model.

    Args:
        name: a key of `SAMPLES`.
        folder: where models are written, and found again.
        runtime: as of `Engine`.
    """
    layout = SAMPLES[name]
    if not (folder / layout / "model_index.json").exists():  # which is written last
        _apart(LAYOUTS[layout], folder / layout)
    return _apart(_draw, name, spec_of(name, folder / layout), runtime)


def spec_of(name: str, folder: Path) -> ModelSpec:
    """A known model whose files are all in one folder."""
    spec, whole = MODELS[name], {"source": Source(str(folder)), "network": None, "variant": None, "lora_source": None}
    lora = folder / "yoso_lora.safetensors" if spec.lora else None
    decoder = Source(str(folder / "tiny_decoder")) if spec.tiny_decoder else None
    return replace(spec, **whole, lora=lora, tiny_decoder=decoder)


def _apart(work: Callable[..., Any], *given: Any) -> Any:
    """What a function returns, called in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def _draw(name: str, spec: ModelSpec, runtime: str) -> Drawn:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["YOSO_CACHE"] = cache  # or prompts would be found encoded
        engine, times = Engine({name: spec}, device="cpu", runtime=runtime), [time.perf_counter()]
        engine.load(name)
        times.append(time.perf_counter())
        for prompt in PROMPTS:
            made = engine.run(GenerateRequest(prompt, model=name, steps=spec.offer.steps[0]))
            times.append(time.perf_counter())
    seconds = tuple(until - since for since, until in pairwise(times))
    return Drawn(made.pictures[0].size, made.evaluations, made.runtime, seconds, made.seconds, _peak())


def _peak() -> int:
    """Most bytes that this process had in RAM; `getrusage` counts what it was forked from, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m benchmarks.full_size")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(SAMPLES)}")
    parser.add_argument("--folder", type=Path, help="where models are kept, 40 GB of all; default: they are not")
    parser.add_argument("--runtime", choices=(AUTO, *RUNTIMES), default=AUTO, help=RUNTIME_HELP)
    options = parser.parse_args()
    print(HEAD)
    for name in options.names or SAMPLES:
        with tempfile.TemporaryDirectory() as own:
            print(sample(name, options.folder or Path(own), options.runtime).row(name), flush=True)


if __name__ == "__main__":
    main()
