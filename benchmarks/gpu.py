"""One step on a GPU: latency and throughput by runtime, what diffusers takes as it comes, and the bare network.

    python -m benchmarks.gpu --json benchmarks/gpu.json

The bundled model, and Stable Diffusion 1.5 in its real size with random weights at 512 x 512, both in bfloat16. Every
picture has a prompt of its own. Differences are between the pictures of the runtimes, in levels of 255.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.one_step import bare, prompts, say
from benchmarks.sd15 import write_random_sd15
from yoso_core.engine import Engine
from yoso_core.lora.library import bundled
from yoso_core.models import MODELS, ModelSpec, local_model
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, LoraUse
from yoso_core.runtimes.cuda_graphs import BATCH, record
from yoso_core.runtimes.parts import Decode, Predict

RUNTIMES = ("torch", "cuda-graphs")
CLIENTS = 16


def milliseconds(run: Callable[[str], object], repeats: int) -> float:
    """Median of a call after a few that warm up, waiting for the device."""
    texts, taken = prompts(), []
    for index in range(repeats + 5):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run(next(texts))
        torch.cuda.synchronize()
        if index >= 5:
            taken.append((time.perf_counter() - started) * 1000)
    return median(taken)


def as_it_comes(folder: str, lora: str, size: int, repeats: int) -> float:
    """diffusers' own pipeline in bfloat16 with its LoRA, one step."""
    from diffusers import LCMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16, safety_checker=None).to("cuda")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(folder, weight_name=lora)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": size, "width": size}
    return milliseconds(lambda prompt: pipe(prompt, **options).images[0], repeats)


def graphed(model, size: int, count: int) -> Callable[[str], object]:
    """The bare network and decoder as graphs on a batch, and nothing else."""
    unet, side = model.network, size // model.pixels_per_latent
    latents = torch.randn(count, unet.config.in_channels, side, side, dtype=unet.dtype, device="cuda")
    context = torch.randn(count, model.parts["tokenizer"].model_max_length, unet.config.cross_attention_dim).to(latents)
    inputs = (latents, torch.full((count,), model.schedule.last, device="cuda"), context)
    network, decoder = record(Predict(model.family, unet), inputs), record(Decode(model.decoder), (latents,))

    def run(_: str) -> torch.Tensor:
        return decoder(network(inputs))[0]

    return run


def together(engine: Engine, name: str, size: int, requests: int) -> float:
    """Pictures per second of clients that ask for one picture each, all at once, again and again."""
    texts = prompts()
    asked = [GenerateRequest(next(texts), model=name, size=size, seed=seed) for seed in range(requests)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(engine.run, asked[: 4 * CLIENTS]))
        started = time.perf_counter()
        list(pool.map(engine.run, asked))
        return requests / (time.perf_counter() - started)


def levels(engines: dict[str, Engine], request: GenerateRequest) -> dict[str, float]:
    """How much the runtimes' pictures differ, on average and at the 99th percentile."""
    one, other = (np.asarray(engine.run(request).pictures[0]).astype(int) for engine in engines.values())
    return {"mean": float(np.abs(one - other).mean()), "p99": float(np.percentile(np.abs(one - other), 99))}


@torch.inference_mode()
def figures(name: str, spec: ModelSpec, lora: str, repeats: int, loras: list[Path], compile: bool) -> dict:
    """Everything of one model."""
    size = spec.resolution
    found: dict = {"size": size, "diffusers": as_it_comes(spec.source.place, lora, size, repeats)}
    say(f"{name}: diffusers {found['diffusers']:.2f} ms")
    gc.collect()
    engines = {one: Engine({name: spec}, "cuda", torch.bfloat16, runtime=one) for one in RUNTIMES}
    for one, engine in engines.items():
        engine.load(name)
        for path in loras:
            engine.add_lora(path.parent.name, path)
        count = 25 * CLIENTS
        found[one] = {
            "picture": milliseconds(lambda text, engine=engine: engine.run(GenerateRequest(text, model=name)), repeats),
            "nine": milliseconds(
                lambda text, engine=engine: engine.run(GenerateRequest(text, model=name, count=9)), max(repeats // 4, 3)
            ),
            "clients": together(engine, name, size, count),
            "who": engine.run(GenerateRequest("x", model=name)).runtime,
            "stages": {k: v * 1000 for k, v in engine.run(GenerateRequest("y", model=name)).seconds.items()},
        }
        weights = iter(np.linspace(0.1, 1, 1000))
        if loras:  # a slider that moves
            found[one]["lora"] = milliseconds(
                lambda text, engine=engine, uses=weights: engine.run(
                    GenerateRequest("x", model=name, loras=(LoraUse(loras[0].parent.name, float(next(uses))),))
                ),
                repeats,
            )
        say(f"{name}: {one} {found[one]}")
    found["levels"] = levels(engines, GenerateRequest("a red heart, 3d", model=name, seed=3))
    if loras:
        uses = (LoraUse(loras[0].parent.name, 0.8),)
        found["levels with a LoRA"] = levels(engines, GenerateRequest("a red heart, 3d", model=name, loras=uses))
    model = engines["torch"].load(name)
    found["bare"] = milliseconds(bare(model, size), repeats)
    for count in (1, BATCH, 64):
        found[f"bare graphs, batch {count}"] = milliseconds(graphed(model, size, count), repeats)
    say(f"{name}: {found}")
    if compile:
        compiled = torch.compile(model.network, mode="reduce-overhead")
        found["bare compiled network"] = milliseconds(bare(model, size, compiled), repeats)
        say(f"{name}: compiled {found['bare compiled network']:.2f} ms")
    found["memory"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m benchmarks.gpu")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--repeats", type=int, default=50, help="timed runs a figure; default 50")
    parser.add_argument("--compile", action="store_true", help="add torch.compile of the bundled network")
    options = parser.parse_args()
    spec = MODELS[DEFAULT_MODEL]
    loras = [entry.path for entry in bundled()]
    told: dict = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "repeats": options.repeats}
    told["bundled"] = figures(DEFAULT_MODEL, spec, spec.lora.name, options.repeats, loras, options.compile)
    options.json.write_text(json.dumps(told, indent=1) + "\n")
    gc.collect()
    with tempfile.TemporaryDirectory() as place:
        folder = write_random_sd15(Path(place), False)
        told["sd15"] = figures("sd15", local_model(str(folder)), "yoso_lora.safetensors", options.repeats, [], False)
    options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
