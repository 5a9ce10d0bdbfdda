"""YOSO: a diffusion model learns to make its picture in one evaluation (arXiv 2403.12931).

The generator is the pretrained network with a LoRA, read as G(z_t, t, c), an estimate of the clean latent at every
noise level. What it makes from less noise is what the discriminator is told is real; what it makes from more noise
must match it. Near no noise the real side is the data itself, so the whole chain is anchored there.
"""

import copy
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn

from train.config import RunConfig, setting
from train.data import CaptionedLatents
from train.discriminator import LatentDiscriminator, UNetEncoder
from train.losses import (
    consistency_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_weight,
    weighted_mse,
)
from train.trainer import Player
from yoso_core.denoiser import Denoiser
from yoso_core.sampling import one_step, prior_start
from yoso_core.schedule import NoiseSchedule, Prediction

# Attention projections, feed-forward, resnet convolutions, shortcuts, samplers and time-embedding projections.
LORA_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
]


@dataclass(frozen=True)
class YosoConfig(RunConfig):
    steps: int = setting(5000, "optimizer steps in all")
    batch: int = setting(64, "latents a step")
    learning_rate: float = setting(2e-5, "learning rate of the generator's LoRA")
    discriminator_learning_rate: float = setting(2e-5, "learning rate of the discriminator")
    rank: int = setting(64, "rank of the LoRA")
    alpha: int = setting(8, "alpha of the LoRA: its change is scaled by alpha / rank")
    cooperation_offset: int = setting(250, "timesteps by which the sample told to be real is less noisy")
    consistency_offset: int = setting(25, "timesteps by which the consistency target is less noisy")
    adversarial_weight: float = setting(1.0, "weight of the adversarial term")
    consistency_weight: float = setting(2.0, "weight of the latent perceptual consistency term")
    consistency_cap: float = setting(5.0, "largest weight of one sample in the consistency term")
    reconstruction_weight: float = setting(0.5, "weight of the squared distance to the data")
    reconstruction_cap: float = setting(5.0, "cap on the SNR that weighs a sample in the reconstruction term")
    reconstruction_floor: float = setting(0.0, "least weight of a sample in that term, so that it reaches pure noise")
    last_timestep_share: float = setting(0.0, "share of samples at pure noise, where one-step generation starts")


def add_lora(unet: UNet2DConditionModel, rank: int, alpha: int) -> None:
    """Freeze the network and put a trainable LoRA on everything that YOSO's has it on."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=LORA_TARGETS))


@dataclass(frozen=True)
class YosoPass:
    """What both players look at in one step; all (B, ...)."""

    clean: Tensor  # the data
    context: Tensor
    t: Tensor
    t_real: Tensor
    t_target: Tensor
    fake: Tensor  # G(z_t, t), with gradients
    real: Tensor  # G(z_t', t'), without
    target: Tensor  # G(z_t'', t''), without


class YosoTask:
    """Self-cooperative diffusion GAN on latents.

    Args:
        unet: the pretrained network; its LoRA is added here.
        schedule: its noise schedule.
        prediction: what it returns.
        data: latents with encoded captions.
        config: weights, offsets and caps.
        previewer: draws preview prompts with a sampler, see `train.recipes.teacher.Previewer`.
    """

    averaged = ("generator",)

    def __init__(
        self,
        unet: UNet2DConditionModel,
        schedule: NoiseSchedule,
        prediction: Prediction,
        data: CaptionedLatents,
        config: YosoConfig,
        previewer,
    ) -> None:
        self.data, self.config, self.schedule, self.prediction = data, config, schedule, prediction
        self.sample_count = len(data)
        self.previewer = previewer
        self.moments = data.latents.mean((0, 2, 3)), data.latents.std((0, 2, 3))
        self.perception = UNetEncoder(unet).requires_grad_(False).to(memory_format=torch.channels_last)
        discriminator = LatentDiscriminator(unet).requires_grad_(True).to(memory_format=torch.channels_last)
        generator = copy.deepcopy(unet).to(memory_format=torch.channels_last)
        add_lora(generator, config.rank, config.alpha)
        self.generator, self.discriminator = generator, discriminator
        self.denoise = Denoiser(generator, schedule, prediction)
        self.players = {
            "discriminator": Player(discriminator, config.discriminator_learning_rate, betas=(0.0, 0.99)),
            "generator": Player(generator, config.learning_rate, betas=(0.9, 0.999)),
        }

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        t = torch.randint(len(self.schedule), (count,), generator=generator)
        last = torch.rand(count, generator=generator) < self.config.last_timestep_share
        return torch.where(last, self.schedule.last, t)

    def forward(self, indices: Tensor, generator: torch.Generator) -> YosoPass:
        clean, context = self.data.batch(indices, 0.0, generator)
        noise = torch.randn(clean.shape, generator=generator)
        t = self.timesteps(len(clean), generator)
        t_real = (t - self.config.cooperation_offset).clamp_min(0)
        t_target = (t - self.config.consistency_offset).clamp_min(0)

        def generate(at: Tensor) -> Tensor:
            noisy = self.schedule.add_noise(clean, noise, at).contiguous(memory_format=torch.channels_last)
            return self.denoise(noisy, at, context)

        with torch.no_grad():
            real, target = generate(t_real), generate(t_target)
        return YosoPass(clean, context, t, t_real, t_target, generate(t), real, target)

    def losses(self, player: str, shared: YosoPass) -> dict[str, Tensor]:
        return self._discriminator_losses(shared) if player == "discriminator" else self._generator_losses(shared)

    def _discriminator_losses(self, x: YosoPass) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(True)
        real = self.discriminator(x.real, x.t, x.context)
        fake = self.discriminator(x.fake.detach(), x.t, x.context)
        return {"discriminator": discriminator_loss(real, fake)}

    def _generator_losses(self, x: YosoPass) -> dict[str, Tensor]:
        config = self.config
        self.discriminator.requires_grad_(False)
        snr, snr_target = self.schedule.snr(x.t), self.schedule.snr(x.t_target)
        nothing = torch.zeros_like(x.t)
        with torch.no_grad():
            target_features = self.perception(x.target, nothing, x.context)
        features = self.perception(x.fake, nothing, x.context)
        near = consistency_weight(snr, snr_target, config.consistency_cap)
        keep = reconstruction_weight(snr, config.reconstruction_cap).clamp_min(config.reconstruction_floor)
        return {
            "adversarial": config.adversarial_weight * generator_loss(self.discriminator(x.fake, x.t, x.context)),
            "consistency": config.consistency_weight * weighted_mse(features, target_features, near),
            "reconstruction": config.reconstruction_weight * weighted_mse(x.fake, x.clean, keep),
        }

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """One-step pictures."""
        denoise = Denoiser(averages["generator"], self.schedule, self.prediction)

        def sample(noise: Tensor, context: Tensor, empty: Tensor) -> Tensor:
            start = prior_start(self.schedule, noise, *self.moments)
            return one_step(denoise, start, context, self.schedule.last)

        return self.previewer(sample)
