"""The one contract: every network, whatever it predicts, returns the clean latent."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from yoso_core.condition import Condition, cat
from yoso_core.schedule import NoiseSchedule, Prediction

# Consistency boundary scalings (Song et al., arXiv 2303.01469) as LCM and YOSO use them.
BOUNDARY_DEVIATION = 0.5  # sigma_data
BOUNDARY_TIME_SCALE = 10.0


class Denoise(Protocol):
    """noisy (B, C, h, w), t (B,) int64, condition of B rows -> clean estimate (B, C, h, w)."""

    def __call__(self, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor: ...


class Predict(Protocol):
    """noisy (B, C, h, w), t (B,) int64, condition of B rows, what a ControlNet adds -> the bare output (B, C, h, w)."""

    def __call__(self, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()) -> Tensor: ...


class Control(Protocol):
    """noisy (B, C, h, w), t (B,), condition of B rows -> what a ControlNet adds to the network; none where it does not
    act.
    """

    def __call__(self, noisy: Tensor, t: Tensor, condition: Condition) -> Sequence[Tensor]: ...


def boundary_scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip(t) = s^2 / ((10 t)^2 + s^2) and c_out(t) = 10 t / sqrt((10 t)^2 + s^2), s = 0.5; each (B,) float32."""
    scaled = t.float() * BOUNDARY_TIME_SCALE
    total = scaled**2 + BOUNDARY_DEVIATION**2
    return BOUNDARY_DEVIATION**2 / total, scaled / total.sqrt()


class Denoiser:
    """A network with its schedule and prediction type, as a function to the clean latent.

    Args:
        predict: calls the network, as its family does.
        schedule: the noise schedule that it was trained under.
        prediction: what it returns.
        consistent: blend with the input so that G(z_0, 0) = z_0, as one-step generators are trained;
            False for a plain diffusion model.
        control: what guides it beside the prompt.
    """

    def __init__(
        self,
        predict: Predict,
        schedule: NoiseSchedule,
        prediction: Prediction,
        consistent: bool = True,
        control: Control | None = None,
    ) -> None:
        self.predict, self.schedule, self.prediction = predict, schedule, prediction
        self.consistent, self.control = consistent, control

    def output(self, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The bare network output (B, C, h, w), in the network's own prediction type."""
        residuals = self.control(noisy, t, condition) if self.control else ()
        return self.predict(noisy, t, condition, residuals)

    def __call__(self, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        clean = self.schedule.to_clean(self.output(noisy, t, condition), noisy, t, self.prediction)
        if not self.consistent:
            return clean
        skip, out = (scale.view(-1, 1, 1, 1).to(noisy.dtype) for scale in boundary_scalings(t))
        return skip * noisy + out * clean


def guided(denoise: Denoise, guidance: float, negative: Condition, together: bool = True) -> Denoise:
    """Classifier-free guidance in clean space: c- + g (c+ - c-).

    Clean estimates are affine in the network output, so this equals guidance of the output itself.

    Args:
        denoise: the unguided network.
        guidance: g; 1 is no guidance and costs one evaluation instead of two.
        negative: what to move away from, of one row or of B.
        together: both halves in one batch, else one after the other, in the shape that the network is run in anyway.
    """
    if guidance == 1:
        return denoise

    def denoise_guided(noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        other = negative.expand(len(condition))
        if together:
            away, towards = denoise(torch.cat([noisy, noisy]), torch.cat([t, t]), cat([other, condition])).chunk(2)
        else:
            away, towards = denoise(noisy, t, other), denoise(noisy, t, condition)
        return away + guidance * (towards - away)

    return denoise_guided
