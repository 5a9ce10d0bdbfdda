"""ControlNets (arXiv 2302.05543): a picture that follows the edges of another, in one evaluation as in many.

The network stays as it is, with its one-step LoRA merged. Beside it a copy of its encoder reads a map and learns what
to add to its skips, so that G(z_t, t, c, map), read at every noise level, comes to the picture that the map is of. By
squared error alone it would come to the mean of all pictures with such edges; an adversary keeps it sharp.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from train.data.latents import CaptionedLatents, to_unit_range, weights_fingerprint
from train.data.lines import maps_of, varied
from train.loop.config import ConfigError, setting, with_defaults
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player
from train.tasks.base import ModelRunConfig, Previewer
from train.tasks.discriminator import LatentDiscriminator
from train.tasks.losses import discriminator_loss, generator_loss, reconstruction_sample_weight, weighted_mse
from yoso_core.autoencoder import encode
from yoso_core.condition import Condition
from yoso_core.conditioning import Guide
from yoso_core.denoiser import Denoiser
from yoso_core.families.base import Family
from yoso_core.sampling import one_step
from yoso_core.schedule import NoiseSchedule, Prediction

LEVELS = (16, 32, 96, 256)  # channels of the layers that bring a map to the size of a latent, as published ones have
LEAN_LEVELS = (8, 16, 32, 64)
ENCODED_AT_ONCE = 256  # pictures


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
    adversarial_weight: float = setting(
        0.1, "weight of a latent discriminator, which tells estimates from data; 0 leaves it out, and estimates blur"
    )
    discriminator_learning_rate: float = setting(2e-4, "learning rate of the discriminator")
    start_from: str = setting("", "folder of a ControlNet to go on from")
    variants: int = setting(
        1,
        "copies of each picture, all but the first turned, scaled, shifted and mirrored: where captions alone say "
        "what a picture looks like, only the map can say how it lies",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fraction("last_timestep_share", "empty_maps", "drop_caption")
        self._at_least(0, "weight_cap", "weight_floor", "adversarial_weight")
        self._above_zero("discriminator_learning_rate")
        self._at_least(1, "variants")
        if self.adapter == "lora":
            self._refuse("adapter", "a ControlNet is trained in full")


def begin_controlnet(unet: UNet2DConditionModel, config: ControlConfig) -> ControlNetModel:
    """What a run starts from: a ControlNet that was trained before, or a fresh one.

    Raises:
        ConfigError: there is none in the folder named, or one of another family.
    """
    if not config.start_from:
        return build_controlnet(unet, config.whole_encoder)
    try:
        found = ControlNetModel.from_pretrained(config.start_from, use_safetensors=True, local_files_only=True).float()
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{config.start_from} holds no ControlNet ({error!s:.80})") from None
    for name in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        if json.dumps(found.config[name]) != json.dumps(unet.config[name]):  # a file has lists where code has tuples
            raise ConfigError(
                f"{config.start_from} is for another model: its {name} is {found.config[name]}, not {unet.config[name]}"
            )
    return found


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
        conditioning_embedding_out_channels=LEAN_LEVELS,
    )
    own = unet.state_dict()
    lean.load_state_dict(lean.state_dict() | {key: own[key] for key in lean.state_dict() if key in own})
    return lean


class Variants(NamedTuple):
    """Pictures V ways, and the maps of each."""

    latents: Tensor  # (V, N, C, h, w) float32
    maps: Tensor  # (V, N, M, S, S) uint8


@torch.no_grad()
def make_variants(pictures: Tensor, count: int, autoencoder: nn.Module, seed: int) -> Variants:
    """Vary pictures and encode them.

    Args:
        pictures: (N, 3, S, S) uint8.
        count: V; the first is the picture as it is.
        autoencoder: on its device.
        seed: of the variations.
    """
    weight = next(autoencoder.parameters())
    latents, maps = [], []

    def drawn(picture: np.ndarray, variant: int, index: int) -> tuple[Tensor, Tensor]:
        if variant:
            picture = np.array(varied(Image.fromarray(picture), np.random.default_rng([seed, variant, index])))
        return torch.from_numpy(picture.copy()), torch.from_numpy(maps_of(picture))

    with ThreadPoolExecutor() as pool:  # OpenCV lets other threads run
        for variant in range(count):
            made = pool.map(drawn, pictures.permute(0, 2, 3, 1).numpy(), repeat(variant), range(len(pictures)))
            seen, found = zip(*made, strict=True)
            maps += found
            for part in torch.stack(seen).permute(0, 3, 1, 2).split(ENCODED_AT_ONCE):
                latents.append(encode(autoencoder, to_unit_range(part).to(weight)).float().cpu())
    shape = (count, len(pictures))
    return Variants(torch.cat(latents).unflatten(0, shape), torch.stack(maps).unflatten(0, shape))


class ControlPass(NamedTuple):
    clean: Tensor  # (B, C, h, w)
    estimate: Tensor  # (B, C, h, w), with gradients
    t: Tensor  # (B,)
    condition: Condition  # of B rows


class ControlTask:
    """The clean latent from a noisy one, its prompt and a map.

    Args:
        family: of the networks.
        network: with its one-step LoRA merged; stays as it is.
        controlnet: what is trained.
        schedule: the noise schedule.
        prediction: what the network returns.
        data: latents with encoded captions.
        variants: of the same N pictures.
        config: see `ControlConfig`.
        previewer: draws preview prompts.
    """

    averaged = ("controlnet",)

    def __init__(
        self,
        family: Family,
        network: nn.Module,
        controlnet: ControlNetModel,
        schedule: NoiseSchedule,
        prediction: Prediction,
        data: CaptionedLatents,
        variants: Variants,
        config: ControlConfig,
        previewer: Previewer,
    ) -> None:
        self.data, self.variants, self.config, self.previewer = data, variants, config, previewer
        self.schedule, self.prediction = schedule, prediction
        self.family, self.controlnet = family, controlnet
        self.network = network.requires_grad_(False).eval()
        self.sample_count, self.repeats = len(data), data.repeats
        self.fingerprint = f"{data.fingerprint()} {weights_fingerprint(network)}"
        self.players: dict[str, Player] = {}
        if config.adversarial_weight:
            self.discriminator = LatentDiscriminator(family.encoder(network)).to(
                network.device, memory_format=torch.channels_last
            )
            self.discriminator.requires_grad_(True)
            rate = config.discriminator_learning_rate
            self.players["discriminator"] = Player(self.discriminator, rate, betas=(0.0, 0.99), weight_decay=0.0)
        self.players["controlnet"] = Player(controlnet, config.learning_rate)
        if config.compile:
            for module in (network, *(player.module for player in self.players.values())):
                module.compile()

    def forward(self, indices: Tensor, draws: Draws) -> ControlPass:
        _, condition = self.data.batch(indices, self.config.drop_caption, draws)
        variant, which = (
            (draws.uniform().cpu() * count).long() for count in (len(self.variants.maps), self.variants.maps.shape[2])
        )
        clean = self.variants.latents[variant, indices].to(draws.device)
        maps = self.variants.maps[variant, indices, which][:, None].to(draws.device).float() / 255
        noise = draws.normal(*clean.shape[1:])
        t = (draws.uniform() * len(self.schedule)).long()
        t = torch.where(draws.uniform() < self.config.last_timestep_share, self.schedule.last, t)
        maps = maps * (draws.uniform() >= self.config.empty_maps).float()[:, None, None, None]
        guide = Guide(partial(self.family.follow, self.controlnet), maps.expand(-1, 3, -1, -1), self.schedule.last)
        noisy = self.schedule.add_noise(clean, noise, t).contiguous(memory_format=torch.channels_last)
        return ControlPass(clean, self._denoiser(guide)(noisy, t, condition), t, condition)

    def _denoiser(self, guide: Guide) -> Denoiser:
        return Denoiser(partial(self.family.predict, self.network), self.schedule, self.prediction, control=guide)

    def losses(self, player: str, shared: ControlPass) -> Losses:
        config, t, condition = self.config, shared.t, shared.condition
        if config.adversarial_weight:
            self.discriminator.requires_grad_(player == "discriminator")
        if player == "discriminator":
            real = self.discriminator(shared.clean, t, condition)
            fake = self.discriminator(shared.estimate.detach(), t, condition)
            logits = {"logit_real": real.mean(), "logit_fake": fake.mean()}
            return Losses({"discriminator": discriminator_loss(real, fake)}, logits)
        weight = reconstruction_sample_weight(self.schedule.snr(t), config.weight_cap).clamp_min(config.weight_floor)
        terms = {"error": weighted_mse(shared.estimate, shared.clean, weight)}
        if config.adversarial_weight:
            logits = self.discriminator(shared.estimate, t, condition)
            terms["adversarial"] = config.adversarial_weight * generator_loss(logits)
        return Losses(terms)

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """One-step pictures of the preview prompts, each guided by a map of the data."""
        pictures = torch.arange(8) * len(self.data) // 8
        maps = self.variants.maps[-1, pictures, 0][:, None].float().expand(-1, 3, -1, -1).to(self.network.device) / 255

        def sample(noise: Tensor, condition: Condition, empty: Condition) -> Tensor:
            guide = Guide(partial(self.family.follow, averages["controlnet"]), maps[: len(noise)], self.schedule.last)
            return one_step(self._denoiser(guide), noise, condition, self.schedule.last)

        return self.previewer(sample)
