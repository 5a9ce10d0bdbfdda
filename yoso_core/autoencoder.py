"""Pictures to latents and back.

Pictures are (B, 3, H, W) in [-1, 1]; latents are (B, C, H/f, W/f), scaled by the autoencoder's scaling factor so that
they have about unit variance.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def encode(autoencoder: nn.Module, pictures: Tensor) -> Tensor:
    """The latents that it gives, or the mean of the distribution that it gives, scaled."""
    (given,) = autoencoder.encode(pictures, return_dict=False)
    return (given if isinstance(given, Tensor) else given.mean) * autoencoder.config.scaling_factor


def pixels_per_latent(autoencoder: nn.Module) -> int:
    """f, by the levels of an ``AutoencoderKL``, an ``AutoencoderTiny`` or an ``AutoencoderDC``."""
    config = autoencoder.config
    return 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)


def decode(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    """Pictures of scaled latents of its precision; `autoencoder` may also be an ``AutoencoderTiny``."""
    return autoencoder.decode(latents / autoencoder.config.scaling_factor, return_dict=False)[0]


def encode_with_features(autoencoder: nn.Module, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Latents as of `encode`, and what entered each down block on the way: the largest first."""
    encoder, features = autoencoder.encoder, []
    hidden = encoder.conv_in(pictures)
    for block in encoder.down_blocks:
        features.append(hidden)
        hidden = _run(encoder, block, hidden)
    hidden = _run(encoder, encoder.mid_block, hidden)
    hidden = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(hidden)))
    moments = hidden if autoencoder.quant_conv is None else autoencoder.quant_conv(hidden)
    return moments.chunk(2, 1)[0] * autoencoder.config.scaling_factor, features


def decode_with(autoencoder: nn.Module, latents: Tensor, added: Sequence[Tensor]) -> Tensor:
    """Pictures as of `decode`, where `added` is added to what enters each up block: the smallest first."""
    decoder, hidden = autoencoder.decoder, latents / autoencoder.config.scaling_factor
    if autoencoder.post_quant_conv is not None:
        hidden = autoencoder.post_quant_conv(hidden)
    hidden = _run(decoder, decoder.mid_block, decoder.conv_in(hidden))
    for block, more in zip(decoder.up_blocks, added, strict=True):
        hidden = _run(decoder, block, hidden + more)
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))


def _run(half: nn.Module, block: nn.Module, hidden: Tensor) -> Tensor:
    """A block of the encoder or the decoder, computed twice where that half is told to save memory in training."""
    if half.gradient_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, hidden, use_reentrant=False)
    return block(hidden)


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] as 8-bit pictures; values outside are clamped."""
    levels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(levels[index].permute(1, 2, 0).cpu().numpy()) for index in range(len(levels))]
