"""Stable Diffusion XL, tiny and random, in the layouts of the published models: what diffusers' own pipelines make."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import (
    ControlNetModel,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import save_file

import yoso_core.runtimes.parts
from benchmarks.sdxl import layout, write_random_sdxl
from tests.lora.spelt import as_diffusers, as_kohya, random_pairs
from train.__main__ import main
from train.loop.console import run_command
from yoso_core.autoencoder import encode, to_tensor
from yoso_core.checkpoints import Checkpoint, ModelError, Source
from yoso_core.conditioning import ControlSpec, edge_map
from yoso_core.engine import Engine
from yoso_core.families.sdxl import StableDiffusionXL
from yoso_core.loading import load_model
from yoso_core.models import local_model
from yoso_core.prompts import read_prompt
from yoso_core.requests import ControlUse, EditRequest, GenerateRequest, LoraUse
from yoso_core.sampling import one_step, strength_timestep

SIZE, PROMPT = 64, "a red heart"
TRAILING = {"timestep_spacing": "trailing"}
SAMPLE = TRAILING | {"prediction_type": "sample"}
LATER = (999, 749, 499, 249)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sdxl(tmp_path_factory.mktemp("sdxl"), small=True, dtype=torch.float32)


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def specs(folder):
    """By what they are the layouts of."""
    plain = replace(local_model(str(folder)), dtype="float32", sizes=(96,))
    return {
        "turbo": replace(plain, scheduler=TRAILING),
        "lightning": replace(plain, scheduler=SAMPLE),
        "dmd2": replace(plain, timesteps=((399,), LATER)),
    }


@pytest.fixture(scope="module")
def engine(specs):
    return Engine(specs, device="cpu")


def caught(engine, request, monkeypatch):
    """Clean latents of a request, caught on their way to the decoder."""
    found, decode = [], yoso_core.runtimes.parts.decode
    with monkeypatch.context() as patch:
        patch.setattr(yoso_core.runtimes.parts, "decode", lambda net, z: decode(net, found.append(z.clone()) or z))
        engine.run(request)
    return torch.cat(found)


def by_diffusers(pipeline, scheduler, request, **options):
    """Clean latents from the same noise."""
    pipeline.scheduler = scheduler
    guidance = request.guidance or 1.0
    width, height = request.size if isinstance(request.size, tuple) else (SIZE, SIZE)
    return pipeline(
        request.prompt,
        width=width,
        height=height,
        guidance_scale=guidance if guidance > 1 else 0.0,
        negative_prompt=request.negative if guidance > 1 else None,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
        **options,
    ).images


def scheduled(folder, kind, settings):
    """A scheduler of diffusers with some settings other than the folder's."""
    return kind.from_config(EulerDiscreteScheduler.load_config(folder, subfolder="scheduler"), **settings)


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


CASES = {
    "Turbo, one step": ("turbo", {}, EulerAncestralDiscreteScheduler, TRAILING, {"num_inference_steps": 1}),
    "Turbo, a wide picture": (
        "turbo",
        {"size": (96, 64)},
        EulerAncestralDiscreteScheduler,
        TRAILING,
        {"num_inference_steps": 1},
    ),
    "Lightning, one step": ("lightning", {}, EulerDiscreteScheduler, SAMPLE, {"num_inference_steps": 1}),
    "Lightning, four steps": (
        "turbo",
        {"steps": 4, "sampler": "ddim"},
        EulerDiscreteScheduler,
        TRAILING,
        {"num_inference_steps": 4},
    ),
    "DMD2, one step": ("dmd2", {}, LCMScheduler, {}, {"timesteps": [399]}),
    "DMD2, four steps": ("dmd2", {"steps": 4}, LCMScheduler, {}, {"timesteps": list(LATER)}),
    "two steps and guidance": (
        "dmd2",
        {"steps": 2, "guidance": 1.5, "negative": "blue, 3d"},
        LCMScheduler,
        {},
        {"num_inference_steps": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_engine_makes_the_latents_of_diffusers(case, folder, engine, pipeline, monkeypatch):
    name, asked, kind, settings, given = CASES[case]
    request = GenerateRequest(PROMPT, seed=7, model=name, **asked)
    theirs = by_diffusers(pipeline, scheduled(folder, kind, settings), request, **given)
    assert_same(caught(engine, request, monkeypatch), theirs)


def sgm_name(name):
    """A module of SDXL's network as its first implementation numbers it; blocks have three layers, samplers too."""
    half, *rest = (
        name.replace(".resnets.", ".0.").replace(".attentions.", ".1.").replace("conv1", "in_layers.2").split(".")
    )
    if half == "mid_block":
        kind, number, *inner = rest
        return ".".join(["middle_block", str(2 * int(number) if kind == "0" else 1), *inner])
    block, kind, number, *inner = rest
    side, first = ("input_blocks", 1) if half == "down_blocks" else ("output_blocks", 0)
    return ".".join([side, str(first + 3 * int(block) + int(number)), kind, *inner])


LORAS = {
    "kohya": lambda pairs: as_kohya(pairs, "lora_te1_", sgm_name),
    "diffusers": as_diffusers,
}


@pytest.mark.parametrize("spelling", LORAS)
def test_a_lora_acts_on_network_and_both_text_encoders(spelling, folder, pipeline, specs, tmp_path, monkeypatch):
    """In the numbers of the first implementation, as trainers write them, and in diffusers' own names."""
    parts = {name: getattr(pipeline, name) for name in ("unet", "text_encoder", "text_encoder_2")}
    path = tmp_path / "style.safetensors"
    save_file(LORAS[spelling](random_pairs(parts, r"(to_[qkv]|(q|k|v|out)_proj|fc1|conv1)$")), path)
    engine, request = Engine(specs, device="cpu"), GenerateRequest(PROMPT, seed=7, model="turbo")
    engine.add_lora("style", path)
    ours = caught(engine, replace(request, loras=(LoraUse("style", 0.5),)), monkeypatch)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="style")
    pipeline.set_adapters(["style"], [0.5])
    scheduler = scheduled(folder, EulerAncestralDiscreteScheduler, TRAILING)
    theirs = by_diffusers(pipeline, scheduler, request, num_inference_steps=1)
    pipeline.unload_lora_weights()
    assert_same(ours, theirs)
    without = by_diffusers(pipeline, scheduler, request, num_inference_steps=1)
    assert (theirs - without).abs().max() > 0.01 * without.std()
    assert_same(caught(engine, request, monkeypatch), without)


@pytest.mark.parametrize(("model", "steps"), [("dmd2", 1), ("dmd2", 2), ("dmd2", 4)])
def test_edits_are_those_of_diffusers(model, steps, folder, engine, pipeline, specs, monkeypatch):
    """From the same latent, because diffusers draws one from the posterior and we take its mean."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8))
    request = EditRequest(PROMPT, seed=7, model=model, steps=steps, picture=picture, strength=0.6)
    ours = caught(engine, request, monkeypatch)
    whole = StableDiffusionXLImg2ImgPipeline(**pipeline.components, add_watermarker=False)
    whole.set_progress_bar_config(disable=True)
    whole.scheduler = scheduled(folder, LCMScheduler, {})
    schedule = engine.load(model).schedule
    start = strength_timestep(schedule, 0.6, SIZE // 8)
    own = {1: (399,), 2: (999, 499), 4: LATER}[steps]
    with torch.no_grad():
        latent = encode(pipeline.vae, to_tensor(picture)) / pipeline.vae.config.scaling_factor
    theirs = whole(
        PROMPT,
        image=latent * pipeline.vae.config.scaling_factor,
        strength=1.0,
        timesteps=[each * start // 999 for each in own],
        guidance_scale=0.0,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    assert_same(ours, theirs)


def test_prompts_in_one_batch_are_drawn_as_alone(folder, engine, pipeline):
    model = engine.load("turbo")
    condition = model.encode_texts([PROMPT, "a cat, 3d"])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    start = model.schedule.sigma[-1] * noise
    pipeline.scheduler = scheduled(folder, EulerAncestralDiscreteScheduler, TRAILING)
    with torch.no_grad():
        ours = one_step(model.denoiser(), start, condition, 999)
        alone = [one_step(model.denoiser(), start[row : row + 1], condition[row : row + 1], 999) for row in (0, 1)]
    theirs = pipeline(
        [PROMPT, "a cat, 3d"],
        height=SIZE,
        width=SIZE,
        num_inference_steps=1,
        guidance_scale=0.0,
        latents=noise,
        output_type="latent",
    ).images
    assert_same(ours, theirs)
    assert_same(torch.cat(alone), theirs)


def test_a_controlnet_guides_as_in_diffusers(folder, pipeline, specs, tmp_path, monkeypatch):
    torch.manual_seed(1)
    network = ControlNetModel.from_unet(pipeline.unet, conditioning_channels=3)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(tmp_path)
    control = ControlSpec("Edges", Source(str(tmp_path)), "none", "sdxl", ("canny",))
    engine = Engine(specs, device="cpu", controls={"edges": control})
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    picture.paste("black", (16, 16, 48, 48))
    use = ControlUse(picture=picture, annotator="canny", network="edges", strength=0.7)
    request = GenerateRequest(PROMPT, seed=7, model="turbo", control=use)
    whole = StableDiffusionXLControlNetPipeline(**pipeline.components, controlnet=network, add_watermarker=False)
    whole.set_progress_bar_config(disable=True)
    given = {"image": edge_map(picture, use.low, use.high), "controlnet_conditioning_scale": 0.7}
    scheduler = scheduled(folder, EulerAncestralDiscreteScheduler, TRAILING)
    theirs = by_diffusers(whole, scheduler, request, num_inference_steps=1, **given)
    assert_same(caught(engine, request, monkeypatch), theirs)
    plain = by_diffusers(pipeline, scheduler, request, num_inference_steps=1)
    assert (theirs - plain).abs().max() > 0.01 * plain.std()


def test_the_network_of_another_place_is_drawn_with(folder, pipeline, specs, tmp_path, monkeypatch):
    """A file of weights alone, as it is published beside the settings of the base model."""
    tensors = {key: 0.9 * value for key, value in pipeline.unet.state_dict().items()}
    save_file({key: value.half() for key, value in tensors.items()}, tmp_path / "unet.safetensors")
    spec = replace(specs["lightning"], network=Source(str(tmp_path), inside="unet.safetensors"))
    model = load_model(spec)
    for name, value in model.network.named_parameters():
        assert torch.equal(value, tensors[name].half().float())
    save_file(dict(list(tensors.items())[1:]), tmp_path / "unet.safetensors")
    with pytest.raises(ModelError, match=r"unet\.safetensors is not the network of"):
        load_model(spec)


def test_in_half_precision_the_autoencoder_stays_wide(folder, specs):
    """Its activations overflow; the configuration says so."""
    parts = StableDiffusionXL().load(Checkpoint("SDXL", str(folder)), torch.float16)
    assert parts["unet"].dtype == parts["text_encoder_2"].dtype == torch.float16
    assert parts["vae"].dtype == torch.float32
    result = Engine({"turbo": replace(specs["turbo"], tiny_decoder=None)}, device="cpu", dtype=torch.float16).run(
        GenerateRequest(PROMPT, seed=7, model="turbo")
    )
    assert result.pictures[0].size == (SIZE, SIZE)


def test_a_prompt_of_parts_has_the_vector_of_the_first(engine):
    model = engine.load("turbo")
    family = model.family

    def encoded(text):
        with torch.no_grad():
            return family.encode(model, read_prompt(text), lambda part, ids: family.read(part, model.parts[part], ids))

    both, first, second = (encoded(text).condition for text in ("a cat BREAK (red:1.3) dog", "a cat", "(red:1.3) dog"))
    assert torch.equal(both.context, torch.cat([first.context, second.context], 1))
    assert torch.equal(both.pooled, first.pooled)
    assert not torch.equal(second.context, encoded("red dog").condition.context)
    assert encoded("a cat " * 90).cut


def test_the_features_of_a_discriminator_know_the_conditions(engine):
    model = engine.load("turbo")
    encoder = model.family.encoder(model.network)
    condition = model.encode_texts([PROMPT])
    latent, t = torch.randn(1, 4, 8, 8), torch.tensor([400])
    seen = []
    hook = model.network.mid_block.register_forward_hook(lambda module, given, made: seen.append(made))
    with torch.no_grad():
        features = encoder(latent, t, condition)
        model.predict(latent, t, condition)
        other = encoder(latent, t, replace(condition, sizes=condition.sizes * 2))
    hook.remove()
    assert torch.allclose(features, seen[0], atol=1e-5) and not torch.allclose(features, other, atol=1e-4)


@pytest.mark.parametrize("kind", ["refiner", "narrow", "told less"])
def test_what_does_not_fit_is_refused_in_a_sentence(kind, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = copy / "unet" / "config.json"
    changes = {"refiner": {"in_channels": 9}, "narrow": {"cross_attention_dim": 48}, "told less": {}}[kind]
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    if kind == "told less":
        shutil.copytree(copy / "text_encoder", copy / "text_encoder_2", dirs_exist_ok=True)
    with pytest.raises(ModelError, match=r"\.$") as raised:
        load_model(local_model(str(copy)))
    assert "\n" not in str(raised.value)


def test_the_layout_of_the_real_one_has_its_number_of_parameters():
    with init_empty_weights():
        unet = UNet2DConditionModel(**layout(small=False)["unet"])
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684


RUN = "--steps 2 --batch 2 --warmup 1 --checkpoint-every 2 --preview-every 2 --precision fp32 --rank 2".split()
RUN += ["--learning-rate", "1e-2"]
TASKS = {
    "yoso": ("--consistency-path", "teacher"),
    "teacher": ("--adapter", "lora", "--prediction", "epsilon", "--no-zero-terminal-snr"),
}


@pytest.mark.parametrize("task", TASKS)
def test_what_is_trained_is_drawn_with_here_and_by_diffusers(task, folder, pipeline, specs, tmp_path, monkeypatch):
    """YOSO, with a discriminator of the network's own blocks, and a style."""
    data = tmp_path / "pictures"
    data.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (SIZE, SIZE), colour).save(data / f"{colour} square.png")
    common = ("--model", folder, "--data", data, "--run", tmp_path / "run", *RUN, *TASKS[task])
    monkeypatch.setattr(sys, "argv", ["train", task, *map(str, common)])
    run_command(main)
    out = tmp_path / "run" / "output"
    request = GenerateRequest(PROMPT, seed=7, model="turbo")
    scheduler = scheduled(folder, EulerAncestralDiscreteScheduler, TRAILING)
    pipeline.load_lora_weights(out)
    theirs = by_diffusers(pipeline, scheduler, request, num_inference_steps=1)
    pipeline.unload_lora_weights()
    without = by_diffusers(pipeline, scheduler, request, num_inference_steps=1)
    assert (theirs - without).abs().max() > 0.01 * without.std()
    engine = Engine(specs, device="cpu")
    for name in ("pytorch_lora_weights", "kohya"):
        engine.add_lora(name, out / f"{name}.safetensors")
        ours = caught(engine, replace(request, loras=(LoraUse(name, 1.0),)), monkeypatch)
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.std()  # its numbers are kept in half precision
