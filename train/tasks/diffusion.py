"""Plain diffusion training: the squared error of what the network predicts, at every noise level.

Three uses: a network from nothing; a LoRA or a fine-tune on new pictures; and YOSO's quick adaptation (arXiv
2403.12931, section 4.2), which moves a network that predicts noise to velocity under a schedule that ends in pure
noise, where an estimate of the clean latent stays finite.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from train.data.latents import CaptionedLatents, GeneratedLatents
from train.loop.config import RunConfig, setting, with_defaults
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player
from train.tasks.base import ModelRunConfig, Previewer
from train.tasks.losses import per_sample_mse
from yoso_core.denoiser import Denoiser, guided
from yoso_core.families.base import Family
from yoso_core.sampling import ddim, ddim_timesteps
from yoso_core.schedule import PREDICTIONS, NoiseSchedule, Prediction


@dataclass(frozen=True)
class DenoisingConfig(RunConfig):
    """What denoising itself has to set, whatever network learns it."""

    prediction: str = setting("v_prediction", "what the network is to predict", PREDICTIONS)
    zero_terminal_snr: bool = setting(True, "end the noise schedule in pure noise")
    drop_caption: float = setting(0.1, "share of captions replaced by the empty prompt, for guidance")
    high_noise: float = setting(1.0, "timesteps are T u^high_noise, u uniform: below 1 favours noisy ones")
    preview_guidance: float = setting(2.0, "guidance of the preview pictures", on_resume=True)
    preview_steps: int = setting(10, "evaluations a preview picture", on_resume=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fraction("drop_caption")
        self._above_zero("high_noise", "preview_guidance")
        self._at_least(1, "preview_steps")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            self._refuse("prediction", "epsilon says nothing of the picture at pure noise; use v_prediction")


@dataclass(frozen=True)
@with_defaults(adapter="full", learning_rate=1e-5)
class DiffusionConfig(DenoisingConfig, ModelRunConfig):
    """The defaults are those of quick adaptation: all weights, a low rate, not for long."""

    on_one_step: bool = setting(
        False, "train on top of the model's own one-step LoRA: for LoRAs that are to be used with it"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_one_step and self.adapter != "lora":
            self._refuse("on_one_step", "only a LoRA can be put on top of a one-step LoRA; use adapter lora")


class DiffusionPass(NamedTuple):
    output: Tensor  # (B, C, h, w)
    wanted: Tensor  # (B, C, h, w)


class DiffusionTask:
    """Predict noise, velocity or the clean latent from a noisy one.

    Args:
        family: of the network.
        network: on its device; what requires gradients is trained.
        schedule: the noise schedule to learn under.
        data: latents with encoded captions.
        config: see `DenoisingConfig`.
        previewer: draws preview prompts.
        fingerprint: of the base model's weights.
    """

    averaged = ("network",)

    def __init__(
        self,
        family: Family,
        network: nn.Module,
        schedule: NoiseSchedule,
        data: CaptionedLatents | GeneratedLatents,
        config: DenoisingConfig,
        previewer: Previewer,
        fingerprint: str = "",
    ) -> None:
        self.data, self.config, self.schedule, self.previewer = data, config, schedule, previewer
        self.prediction: Prediction = config.prediction
        self.sample_count, self.repeats = len(data), data.repeats
        self.fingerprint = f"{data.fingerprint()} {fingerprint}"
        self.players = {"network": Player(network, config.learning_rate)}
        self.family, self.network = family, network
        if config.compile:
            network.compile()

    def timesteps(self, draws: Draws) -> Tensor:
        """(B,) int64."""
        uniform = draws.stratified()
        return (uniform**self.config.high_noise * len(self.schedule)).long().clamp(max=self.schedule.last)

    def forward(self, indices: Tensor, draws: Draws) -> DiffusionPass:
        clean, condition = self.data.batch(indices, self.config.drop_caption, draws)
        noise, t = draws.normal(*clean.shape[1:]), self.timesteps(draws)
        noisy = self.schedule.add_noise(clean, noise, t).contiguous(memory_format=torch.channels_last)
        output = self.family.predict(self.network, noisy, t, condition)
        wanted = {
            "epsilon": lambda: noise,
            "v_prediction": lambda: self.schedule.velocity(clean, noise, t),
            "sample": lambda: clean,
        }[self.prediction]()
        return DiffusionPass(output, wanted)

    def losses(self, player: str, shared: DiffusionPass) -> Losses:
        return Losses({"error": per_sample_mse(shared.output, shared.wanted).mean()})

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        denoise = Denoiser(
            partial(self.family.predict, averages["network"]), self.schedule, self.prediction, consistent=False
        )
        timesteps = ddim_timesteps(self.config.preview_steps, self.schedule.last)
        guidance = self.config.preview_guidance
        return self.previewer(
            lambda noise, condition, empty: ddim(
                guided(denoise, guidance, empty), self.schedule, noise, condition, timesteps
            )
        )
