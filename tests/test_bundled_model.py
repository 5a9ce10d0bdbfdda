"""The committed weights: within budget, listed, loadable by plain diffusers, and what they draw is what was asked."""

import json

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline

from train.handover.manifest import FILE_LIMIT, TOTAL_LIMIT, manifest
from yoso_core.checkpoints import NEWEST
from yoso_core.engine import Engine
from yoso_core.models import MODELS, MODELS_FOLDER
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest

FOLDER = MODELS_FOLDER / "yoso-emoji"


@pytest.fixture(scope="module")
def bundled():
    return Engine(MODELS, device="cpu")


def test_every_file_is_listed_and_small():
    listing = manifest()
    assert json.loads((MODELS_FOLDER / "manifest.json").read_text()) == listing
    assert sum(entry["bytes"] for entry in listing.values()) <= TOTAL_LIMIT
    assert max(entry["bytes"] for entry in listing.values()) < FILE_LIMIT
    assert not [name for name in listing if name.endswith((".bin", ".pt", ".ckpt", ".pkl", ".py"))]


def test_hub_sources_are_pinned_and_folders_exist():
    for spec in MODELS.values():
        for source in filter(None, (spec.source, spec.tiny_decoder, spec.network, spec.lora_source)):
            if source.revision == NEWEST:  # no commit of it is known; the first fetch records the one that it gets
                assert not source.is_folder
            elif source.is_folder:
                assert (MODELS_FOLDER / "yoso-emoji").samefile(source.place)
            else:
                assert len(source.revision) == 40 and int(source.revision, 16)


@pytest.mark.parametrize("steps", [1, 2])
def test_plain_diffusers_draws_the_same_picture(bundled, steps):
    """The README's snippet, from the same noise as ours."""
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(FOLDER / "yoso_lora.safetensors")
    generator = torch.Generator().manual_seed(7)
    theirs = pipeline(
        "a red heart, 3d",
        num_inference_steps=steps,
        guidance_scale=1,
        latents=torch.randn(1, 8, 8, 8, generator=generator),
        generator=generator,
    ).images[0]
    ours = bundled.run(GenerateRequest("a red heart, 3d", seed=7, steps=steps)).pictures[0]
    difference = np.abs(np.asarray(ours, float) - np.asarray(theirs, float))
    assert difference.max() <= 2 and difference.mean() < 0.05  # rounding


def mean_colour(picture):
    """Mean RGB of what is not background."""
    values = np.asarray(picture, float).reshape(-1, 3)
    return values[values.min(1) < 200].mean(0)


@pytest.mark.parametrize("seed", range(3))
def test_prompts_show_in_the_pictures(bundled, seed):
    def colour(prompt):
        return mean_colour(bundled.run(GenerateRequest(prompt, seed=seed)).pictures[0])

    red, green, blue = colour("a red heart, 3d"), colour("evergreen tree, flat"), colour("blue heart, flat")
    assert red[0] > red[1] + 60 and red[0] > red[2] + 60
    assert green[1] > green[0] + 30 and green[1] > green[2] + 30
    assert blue[2] > blue[0] + 30


def test_styles_differ(bundled):
    pictures = [
        np.asarray(bundled.run(GenerateRequest(f"dog face, {style}", seed=1)).pictures[0], float)
        for style in MODELS[DEFAULT_MODEL].styles
    ]
    for index, one in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert np.abs(one - other).mean() > 3


def test_words_no_caption_has(bundled):
    """Distilled language: "kitty" is drawn nearer to "cat" than to things of another kind."""

    def picture(prompt):
        return np.asarray(bundled.run(GenerateRequest(prompt, seed=2)).pictures[0], float)

    kitty = picture("kitty, flat")
    near = np.abs(kitty - picture("cat, flat")).mean()
    assert all(near < np.abs(kitty - picture(other)).mean() for other in ("rocket, flat", "pizza, flat", "tulip, flat"))
