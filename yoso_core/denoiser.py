"""The one contract: every network, whatever it predicts, returns the clean latent."""

from typing import Protocol

import torch
from torch import Tensor, nn

from yoso_core.schedule import NoiseSchedule, Prediction

# Consistency boundary scalings (Song et al., arXiv 2303.01469) as LCM and YOSO use them.
BOUNDARY_DEVIATION = 0.5  # sigma_data
BOUNDARY_TIME_SCALE = 10.0


class Denoise(Protocol):
    """noisy (B, C, h, w), t (B,) int64, context (B, L, D) -> clean estimate (B, C, h, w)."""

    def __call__(self, noisy: Tensor, t: Tensor, context: Tensor) -> Tensor: ...


class Control(Protocol):
    """noisy (B, C, h, w), t (B,), context (B, L, D) -> what a ControlNet adds to the network's skips and to its middle;
    None where it does not act.
    """

    def __call__(self, noisy: Tensor, t: Tensor, context: Tensor) -> tuple[list[Tensor], Tensor] | None: ...


def boundary_scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip(t) = s^2 / ((10 t)^2 + s^2) and c_out(t) = 10 t / sqrt((10 t)^2 + s^2), s = 0.5; each (B,) float32."""
    scaled = t.float() * BOUNDARY_TIME_SCALE
    total = scaled**2 + BOUNDARY_DEVIATION**2
    return BOUNDARY_DEVIATION**2 / total, scaled / total.sqrt()


class Denoiser:
    """A diffusers UNet with its schedule and prediction type, as a function to the clean latent.

    Args:
        network: a ``UNet2DConditionModel`` or a module called the same way.
        schedule: the noise schedule that it was trained under.
        prediction: what it returns.
        consistent: blend with the input so that G(z_0, 0) = z_0, as one-step generators are trained;
            False for a plain diffusion model.
        control: what guides it beside the prompt.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction: Prediction,
        consistent: bool = True,
        control: Control | None = None,
    ) -> None:
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.consistent, self.control = consistent, control

    def output(self, noisy: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The bare network output (B, C, h, w), in the network's own prediction type."""
        added = self.control(noisy, t, context) if self.control else None
        options = (
            {"down_block_additional_residuals": added[0], "mid_block_additional_residual": added[1]} if added else {}
        )
        return self.network(noisy, t, encoder_hidden_states=context, return_dict=False, **options)[0]

    def __call__(self, noisy: Tensor, t: Tensor, context: Tensor) -> Tensor:
        clean = self.schedule.to_clean(self.output(noisy, t, context), noisy, t, self.prediction)
        if not self.consistent:
            return clean
        skip, out = (scale.view(-1, 1, 1, 1).to(noisy.dtype) for scale in boundary_scalings(t))
        return skip * noisy + out * clean


def guided(denoise: Denoise, guidance: float, negative: Tensor) -> Denoise:
    """Classifier-free guidance in clean space: c- + g (c+ - c-), both halves in one batch.

    Clean estimates are affine in the network output, so this equals guidance of the output itself.

    Args:
        denoise: the unguided network.
        guidance: g; 1 is no guidance and costs one evaluation instead of two.
        negative: (1 or B, L, D) context to move away from.
    """
    if guidance == 1:
        return denoise

    def denoise_guided(noisy: Tensor, t: Tensor, context: Tensor) -> Tensor:
        both = torch.cat([negative.expand_as(context), context])
        away, towards = denoise(torch.cat([noisy, noisy]), torch.cat([t, t]), both).chunk(2)
        return away + guidance * (towards - away)

    return denoise_guided
