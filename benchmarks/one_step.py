"""Prompt to picture on a CPU: the published usage, what else one would use, ours, and the limit.

    python -m benchmarks.one_step --json benchmarks/one_step.json
    python -m benchmarks.one_step --only bundled --json bundled.json

Everything runs on one machine in one go: the bundled model, quiet and beside neighbours (a training run and a busy
process), then Stable Diffusion 1.5 in its real size with random weights (time does not depend on their values) at 512 x
512. Every run has a prompt of its own, so that no text is encoded once and used twice. What is compared takes turns, so
that a busy moment hits all alike: where others use the machine too, ratios hold and milliseconds do not.
"""

import argparse
import copy
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.neighbours import neighbours
from benchmarks.sd15 import write_random_sd15
from yoso_core.autoencoder import decode, to_pil
from yoso_core.engine import Engine
from yoso_core.loading import LoadedModel
from yoso_core.lora.library import bundled as offered
from yoso_core.models import MODELS, ModelSpec, local_model
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, LoraUse
from yoso_core.runtimes.openvino import load_library
from yoso_core.runtimes.parts import Decode, Predict

PUBLISHED, OURS, LIMIT = "a", "b", "c"
COMPILED = "diffusers, bf16, channels_last, torch.compile"
BUNDLED_RUNS = 40


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
    unet = model.network if unet is None else unet
    side = size // model.pixels_per_latent
    latents = torch.randn(1, unet.config.in_channels, side, side, dtype=unet.dtype, device=unet.device)
    latents = latents.contiguous(memory_format=torch.channels_last)
    length = model.parts["tokenizer"].model_max_length
    context = torch.randn(1, length, unet.config.cross_attention_dim, dtype=unet.dtype, device=unet.device)
    t = torch.tensor([model.schedule.last], device=unet.device)

    @torch.inference_mode()
    def run(_: str) -> torch.Tensor:
        return decode(model.decoder, unet(latents, t, encoder_hidden_states=context, return_dict=False)[0])

    return run


def by_hand(model: LoadedModel, size: int) -> Callable[[str], object]:
    """OpenVINO as one uses it without us: network and decoder converted from float32 and compiled with the library's
    own defaults, the prompt read by torch.
    """
    core, side, length = (
        load_library().Core(),
        size // model.pixels_per_latent,
        model.parts["tokenizer"].model_max_length,
    )
    latents = torch.randn(1, model.network.config.in_channels, side, side)
    given = (
        latents,
        torch.tensor([model.schedule.last]),
        torch.randn(1, length, model.network.config.cross_attention_dim),
    )
    made = []
    for part, inputs in ((Predict(model.family, model.network), given), (Decode(model.decoder), given[:1])):
        with torch.no_grad():
            converted = load_library().convert_model(copy.deepcopy(part).float(), example_input=inputs)
        converted.reshape({index: list(value.shape) for index, value in enumerate(inputs)})
        made.append(core.compile_model(converted, "CPU"))
    network, decoder = made
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}

    @torch.inference_mode()
    def run(prompt: str) -> object:
        context = model.parts["text_encoder"](model.parts["tokenizer"](prompt, **options).input_ids)[0].float()
        predicted = network([torch.randn_like(latents).numpy(), given[1].numpy(), context.numpy()])[0]
        return to_pil(torch.from_numpy(decoder([predicted])[0]))[0]

    return run


def bare_openvino(engine: Engine, name: str) -> Callable[[str], object]:
    """The compiled network and decoder that an engine holds, and nothing else: what no engine can beat."""
    networks, calls = engine._executed[name], []
    for part in (*networks._predict.values(), networks._decode):
        compiled = next(iter(engine.runtime._shelves[part].ready.values()))
        given = [
            torch.zeros(list(one.shape), dtype=torch.int64 if "i64" in str(one.element_type) else torch.float32)
            for one in compiled.library.inputs
        ]
        calls.append((compiled, given))
    return lambda prompt: [compiled(given) for compiled, given in calls]


def ours(engine: Engine, name: str, size: int | None = None, **options: Any) -> Callable[[str], object]:
    return lambda prompt: engine.run(GenerateRequest(prompt, model=name, size=size, **options)).pictures[0]


def sd15_rows(spec: ModelSpec, size: int, repeats: int, compile: bool) -> Iterator[Row]:
    """Ours by torch and by OpenVINO, OpenVINO by hand, and the bare limits, on the same weights."""
    engines = {name: Engine({"sd15": spec}, device="cpu", runtime=name) for name in ("torch", "openvino")}
    model = engines["torch"].load("sd15", say)  # the limit is taken on the very weights that the engine holds
    runs = [ours(engines["torch"], "sd15", size), bare(model, size)]
    torch_runs, bare_runs = timed(runs, repeats)
    yield announced(Row("Ours by torch", 1, median(torch_runs), torch_runs))
    yield announced(Row("Limit of torch: one bare evaluation and decoding", 1, median(bare_runs), bare_runs))
    if compile:
        say("compiling the network")
        compiled = bare(model, size, torch.compile(model.network))
        yield row("The limit with torch.compile", 1, compiled, repeats)
    yield row("OpenVINO by hand", 1, by_hand(model, size), repeats)
    del engines["torch"], model
    gc.collect()
    fast = engines["openvino"]
    fast.load("sd15", say)
    say(f"executed by {fast.run(GenerateRequest('x', model='sd15', size=size)).runtime}")
    our_runs, bare_runs = timed([ours(fast, "sd15", size), bare_openvino(fast, "sd15")], repeats)
    yield announced(Row("Ours by OpenVINO, the default on a CPU", 1, median(our_runs), our_runs, OURS))
    yield announced(Row("Limit of OpenVINO: one bare evaluation and decoding", 1, median(bare_runs), bare_runs, LIMIT))


def diffusers_runs(spec: ModelSpec, compile: bool) -> dict[str, Callable[[str], object]]:
    """diffusers' own pipeline on a model in its layout: as it comes, and with what its documentation recommends."""
    from diffusers import LCMScheduler, StableDiffusionPipeline

    found = {}
    kinds = {"diffusers as it comes": torch.float32, "diffusers, bf16, channels_last": torch.bfloat16}
    if compile:
        kinds[COMPILED] = torch.bfloat16
    for name, dtype in kinds.items():
        pipe = StableDiffusionPipeline.from_pretrained(spec.source.place, torch_dtype=dtype, safety_checker=None)
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
        pipe.load_lora_weights(spec.source.place, weight_name=spec.lora.name)
        if dtype == torch.bfloat16:
            pipe.fuse_lora()
            pipe.unload_lora_weights()
            for network in (pipe.unet, pipe.vae):
                network.to(memory_format=torch.channels_last)
        if name == COMPILED:
            pipe.unet.compile()
            pipe.vae.decoder.compile()
        pipe.set_progress_bar_config(disable=True)
        found[name] = lambda prompt, pipe=pipe: pipe(prompt, num_inference_steps=1, guidance_scale=1.0).images[0]
    return found


def bundled(repeats: int, compile: bool) -> dict:
    """The bundled model: what a picture takes each way, quiet and beside neighbours, and how much pictures differ."""
    spec = MODELS[DEFAULT_MODEL]
    engines = {name: Engine(device="cpu", runtime=name) for name in ("torch", "openvino")}
    for engine in engines.values():
        engine.load(DEFAULT_MODEL, say)
        for entry in offered():
            engine.add_lora(entry.id, entry.path)
    loras = [entry.id for entry in offered()]
    weights = cycle(0.1 + 0.01 * index for index in range(90))
    moved = {
        f"ours by {name}, a LoRA's weight moved": lambda prompt, engine=engine: engine.run(
            GenerateRequest("a red heart", loras=(LoraUse(loras[0], round(next(weights), 2)),))
        )
        for name, engine in engines.items()
        if loras
    }
    runs = {
        **diffusers_runs(spec, compile),
        "OpenVINO by hand": by_hand(engines["torch"].load(DEFAULT_MODEL), spec.resolution),
        "bare torch": bare(engines["torch"].load(DEFAULT_MODEL), spec.resolution),
        "bare OpenVINO": bare_openvino(engines["openvino"], DEFAULT_MODEL),
        **{f"ours by {name}": ours(engine, DEFAULT_MODEL) for name, engine in engines.items()},
    }
    found: dict = {"size": spec.resolution, "repeats": repeats, "milliseconds": {}, "slowest": {}}
    texts = prompts()
    for column, beside in (("quiet", nullcontext), ("busy", neighbours)):
        with beside():
            for some in (runs, moved):
                taken = timed(list(some.values()), repeats)
                for engine in engines.values():
                    engine.runtime.settle()
                for name, seconds in zip(some, taken, strict=True):
                    found["milliseconds"].setdefault(name, {})[column] = median(seconds) * 1000
                    found["slowest"].setdefault(name, {})[column] = max(seconds) * 1000
            found.setdefault("clients", {})[column] = {
                f"{name}, {when}": crowd(engine, loras, texts)
                for name, engine in engines.items()
                for when in ("at first", "once all is ready")  # shapes and LoRAs are compiled beside the first requests
            }
    pairs = [
        [
            np.asarray(engine.run(GenerateRequest(prompt, seed=seed)).pictures[0]).astype(int)
            for engine in engines.values()
        ]
        for seed, prompt in zip(range(50), prompts(), strict=False)
    ]
    difference = np.abs(np.concatenate([(one - other).ravel() for one, other in pairs]))
    found["levels"] = {"mean": float(difference.mean()), "p99": float(np.percentile(difference, 99))}
    found["stages"] = {name: engine.run(GenerateRequest("a new one")).seconds for name, engine in engines.items()}
    return found


def crowd(engine: Engine, loras: list[str], texts: Iterator[str]) -> float:
    """Pictures per second of 50 clients who ask for this and that, three times each, in words of their own."""
    kinds = cycle([{}, {}, {"count": 2}, {"guidance": 2.0}, {"loras": tuple(LoraUse(name, 0.7) for name in loras[:1])}])
    requests = [GenerateRequest(next(texts), seed=seed, **next(kinds)) for seed in range(150)]
    with ThreadPoolExecutor(50) as pool:
        started = time.perf_counter()
        pictures = sum(len(result.pictures) for result in pool.map(engine.run, requests))
        return pictures / (time.perf_counter() - started)


def bundled_table(found: dict) -> str:
    """Markdown; each row's share of what diffusers takes as it comes, in the same column."""
    times = found["milliseconds"]
    first = next(iter(times.values()))
    lines = [
        "| one picture | quiet, ms | as fast as diffusers | busy, ms | as fast as diffusers |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, taken in times.items():
        columns = (f"{taken[column]:.1f} | {first[column] / taken[column]:.1f}" for column in ("quiet", "busy"))
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


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


def sd15(small: bool, repeats: int, compile: bool) -> dict:
    """Stable Diffusion 1.5, printed and as figures."""
    size = 64 if small else 512
    with tempfile.TemporaryDirectory() as place:
        say("writing random weights in the layout of Stable Diffusion 1.5")
        folder = write_random_sd15(Path(place), small)
        rows = list(diffusers_rows(folder, size, repeats))
        gc.collect()
        rows += sd15_rows(local_model(place), size, repeats, compile)
    seconds = {line.mark: line.seconds for line in rows}
    ratios = {"a/b": seconds[PUBLISHED] / seconds[OURS], "b/c": seconds[OURS] / seconds[LIMIT]}
    print(f"\nStable Diffusion 1.5 at {size} x {size}, median of {repeats} runs:\n\n{table(rows)}\n")
    print(f"(a) / (b) = {ratios['a/b']:.1f}; (b) / (c) = {ratios['b/c']:.3f}\n")
    return {"size": size, "repeats": repeats, "rows": [asdict(line) for line in rows], "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m benchmarks.one_step")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--only", choices=("bundled", "sd15"), help="one of the two models; default: both")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed runs of SD1.5 a row, after one warm-up; default 3"
    )
    parser.add_argument("--small", action="store_true", help="a toy network at 64 x 64: tries the benchmark itself")
    parser.add_argument("--compile", action="store_true", help="add rows with torch.compile; takes minutes")
    arguments = parser.parse_args()
    figures: dict = {"machine": machine(), "small": arguments.small}
    if arguments.only != "sd15":
        figures["bundled"] = found = bundled(BUNDLED_RUNS, arguments.compile)
        print(f"\nThe bundled model at {found['size']} x {found['size']}, median of {found['repeats']} runs each:\n")
        print(f"{bundled_table(found)}\n\n50 clients, pictures a second: {found['clients']}; levels {found['levels']}")
    gc.collect()
    if arguments.only != "bundled":
        figures["sd15"] = sd15(arguments.small, arguments.repeats, arguments.compile)
    figures["machine"]["load_at_end"] = os.getloadavg()[0]
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
