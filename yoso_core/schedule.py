"""The noise schedule of a diffusion model, and the conversions between its three parametrisations.

Notation: ``z_t = alpha_t z_0 + sigma_t eps`` with ``alpha_t^2 + sigma_t^2 = 1``; timesteps t are integers from 0
(almost clean) to T - 1 (almost or wholly noise).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")


def rescale_zero_terminal_snr(alpha: Tensor) -> Tensor:
    """Shift and stretch alpha (T,) so that alpha_{T-1} = 0 and alpha_0 stays (Lin et al., arXiv 2305.08891, Alg. 1)."""
    return (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))


def at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """values (T,) at timesteps t (B,), shaped to multiply `like` (B, ...)."""
    return values.to(like.device)[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class NoiseSchedule:
    """How much of the clean latent and how much noise there is at each timestep.

    Attributes:
        alpha: (T,) float32, factor of the clean latent.
        sigma: (T,) float32, factor of the noise.
    """

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def from_alpha(cls, alpha: Tensor) -> "NoiseSchedule":
        return cls(alpha.float(), (1 - alpha.double() ** 2).clamp_min(0).sqrt().float())

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule of a diffusers scheduler config.

        Raises:
            ValueError: a beta schedule that this library does not know.
        """
        steps = config.get("num_train_timesteps", 1000)
        start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
        kind = config.get("beta_schedule", "linear")
        if config.get("trained_betas") is not None:
            beta = torch.tensor(config["trained_betas"], dtype=torch.float32)
        elif kind == "linear":
            beta = torch.linspace(start, end, steps, dtype=torch.float32)
        elif kind == "scaled_linear":
            beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
        else:
            raise ValueError(f"beta schedule {kind!r} is unknown; use linear, scaled_linear or trained_betas")
        alpha = torch.cumprod(1 - beta, 0).sqrt()
        if config.get("rescale_betas_zero_snr"):
            alpha = rescale_zero_terminal_snr(alpha)
        return cls.from_alpha(alpha)

    def __len__(self) -> int:
        """T, the number of timesteps."""
        return len(self.alpha)

    @property
    def last(self) -> int:
        """T - 1, the timestep that one-step generation starts from."""
        return len(self) - 1

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t = alpha_t z_0 + sigma_t eps; clean and noise (B, ...), t (B,) int64."""
        return at(self.alpha, t, clean) * clean + at(self.sigma, t, clean) * noise

    def velocity(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v_t = alpha_t eps - sigma_t z_0 (Salimans & Ho, arXiv 2202.00512)."""
        return at(self.alpha, t, clean) * noise - at(self.sigma, t, clean) * clean

    def to_clean(self, output: Tensor, noisy: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        """The clean estimate that a network output stands for; computed in float32 at least.

        Near T - 1 the division magnifies rounding: by 15 for Stable Diffusion.

        Args:
            output: (B, ...) what the network returned.
            noisy: (B, ...) what it was given, z_t.
            t: (B,) int64.
            prediction: what `output` is. "epsilon" needs alpha_t > 0, so no zero-terminal-SNR schedule at T - 1.
        """
        if prediction == "sample":
            return output
        dtype = noisy.dtype
        noisy = noisy.to(torch.promote_types(dtype, torch.float32))
        alpha, sigma = at(self.alpha, t, noisy), at(self.sigma, t, noisy)
        clean = alpha * noisy - sigma * output if prediction == "v_prediction" else (noisy - sigma * output) / alpha
        return clean.to(dtype)

    def to_noise(self, clean: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """eps = (z_t - alpha_t z_0) / sigma_t."""
        return (noisy - at(self.alpha, t, noisy) * clean) / at(self.sigma, t, noisy)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, (B,) float32."""
        alpha, sigma = self.alpha.to(t.device)[t], self.sigma.to(t.device)[t]
        return (alpha / sigma) ** 2
