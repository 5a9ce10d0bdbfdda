"""What a runtime executes: one call of a network, with tensors in and tensors out.

A part says nothing of prompts, schedules or pictures, so that whoever executes it needs to know nothing of them.
Numbers that a person moves are left outside of parts, or handed in as tensors, because runtimes write numbers into what
they compile.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.autoencoder import decode, encode
from yoso_core.translate import Translator


class Part(nn.Module):
    """One call of a network.

    Attributes:
        reads: the parts of a `LoraStack` whose weights it computes with.
        fixed: what else than weights is written into its computation.
        halved: how far the sides of its first input are divided on the way.
    """

    reads: tuple[str, ...] = ()
    fixed: tuple[float | str, ...] = ()
    halved = 1

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def rounds(self, shape: tuple[int, ...]) -> bool:
        """Whether a side of its first input can't be halved as often as it is: networks then go another way up."""
        return any(side % self.halved for side in shape[-2:])

    def describe(self) -> str:
        """A text that is another for another computation; the values of weights have no part in it."""
        configs = [_plain(module.config) for module in self.modules() if hasattr(module, "config")]
        shapes = [(name, tuple(value.shape)) for name, value in self.named_parameters(remove_duplicate=False)]
        return json.dumps([type(self).__name__, self.fixed, configs, shapes], default=str, sort_keys=True)


def _plain(config: Any) -> dict:
    """A config without what libraries note in it for themselves, such as where it was read."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {name: value for name, value in values.items() if not name.startswith("_")}


class Predict(Part):
    """noisy (B, C, h, w), t (B,) int64, context (B, L, D), what a ControlNet adds -> what the network predicts."""

    reads = ("unet",)

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.halved = 2**unet.num_upsamplers

    def forward(self, noisy: Tensor, t: Tensor, context: Tensor, *added: Tensor) -> tuple[Tensor]:
        options: dict[str, Any] = {}
        if added:
            options = {"down_block_additional_residuals": added[:-1], "mid_block_additional_residual": added[-1]}
        return (self.unet(noisy, t, encoder_hidden_states=context, return_dict=False, **options)[0],)


class Follow(Part):
    """noisy (B, C, h, w), t (B,) int64, context (B, L, D), map (B, 3, H, W) -> what a ControlNet of strength 1 adds: to
    the network's skips, then to its middle.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, t: Tensor, context: Tensor, given: Tensor) -> tuple[Tensor, ...]:
        down, middle = self.network(
            noisy, t, encoder_hidden_states=context, controlnet_cond=given, conditioning_scale=1.0, return_dict=False
        )
        return (*down, middle)


class ReadPrompt(Part):
    """Tokens (B, L) int64 -> (B, L, D)."""

    reads = ("text_encoder",)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.encoder(tokens)[0],)


class Encode(Part):
    """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""

    reads = ("vae",)

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        return (encode(self.autoencoder, pictures),)


class Decode(Part):
    """Latents (B, C, h, w) -> (B, 3, H, W), about [-1, 1]."""

    reads = ("vae",)

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return (decode(self.decoder, latents),)


class Translate(Part):
    """pictures (B, 3, H, W), context (B, L, D), below strength 1 also noise (B, C, h, w) -> pictures."""

    reads = ("unet", "vae")

    def __init__(self, translator: Translator, strength: float) -> None:
        super().__init__()
        self.translator, self.strength = translator, strength
        schedule = translator.schedule
        self.fixed = (strength, translator.prediction, schedule.alpha[-1].item(), schedule.sigma[-1].item())
        # Registered, so that their weights are this part's.
        self.unet, self.autoencoder = translator.unet, translator.autoencoder
        self.skips, self.first = translator.skips, translator.first
        self.halved = 2 ** (len(self.autoencoder.config.block_out_channels) - 1 + self.unet.num_upsamplers)

    def forward(self, pictures: Tensor, context: Tensor, *noise: Tensor) -> tuple[Tensor]:
        return (self.translator(pictures, context, self.strength, *noise),)
