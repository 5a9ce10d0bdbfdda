"""Pictures to latents and back.

Pictures are (B, 3, H, W) in [-1, 1]; latents are (B, C, H/f, W/f), scaled by the autoencoder's scaling factor so that
they have about unit variance.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


def encode(autoencoder: nn.Module, pictures: Tensor) -> Tensor:
    """The mean of the posterior, scaled."""
    return autoencoder.encode(pictures).latent_dist.mean * autoencoder.config.scaling_factor


def decode(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    """Pictures of scaled latents; `autoencoder` may also be an ``AutoencoderTiny``."""
    return autoencoder.decode(latents / autoencoder.config.scaling_factor, return_dict=False)[0]


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] as 8-bit pictures; values outside are clamped."""
    levels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(levels[index].permute(1, 2, 0).cpu().numpy()) for index in range(len(levels))]
