"""One-step generation from nothing: no teacher, no text, no autoencoder (YOSO, arXiv 2403.12931, section 5.1).

A small UNet on the pixels themselves learns to make a picture in one evaluation by the same losses as the
text-to-image model, with a discriminator that starts from nothing too. Beside it a diffusion model of the same network
and budget.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from train.data.latents import CaptionedLatents, grid, load_pictures, to_unit_range
from train.loop.config import RunConfig, setting, with_defaults
from train.loop.randomness import Use, generator_for
from train.recipes.corpus.emoji import CORPUS
from train.tasks.diffusion import DenoisingConfig, DiffusionTask
from train.tasks.yoso import CooperationConfig, YosoTask
from yoso_core.condition import Condition
from yoso_core.families import FAMILIES
from yoso_core.schedule import NoiseSchedule

FAMILY = FAMILIES["stable-diffusion"]  # a UNet that reads a context, whatever it was encoded by
CONTEXT = 8  # width of the one prompt, all zeros, that an unconditional network is always handed
TIMESTEPS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True}


@dataclass(frozen=True)
class PixelConfig(RunConfig):
    """A network on pixels, without prompts."""

    data: str = setting(str(CORPUS), "folder of pictures")
    size: int = setting(32, "side of a picture in pixels")
    channels: tuple[int, ...] = setting((32, 64, 128), "width of the network at each halving of the picture")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.data,) if self.data else ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or min(self.channels) < 16 or any(width % 16 for width in self.channels):
            self._refuse("channels", "each must be a multiple of 16")
        if self.size < 8 or self.size % 2 ** (len(self.channels) - 1):
            self._refuse("size", f"it must be at least 8 and go in two {len(self.channels) - 1} times")


@dataclass(frozen=True)
@with_defaults(learning_rate=3e-4, discriminator_learning_rate=1e-4, adversarial_weight=0.1, consistency_distance="mse")
class ScratchConfig(CooperationConfig, PixelConfig):
    """YOSO in pixel space. There is no pretrained encoder to compare features of, so pixels are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistency_distance != "mse" or self.consistency_path != "data":
            self._refuse("consistency_distance", "from nothing there is no teacher and no encoder to measure with")


@dataclass(frozen=True)
@with_defaults(learning_rate=3e-4, drop_caption=0.0, preview_guidance=1.0, preview_steps=25)
class ScratchDiffusionConfig(DenoisingConfig, PixelConfig):
    """The baseline: the same network, by plain diffusion."""


def build_network(config: PixelConfig) -> UNet2DConditionModel:
    """Convolutions everywhere, attention in the middle alone; there is one prompt, all zeros."""
    levels = len(config.channels)
    network = UNet2DConditionModel(
        sample_size=config.size,
        in_channels=3,
        out_channels=3,
        block_out_channels=config.channels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        mid_block_type="UNetMidBlock2DCrossAttn",
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    network.set_attn_processor(AttnProcessor())
    return network.to(memory_format=torch.channels_last)


def load_pixels(config: PixelConfig) -> CaptionedLatents:
    """Pictures in [-1, 1] as if they were latents, all under one empty prompt."""
    data, empty = load_pictures(Path(config.data), config.size), Condition(torch.zeros(1, 1, CONTEXT))
    return CaptionedLatents(
        to_unit_range(data.pictures),
        conditions=empty.expand(len(data)).to(dtype=torch.bfloat16),
        first=torch.arange(len(data) + 1),
        empty=empty,
        digest=data.digest,
        problems=tuple(data.problems),
        repeats=data.repeats,
    )


class PixelPreviewer:
    """32 pictures from fixed seeds."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.noise = torch.randn(32, 3, size, size, generator=generator_for(0, Use.PREVIEW)).to(device)
        self.condition = Condition(torch.zeros(32, 1, CONTEXT, device=device))

    @torch.no_grad()
    def __call__(self, sample) -> Image.Image:
        return grid(sample(self.noise, self.condition, self.condition[:1]).cpu(), 8)


def build_task(config: ScratchConfig | ScratchDiffusionConfig, device: torch.device) -> YosoTask | DiffusionTask:
    """The task of either method on the same network, from the same first weights."""
    torch.manual_seed(config.seed)
    data, previewer = load_pixels(config), PixelPreviewer(config.size, device)
    network = build_network(config).to(device)
    schedule = NoiseSchedule.from_config(TIMESTEPS)
    if isinstance(config, ScratchDiffusionConfig):
        return DiffusionTask(FAMILY, network, schedule, data, config, previewer)
    return YosoTask(FAMILY, copy.deepcopy(network), network, schedule, "v_prediction", data, config, previewer)
