"""The latent discriminator: the encoder half of a pretrained UNet, and a small head that reads it."""

import copy

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn


class UNetEncoder(nn.Module):
    """A copy of the down and middle blocks of a UNet, as a feature extractor.

    Args:
        unet: the pretrained network; it is copied, without its up blocks.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.time_proj = copy.deepcopy(unet.time_proj)
        self.time_embedding = copy.deepcopy(unet.time_embedding)
        self.conv_in = copy.deepcopy(unet.conv_in)
        self.down_blocks = copy.deepcopy(unet.down_blocks)
        self.mid_block = copy.deepcopy(unet.mid_block)

    def forward(self, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """latent (B, C, h, w), t (B,), context (B, L, D) -> middle-block features (B, F, h', w')."""
        embedding = self.time_embedding(self.time_proj(t).to(latent.dtype))
        hidden = self.conv_in(latent)
        for block in self.down_blocks:
            attends = getattr(block, "has_cross_attention", False)
            hidden, _ = block(hidden, embedding, **({"encoder_hidden_states": context} if attends else {}))
        return self.mid_block(hidden, embedding, encoder_hidden_states=context)


class AttentionPooling(nn.Module):
    """One learned query over all positions: (B, F, h, w) -> (B, width)."""

    def __init__(self, features: int, width: int, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.key, self.value = nn.Linear(features, width), nn.Linear(features, width)
        self.heads = heads

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        batch, width = len(tokens), self.query.shape[-1]

        def split(x: Tensor) -> Tensor:
            return x.view(len(x), -1, self.heads, width // self.heads).transpose(1, 2)

        query = self.query.to(tokens.dtype).expand(batch, -1, -1)
        pooled = F.scaled_dot_product_attention(split(query), split(self.key(tokens)), split(self.value(tokens)))
        return pooled.transpose(1, 2).reshape(batch, width)


class LatentDiscriminator(nn.Module):
    """Is this clean latent, asked for at noise level t with this text, as good as one made from less noise?

    Args:
        unet: the pretrained network whose encoder is copied and trained.
        width: width of the pooled features.
    """

    def __init__(self, unet: UNet2DConditionModel, width: int = 512) -> None:
        super().__init__()
        self.encoder = UNetEncoder(unet)
        features = unet.config.block_out_channels[-1]
        self.head = nn.Sequential(
            nn.GroupNorm(unet.config.norm_num_groups, features),
            nn.SiLU(),
            AttentionPooling(features, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )

    def forward(self, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Logits (B,)."""
        return self.head(self.encoder(latent, t, context))[:, 0]
