"""The latent discriminator: the first half of a pretrained network, and a small head that reads it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoso_core.condition import Condition


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
        encoder: of `Family.encoder`, which is trained.
        width: width of the pooled features.
    """

    def __init__(self, encoder: nn.Module, width: int = 512) -> None:
        super().__init__()
        self.encoder, features = encoder, encoder.features
        self.head = nn.Sequential(
            nn.GroupNorm(encoder.groups, features),
            nn.SiLU(),
            AttentionPooling(features, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )

    def forward(self, latent: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Logits (B,)."""
        return self.head(self.encoder(latent, t, condition))[:, 0]
