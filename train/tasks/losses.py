"""The losses of diffusion and of YOSO (arXiv 2403.12931): pure functions of tensors, every weight per sample.

Latents and features are (B, ...); weights and SNRs are (B,); every loss returns a scalar, the mean over samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def per_sample_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each sample: (B,) float32."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def weighted_mse(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Each sample keeps its own weight: mean_i w_i |a_i - b_i|^2."""
    return (weight * per_sample_mse(a, b)).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating GAN loss of the generator, softplus(-D(fake)): softplus per sample, then the mean."""
    return F.softplus(-fake_logits.float()).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(-D(real)) + softplus(D(fake)): softplus per sample, then the mean."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def reconstruction_sample_weight(snr: Tensor, cap: float) -> Tensor:
    """min(SNR_t, cap), the weight of the YOSO reconstruction term."""
    return snr.clamp(max=cap)


def consistency_sample_weight(snr: Tensor, snr_target: Tensor, cap: float) -> Tensor:
    """min(1 / (1/sqrt(SNR_t) - 1/sqrt(SNR_t'')), cap), for a target at the less noisy t''.

    Where the two timesteps coincide the student is its own target and the weight is `cap`; at SNR 0 it is 0.
    """
    gap = snr.rsqrt() - snr_target.rsqrt()
    return torch.where(gap > 0, gap.reciprocal(), torch.inf).clamp(max=cap)
