"""Prompt to picture: the published usage, ours, and the limit; one cause of speed at a time.

    python -m benchmarks.one_step --json benchmarks/one_step.json

Everything runs on the CPU of one machine in one go: Stable Diffusion 1.5 in its real size with random weights (time
does not depend on their values) at 512 x 512, then the bundled model. Every run has a prompt of its own, so that no
text is encoded once and used twice.
"""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median

import torch

from benchmarks.sd15 import write_random_sd15
from yoso_core.autoencoder import decode
from yoso_core.engine import Engine
from yoso_core.models import LoadedModel, ModelSpec, local_model
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest

PUBLISHED, OURS, LIMIT = "a", "b", "c"
BUNDLED_RUNS = 50


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        change: what is different from the row above.
        evaluations: network evaluations a picture.
        seconds: median of a picture.
        runs: seconds of each run.
        mark: "a", "b", "c" for the rows that the ratios compare, else "".
    """

    change: str
    evaluations: int
    seconds: float
    runs: list[float]
    mark: str = ""


def say(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def prompts() -> Iterator[str]:
    """Different prompts of the same length, without end."""
    words = ("red", "green", "blue", "small", "big"), ("heart", "dog", "tree", "rocket", "pizza")
    for index in count():
        yield f"a {words[0][index % 5]} {words[1][index // 5 % 5]} number {index:04d}, 3d"


def timed(runs: list[Callable[[str], object]], repeats: int) -> list[list[float]]:
    """Seconds of `repeats` runs each after one warm-up, taking turns, so that a busy moment hits all alike."""
    seconds: list[list[float]] = [[] for _ in runs]
    texts = prompts()
    gc.collect()
    for repeat in range(repeats + 1):
        for run, taken in zip(runs, seconds, strict=True):
            prompt = next(texts)
            started = time.perf_counter()
            run(prompt)
            if repeat:
                taken.append(time.perf_counter() - started)
    return seconds


def row(change: str, evaluations: int, run: Callable[[str], object], repeats: int, mark: str = "") -> Row:
    (runs,) = timed([run], repeats)
    return announced(Row(change, evaluations, median(runs), runs, mark))


def announced(row: Row) -> Row:
    say(f"{row.seconds:8.3f} s  {row.change}")
    return row


def diffusers_rows(folder: Path, size: int, repeats: int) -> Iterator[Row]:
    """diffusers' own pipeline, from the published usage to all that can be had without our engine."""
    from diffusers import AutoencoderTiny, LCMScheduler, StableDiffusionPipeline

    def load(dtype: torch.dtype):
        pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype)
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
        pipe.load_lora_weights(folder, weight_name="yoso_lora.safetensors")
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def draw(steps: int, guidance: float) -> Callable[[str], object]:
        options = {"num_inference_steps": steps, "guidance_scale": guidance, "height": size, "width": size}
        return lambda prompt: pipe(prompt, **options).images[0]

    pipe = load(torch.float32)
    yield row("Published usage: diffusers, float32, 2 steps, guidance 1.5", 4, draw(2, 1.5), repeats, PUBLISHED)
    yield row("Guidance off", 2, draw(2, 1.0), repeats)
    yield row("One step", 1, draw(1, 1.0), repeats)
    del pipe
    gc.collect()
    pipe = load(torch.bfloat16)
    yield row("bfloat16", 1, draw(1, 1.0), repeats)
    for network in (pipe.unet, pipe.vae):
        network.to(memory_format=torch.channels_last)
    yield row("channels_last", 1, draw(1, 1.0), repeats)
    tiny = AutoencoderTiny.from_pretrained(folder / "tiny_decoder", dtype=torch.bfloat16)
    pipe.vae = tiny.to(memory_format=torch.channels_last)
    yield row("Tiny decoder", 1, draw(1, 1.0), repeats)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    yield row("LoRA merged into the weights", 1, draw(1, 1.0), repeats)


def bare(model: LoadedModel, size: int, unet: Callable | None = None) -> Callable[[str], object]:
    """One network evaluation and decoding on a model in memory, and nothing else: what no engine can beat."""
    unet = model.unet if unet is None else unet
    side = size // model.pixels_per_latent
    latents = torch.randn(1, unet.config.in_channels, side, side, dtype=unet.dtype, device=unet.device)
    latents = latents.contiguous(memory_format=torch.channels_last)
    length = model.tokenizer.model_max_length
    context = torch.randn(1, length, unet.config.cross_attention_dim, dtype=unet.dtype, device=unet.device)
    t = torch.tensor([model.schedule.last], device=unet.device)

    @torch.inference_mode()
    def run(_: str) -> torch.Tensor:
        return decode(model.decoder, unet(latents, t, encoder_hidden_states=context, return_dict=False)[0])

    return run


def engine_rows(spec: ModelSpec, size: int, repeats: int, compile: bool) -> Iterator[Row]:
    """Ours with its defaults, and the bare limit on the same weights."""
    engine = Engine({"sd15": spec}, device="cpu")
    model = engine.load("sd15", say)  # the limit is taken on the very weights that the engine holds

    def ours(prompt: str) -> object:
        return engine.run(GenerateRequest(prompt, model="sd15", size=size)).pictures[0]

    our_runs, bare_runs = timed([ours, bare(model, size)], repeats)
    yield announced(Row("Our engine, prompt to picture", 1, median(our_runs), our_runs, OURS))
    yield announced(Row("Limit: one bare evaluation and decoding", 1, median(bare_runs), bare_runs, LIMIT))
    if compile:
        say("compiling the network")
        compiled = bare(model, size, torch.compile(model.unet))
        yield row("The limit with torch.compile (not our default)", 1, compiled, repeats)


def bundled(repeats: int) -> dict | None:
    """The bundled model: ms from prompt to PIL picture, by stage, and its limit; None where it is not there."""
    engine = Engine(device="cpu")
    spec = engine.models[DEFAULT_MODEL]
    if not (Path(spec.source.place) / "unet").is_dir() or not (spec.lora and spec.lora.exists()):
        return None
    model = engine.load(DEFAULT_MODEL, say)
    stages: list[dict[str, float]] = []

    def ours(prompt: str) -> object:
        result = engine.run(GenerateRequest(prompt))
        stages.append(result.seconds)
        return result.pictures[0]

    our_runs, bare_runs = timed([ours, bare(model, spec.resolution)], repeats)
    stages = stages[-repeats:]
    return {
        "size": spec.resolution,
        "repeats": repeats,
        "milliseconds": median(our_runs) * 1000,
        "slowest": max(our_runs) * 1000,
        "limit": median(bare_runs) * 1000,
        "stages": {stage: median(seconds[stage] for seconds in stages) * 1000 for stage in stages[0]},
    }


def machine() -> dict:
    """What the figures depend on."""
    name = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
    }


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| | change | evaluations | seconds | speed-up |", "|---|---|---:|---:|---:|"]
    for line in rows:
        mark = f"({line.mark})" if line.mark else ""
        speed_up = f"{rows[0].seconds / line.seconds:.1f}"
        lines.append(f"| {mark} | {line.change} | {line.evaluations} | {line.seconds:.2f} | {speed_up} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m benchmarks.one_step")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs a row, after one warm-up; default 3")
    parser.add_argument("--small", action="store_true", help="a toy network at 64 x 64: tries the benchmark itself")
    parser.add_argument("--compile", action="store_true", help="add a row with torch.compile; takes minutes")
    arguments = parser.parse_args()

    figures: dict = {"machine": machine(), "small": arguments.small}
    size, repeats = 64 if arguments.small else 512, arguments.repeats
    with tempfile.TemporaryDirectory() as place:
        say("writing random weights in the layout of Stable Diffusion 1.5")
        folder = write_random_sd15(Path(place), arguments.small)
        rows = list(diffusers_rows(folder, size, repeats))
        gc.collect()
        rows += engine_rows(local_model(place), size, repeats, arguments.compile)
    seconds = {line.mark: line.seconds for line in rows}
    ratios = {"a/b": seconds[PUBLISHED] / seconds[OURS], "b/c": seconds[OURS] / seconds[LIMIT]}
    figures |= {"size": size, "repeats": repeats, "rows": [asdict(line) for line in rows], "ratios": ratios}
    print(f"\nStable Diffusion 1.5 at {size} x {size}, median of {repeats} runs:\n\n{table(rows)}\n")
    print(f"(a) / (b) = {ratios['a/b']:.1f}; (b) / (c) = {ratios['b/c']:.3f}\n")

    gc.collect()
    figures["bundled"] = small = bundled(BUNDLED_RUNS)
    if small is None:
        print("The bundled model is not whole yet (its unet or LoRA is missing), so it was not timed.")
    else:
        stages = ", ".join(f"{stage} {value:.1f}" for stage, value in small["stages"].items())
        print(
            f"The bundled model at {small['size']} x {small['size']}, median of {small['repeats']} runs with a new "
            f"prompt each:\n{small['milliseconds']:.1f} ms from prompt to picture ({stages}); "
            f"limit {small['limit']:.1f} ms."
        )
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
