"""YOSO: a diffusion model learns to make its picture in one evaluation (arXiv 2403.12931).

The generator is the pretrained network, read as G(z_t, t, c), an estimate of the clean latent at every noise level.
What it makes from less noise is what the discriminator is told is real; what it makes from more noise must match it.
Near no noise the real side is the data itself, so the whole chain is anchored there.

The methods that YOSO is measured against are settings of the same task: with ``cooperation_offset`` at the length of
the schedule the real side is the data (a plain diffusion GAN); with ``adversarial_weight`` 0 and
``consistency_path`` "teacher" it is consistency distillation.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from train.data.latents import CaptionedLatents, GeneratedLatents, weights_fingerprint
from train.loop.config import RunConfig, setting, with_defaults
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player
from train.tasks.base import ModelRunConfig, Previewer
from train.tasks.discriminator import LatentDiscriminator
from train.tasks.losses import (
    consistency_sample_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_sample_weight,
    weighted_mse,
)
from yoso_core.condition import Condition
from yoso_core.denoiser import Denoiser, guided
from yoso_core.families.base import Family
from yoso_core.sampling import ddim_step, one_step, prior_start
from yoso_core.schedule import NoiseSchedule, Prediction

DISTANCES = ("perceptual", "mse")
PATHS = ("data", "teacher")


@dataclass(frozen=True)
@with_defaults(learning_rate=2e-5)
class CooperationConfig(RunConfig):
    """What the method itself has to set, whatever network it trains; the paper's settings are the defaults."""

    discriminator_learning_rate: float = setting(2e-5, "learning rate of the discriminator")
    cooperation_offset: int = setting(250, "timesteps by which the sample told to be real is less noisy")
    consistency_offset: int = setting(25, "timesteps by which the consistency target is less noisy")
    consistency_path: str = setting(
        "data", "where the less noisy neighbour comes from: data and noise, or a DDIM step of the frozen teacher", PATHS
    )
    teacher_guidance: float = setting(1.0, "guidance of that step")
    consistency_distance: str = setting(
        "perceptual", "between features of the frozen encoder, or the latents themselves", DISTANCES
    )
    adversarial_weight: float = setting(1.0, "weight of the adversarial term; 0 leaves the discriminator out")
    consistency_weight: float = setting(2.0, "weight of the consistency term")
    consistency_cap: float = setting(5.0, "largest weight of one sample in the consistency term")
    consistency_floor: float = setting(0.0, "least weight of one sample in that term; the paper's is 0 at pure noise")
    reconstruction_weight: float = setting(0.5, "weight of the squared distance to the data")
    reconstruction_cap: float = setting(5.0, "cap on the SNR that weighs a sample in the reconstruction term")
    reconstruction_floor: float = setting(
        0.0, "least weight of one sample in that term; the paper's is 0 at pure noise"
    )
    discriminator_beta2: float = setting(0.99, "second beta of the discriminator's Adam; the public script's is 0.999")
    discriminator_weight_decay: float = setting(0.0, "weight decay of the discriminator; the public script's is 0.01")
    discriminator_clip: bool = setting(True, "clip the discriminator's gradient too; the public script does not")
    noise_offset: float = setting(0.0, "size of noise that is the same all over a channel, beside the usual")
    input_perturbation: float = setting(0.0, "size of more noise in what the network is given, and not in its targets")
    last_timestep_share: float = setting(0.0, "share of samples at pure noise, beside those drawn uniformly")
    prior: bool = setting(
        True, "start previews from noise with the moments of the data (section 4.2), as inference does", on_resume=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above_zero("discriminator_learning_rate", "teacher_guidance")
        self._at_least(1, "consistency_offset", "cooperation_offset")
        self._at_most(10**6, "consistency_offset", "cooperation_offset")
        self._at_least(0, "adversarial_weight", "consistency_weight", "reconstruction_weight")
        self._at_least(0, "discriminator_weight_decay", "noise_offset", "input_perturbation")
        self._fraction("discriminator_beta2")
        self._at_least(0, "consistency_cap", "consistency_floor", "reconstruction_cap", "reconstruction_floor")
        self._fraction("last_timestep_share")
        if not (self.adversarial_weight or self.consistency_weight or self.reconstruction_weight):
            self._refuse("adversarial_weight", "with every weight at 0 nothing is learned")


@dataclass(frozen=True)
@with_defaults(steps=5000, batch=256)
class YosoConfig(CooperationConfig, ModelRunConfig):
    """YOSO on a text-to-image model, as the paper trained Stable Diffusion 1.5."""


@dataclass(frozen=True)
class YosoPass:
    """What both players look at in one step; all (B, ...)."""

    clean: Tensor  # the data
    condition: Condition  # of B rows
    t: Tensor
    t_target: Tensor
    fake: Tensor  # G(z_t, t), with gradients
    real: Tensor | None  # G(z_t', t'), without; None where there is no discriminator
    target: Tensor | None  # G(z_t'', t''), without; None where there is no consistency term


class YosoTask:
    """Self-cooperative diffusion GAN on latents, or on pixels.

    Args:
        family: of the networks.
        network: as it was before, on its device: it stays as it is, and gives the discriminator and the
            perceptual distance their first weights.
        generator: the network that is trained; what requires gradients is.
        schedule: its noise schedule.
        prediction: what it returns.
        data: latents with encoded captions.
        config: weights, offsets and caps.
        previewer: draws preview prompts.
    """

    averaged = ("generator",)

    def __init__(
        self,
        family: Family,
        network: nn.Module,
        generator: nn.Module,
        schedule: NoiseSchedule,
        prediction: Prediction,
        data: CaptionedLatents | GeneratedLatents,
        config: CooperationConfig,
        previewer: Previewer,
    ) -> None:
        self.data, self.config, self.schedule, self.prediction = data, config, schedule, prediction
        self.previewer, self.sample_count, self.repeats = previewer, len(data), data.repeats
        self.fingerprint = f"{data.fingerprint()} {weights_fingerprint(network)}"
        self.moments = data.moments()
        self.family, self.denoise = family, Denoiser(partial(family.predict, generator), schedule, prediction)
        self.players: dict[str, Player] = {}
        compiled: list[nn.Module] = [generator]
        if config.adversarial_weight:
            self.discriminator = LatentDiscriminator(family.encoder(network)).to(
                network.device, memory_format=torch.channels_last
            )
            self.discriminator.requires_grad_(True)
            self.players["discriminator"] = Player(
                self.discriminator,
                config.discriminator_learning_rate,
                betas=(0.0, config.discriminator_beta2),
                weight_decay=config.discriminator_weight_decay,
                clip=None if config.discriminator_clip else math.inf,
            )
            compiled.append(self.discriminator)
        self.players["generator"] = Player(generator, config.learning_rate, betas=(0.9, 0.999))
        if config.consistency_distance == "perceptual":
            self.perception = family.encoder(network).requires_grad_(False).to(memory_format=torch.channels_last)
            compiled.append(self.perception)
        if config.consistency_path == "teacher":
            teacher = network.requires_grad_(False).to(memory_format=torch.channels_last)
            plain = Denoiser(partial(family.predict, teacher), schedule, prediction, consistent=False)
            self.teacher = guided(plain, config.teacher_guidance, data.empty.to(network.device))
        if config.compile:
            for module in compiled:
                module.compile()

    def timesteps(self, draws: Draws) -> Tensor:
        t = (draws.uniform() * len(self.schedule)).long()
        last = draws.uniform() < self.config.last_timestep_share
        return torch.where(last, self.schedule.last, t)

    def forward(self, indices: Tensor, draws: Draws) -> YosoPass:
        config, schedule = self.config, self.schedule
        clean, condition = self.data.batch(indices, 0.0, draws)
        noise, t = draws.normal(*clean.shape[1:]), self.timesteps(draws)
        if config.noise_offset:
            noise = noise + config.noise_offset * draws.normal(clean.shape[1], 1, 1)
        t_real = (t - config.cooperation_offset).clamp_min(0)
        t_target = (t - config.consistency_offset).clamp_min(0)

        def noised(at: Tensor) -> Tensor:
            return schedule.add_noise(clean, noise, at).contiguous(memory_format=torch.channels_last)

        noisy, real, target = noised(t), None, None
        if config.input_perturbation:
            more = config.input_perturbation * draws.normal(*clean.shape[1:])
            noisy = schedule.add_noise(clean, noise + more, t).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            if config.adversarial_weight:
                real = self.denoise(noised(t_real), t_real, condition)
            if config.consistency_weight:
                neighbour = noised(t_target)
                if config.consistency_path == "teacher":
                    neighbour = ddim_step(schedule, self.teacher(noisy, t, condition), noisy, t, t_target)
                target = self.denoise(neighbour, t_target, condition)
        return YosoPass(clean, condition, t, t_target, self.denoise(noisy, t, condition), real, target)

    def losses(self, player: str, shared: YosoPass) -> Losses:
        return self._discriminator_losses(shared) if player == "discriminator" else self._generator_losses(shared)

    def _discriminator_losses(self, x: YosoPass) -> Losses:
        self.discriminator.requires_grad_(True)
        real = self.discriminator(x.real, x.t, x.condition)
        fake = self.discriminator(x.fake.detach(), x.t, x.condition)
        logits = {"logit_real": real.mean(), "logit_fake": fake.mean()}
        return Losses({"discriminator": discriminator_loss(real, fake)}, logits)

    def _generator_losses(self, x: YosoPass) -> Losses:
        config, terms = self.config, {}
        snr = self.schedule.snr(x.t)
        if config.adversarial_weight:
            self.discriminator.requires_grad_(False)
            logits = self.discriminator(x.fake, x.t, x.condition)
            terms["adversarial"] = config.adversarial_weight * generator_loss(logits)
        if config.consistency_weight:
            near = consistency_sample_weight(snr, self.schedule.snr(x.t_target), config.consistency_cap)
            student, target = self._seen(x.fake, x), self._seen(x.target, x)
            weight = near.clamp_min(config.consistency_floor)
            terms["consistency"] = config.consistency_weight * weighted_mse(student, target, weight)
        if config.reconstruction_weight:
            weight = reconstruction_sample_weight(snr, config.reconstruction_cap).clamp_min(config.reconstruction_floor)
            terms["reconstruction"] = config.reconstruction_weight * weighted_mse(x.fake, x.clean, weight)
        return Losses(terms)

    def _seen(self, latent: Tensor, x: YosoPass) -> Tensor:
        """What the consistency distance compares: features at timestep 0 under the same text, or the latent."""
        if self.config.consistency_distance == "mse":
            return latent
        return self.perception(latent, torch.zeros_like(x.t), x.condition)

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """One-step pictures."""
        denoise = Denoiser(partial(self.family.predict, averages["generator"]), self.schedule, self.prediction)

        def sample(noise: Tensor, condition: Condition, empty: Condition) -> Tensor:
            start = prior_start(self.schedule, noise, *self.moments) if self.config.prior else noise
            return one_step(denoise, start, condition, self.schedule.last)

        return self.previewer(sample)
