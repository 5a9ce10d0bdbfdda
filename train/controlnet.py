"""ControlNets (arXiv 2302.05543): a picture that follows the edges of another, in one evaluation as in many.

The network stays as it is, with its one-step LoRA merged. Beside it a copy of its encoder reads a map and learns what
to add to its skips, so that G(z_t, t, c, map), read at every noise level, comes to the picture that the map is of.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

from train.base import ModelRunConfig, Previewer
from train.config import setting, with_defaults
from train.data import CaptionedLatents, weights_fingerprint
from train.losses import reconstruction_sample_weight, weighted_mse
from train.randomness import Draws
from train.trainer import Losses, Player
from yoso_core.conditioning import Guide
from yoso_core.denoiser import Denoiser
from yoso_core.sampling import one_step
from yoso_core.schedule import NoiseSchedule, Prediction

CANNY_THRESHOLDS = ((100, 200), (40, 100))  # what people leave as it is, and what they turn it down to
SCRIBBLE_BLUR = 1 / 48  # of the side; what a quick drawing leaves out
LEVELS = (16, 32, 96, 256)  # channels of the layers that bring a map to the size of a latent, as published ones have


@dataclass(frozen=True)
@with_defaults(steps=1000, batch=32, learning_rate=1e-3, ema=0.99, adapter="full")
class ControlConfig(ModelRunConfig):
    """A ControlNet for edges and scribbles, for a model with its one-step LoRA."""

    whole_encoder: bool = setting(
        True, "begin with the network's whole encoder, as published ones do; otherwise without attention, half the size"
    )
    last_timestep_share: float = setting(0.5, "share of samples at pure noise, beside those drawn uniformly")
    weight_cap: float = setting(5.0, "cap on the SNR that weighs a sample")
    weight_floor: float = setting(0.5, "least weight of a sample")
    empty_maps: float = setting(0.05, "share of samples whose map is empty: they ask for no edges at all")
    drop_caption: float = setting(0.2, "share of captions replaced by the empty prompt: the map has to do")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fraction("last_timestep_share", "empty_maps", "drop_caption")
        self._at_least(0, "weight_cap", "weight_floor")
        if self.adapter == "lora":
            self._refuse("adapter", "a ControlNet is trained in full")


def build_controlnet(unet: UNet2DConditionModel, whole_encoder: bool) -> ControlNetModel:
    """A fresh ControlNet for a network: its encoder's weights, and zeros where it joins.

    Args:
        whole_encoder: False leaves the attention out, and all but the first layer of the middle.
    """
    if whole_encoder:
        return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=LEVELS)
    same = ("in_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim")
    config = {name: unet.config[name] for name in (*same, "attention_head_dim", "flip_sin_to_cos", "freq_shift")}
    lean = ControlNetModel(
        **config,
        down_block_types=["DownBlock2D"] * len(unet.config.block_out_channels),
        mid_block_type="UNetMidBlock2D",
        conditioning_embedding_out_channels=LEVELS,
    )
    own = unet.state_dict()
    lean.load_state_dict(lean.state_dict() | {key: own[key] for key in lean.state_dict() if key in own})
    return lean


def scribble(picture: np.ndarray) -> np.ndarray:
    """What somebody would draw of a picture in a hurry: thick lines of its large shapes.

    Args:
        picture: (S, S, 3) uint8.

    Returns:
        (S, S) uint8, 0 or 255.
    """
    side = len(picture)
    smooth = cv2.GaussianBlur(picture, (0, 0), side * SCRIBBLE_BLUR)
    edges = cv2.Canny(smooth, 30, 80)
    return cv2.dilate(edges, np.ones((max(2, side // 32),) * 2, np.uint8))


def maps_of(picture: np.ndarray) -> np.ndarray:
    """The maps that one picture is learned with: (M, S, S) uint8."""
    return np.stack([*(cv2.Canny(picture, *pair) for pair in CANNY_THRESHOLDS), scribble(picture)])


class ControlPass(NamedTuple):
    clean: Tensor  # (B, C, h, w)
    estimate: Tensor  # (B, C, h, w)
    t: Tensor  # (B,)


class ControlTask:
    """The clean latent from a noisy one, its prompt and a map.

    Args:
        unet: the network with its one-step LoRA merged; stays as it is.
        controlnet: what is trained.
        schedule: the noise schedule.
        prediction: what the network returns.
        data: latents with encoded captions.
        maps: (N, M, S, S) uint8, of the same N pictures.
        config: see `ControlConfig`.
        previewer: draws preview prompts.
    """

    averaged = ("controlnet",)

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        schedule: NoiseSchedule,
        prediction: Prediction,
        data: CaptionedLatents,
        maps: Tensor,
        config: ControlConfig,
        previewer: Previewer,
    ) -> None:
        self.data, self.maps, self.config, self.previewer = data, maps, config, previewer
        self.schedule, self.prediction = schedule, prediction
        self.unet, self.controlnet = unet.requires_grad_(False).eval(), controlnet
        self.sample_count = len(data)
        self.fingerprint = f"{data.fingerprint()} {weights_fingerprint(unet)}"
        self.players = {"controlnet": Player(controlnet, config.learning_rate)}
        if config.compile:
            unet.compile()
            controlnet.compile()

    def forward(self, indices: Tensor, draws: Draws) -> ControlPass:
        clean, context = self.data.batch(indices, self.config.drop_caption, draws)
        noise = draws.normal(*clean.shape[1:])
        t = (draws.uniform() * len(self.schedule)).long()
        t = torch.where(draws.uniform() < self.config.last_timestep_share, self.schedule.last, t)
        which = (draws.uniform().cpu() * self.maps.shape[1]).long()
        maps = self.maps[indices, which][:, None].to(draws.device).float() / 255
        maps = maps * (draws.uniform() >= self.config.empty_maps).float()[:, None, None, None]
        guide = Guide(self.controlnet, maps.expand(-1, 3, -1, -1), self.schedule.last)
        noisy = self.schedule.add_noise(clean, noise, t).contiguous(memory_format=torch.channels_last)
        return ControlPass(clean, self._denoiser(guide)(noisy, t, context), t)

    def _denoiser(self, guide: Guide) -> Denoiser:
        return Denoiser(self.unet, self.schedule, self.prediction, control=guide)

    def losses(self, player: str, shared: ControlPass) -> Losses:
        weight = reconstruction_sample_weight(self.schedule.snr(shared.t), self.config.weight_cap)
        weight = weight.clamp_min(self.config.weight_floor)
        return Losses({"error": weighted_mse(shared.estimate, shared.clean, weight)})

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """One-step pictures of the preview prompts, each guided by a map of the data."""
        maps = self.maps[torch.arange(8) * len(self.maps) // 8, 0][:, None].float() / 255
        maps = maps.expand(-1, 3, -1, -1).to(self.unet.device)

        def sample(noise: Tensor, context: Tensor, empty: Tensor) -> Tensor:
            guide = Guide(averages["controlnet"], maps[: len(noise)], self.schedule.last)
            return one_step(self._denoiser(guide), noise, context, self.schedule.last)

        return self.previewer(sample)
