"""Small data and settings that the tests of training share."""

import time
from dataclasses import replace

import torch
from PIL import Image, ImageDraw

from train.data.latents import CaptionedLatents
from train.loop.randomness import Draws
from train.runs.jobs import Job
from train.tasks.yoso import YosoConfig
from yoso_core.condition import Condition
from yoso_core.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.from_config({"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"})
SHORT = {"steps": 3, "batch": 4, "warmup": 1, "checkpoint_every": 3, "preview_every": 3, "precision": "fp32"}
PATIENCE = 120  # seconds
TINY_YOSO = YosoConfig(**SHORT, learning_rate=1e-3, rank=2)


def tiny_latents(count: int = 12) -> CaptionedLatents:
    """Latents for `tests.tiny.build_unet`, two phrasings each."""
    generator = torch.Generator().manual_seed(0)
    conditions = Condition(torch.randn(count * 2, 32, 32, generator=generator).bfloat16())
    latents = torch.randn(count, 8, 8, 8, generator=generator)
    return CaptionedLatents(latents, conditions, torch.arange(0, count * 2 + 1, 2), Condition(torch.zeros(1, 32, 32)))


def scene(colour="red", side=64, offset=0):
    """A ball on white; `offset` pixels further to the right."""
    picture = Image.new("RGB", (side, side), "white")
    low, high = side // 6, side // 2
    ImageDraw.Draw(picture).ellipse((low + offset, low, high + offset, high), fill=colour)
    return picture


def draws(batch: int = 4, step: int = 0) -> Draws:
    return Draws(0, step, batch, slice(0, batch))


def no_preview(sample) -> Image.Image:
    return Image.new("RGB", (4, 4))


def changed(**values) -> YosoConfig:
    return replace(TINY_YOSO, **values)


def finish(job: Job) -> str:
    """Wait until a run's process has ended; returns the run's state."""
    until = time.monotonic() + PATIENCE
    while job.alive and time.monotonic() < until:
        time.sleep(0.1)
    return job.state
