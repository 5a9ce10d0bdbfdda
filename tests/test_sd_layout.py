"""A folder in the layout of Stable Diffusion 1.5, tiny: our engine makes what diffusers' own pipeline makes."""

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline

import yoso_core.runtimes.parts
from benchmarks.sd15 import write_random_sd15
from yoso_core.engine import Engine
from yoso_core.models import local_model
from yoso_core.requests import GenerateRequest

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd15(tmp_path_factory.mktemp("sd15"), small=True)


def engine_latents(folder, request, dtype, monkeypatch):
    """Clean latents of a request, caught on their way to the decoder."""
    caught = []
    decode = yoso_core.runtimes.parts.decode
    monkeypatch.setattr(
        yoso_core.runtimes.parts, "decode", lambda decoder, z: decode(decoder, caught.append(z.clone()) or z)
    )
    result = Engine({"sd": local_model(str(folder))}, device="cpu", dtype=dtype).run(request)
    assert result.pictures[0].size == (request.size, request.size)
    return caught[0].float()


def diffusers_latents(folder, request, dtype, lora=True):
    """Clean latents of the published usage, from the same noise.

    SD1.5 latents have unit variance by their scaling factor, so the informative prior start is the noise itself.
    """
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    if lora:
        pipe.load_lora_weights(folder, weight_name="yoso_lora.safetensors")
    generator = torch.Generator().manual_seed(request.seed)
    side = request.size // 8
    return pipe(
        request.prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance or 1.0,
        latents=torch.randn(1, 4, side, side, generator=generator).to(dtype),
        generator=generator,
        output_type="latent",
    ).images.float()


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (2, 1.0), (2, 1.5)])
def test_engine_makes_the_latents_of_the_diffusers_pipeline(folder, steps, guidance, monkeypatch):
    request = GenerateRequest("a red heart", seed=7, steps=steps, guidance=guidance, model="sd", size=SIZE)
    ours = engine_latents(folder, request, torch.float32, monkeypatch)
    theirs = diffusers_latents(folder, request, torch.float32)
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


def test_lora_in_the_published_format_acts(folder):
    request = GenerateRequest("a red heart", seed=7, model="sd", size=SIZE)
    with_lora, without = (diffusers_latents(folder, request, torch.float32, lora) for lora in (True, False))
    assert (with_lora - without).abs().max() > 0.01 * without.std()
