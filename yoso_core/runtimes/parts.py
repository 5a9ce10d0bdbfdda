"""What a runtime executes: one call of a network, with tensors in and tensors out.

A part says nothing of prompts, schedules or pictures, so that whoever executes it needs to know nothing of them.
Numbers that a person moves are left outside of parts, or handed in as tensors, because runtimes write numbers into what
they compile.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoso_core.autoencoder import decode, encode
from yoso_core.condition import Condition
from yoso_core.families.base import Family
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

    def is_apart(self, shape: tuple[int, ...]) -> bool:
        """Whether a first input of this shape takes another way than others: where a side can't be halved as often as
        it is, networks go another way up.
        """
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


def condition_of(names: Sequence[str], tensors: Sequence[Tensor]) -> Condition:
    """The condition that has these tensors under these names."""
    return Condition(**dict(zip(names, tensors, strict=True)))


class Predict(Part):
    """noisy (B, C, h, w), t (B,) int64, the tensors of a condition, what a ControlNet adds -> the bare output.

    Args:
        family: of the network.
        names: of the tensors of its conditions.
    """

    def __init__(self, family: Family, network: nn.Module, names: tuple[str, ...] = ("context",)) -> None:
        super().__init__()
        self.family, self.network, self.names = family, network, names
        self.reads, self.fixed = (family.network,), names
        self.halved = 2 ** family.halvings(network)

    def is_apart(self, shape: tuple[int, ...]) -> bool:
        return super().is_apart(shape) or self.family.is_apart(self.network, shape)

    def forward(self, noisy: Tensor, t: Tensor, *tensors: Tensor) -> tuple[Tensor]:
        count = len(self.names)
        condition = condition_of(self.names, tensors[:count])
        return (self.family.predict(self.network, noisy, t, condition, tensors[count:]),)


class Follow(Part):
    """noisy (B, C, h, w), t (B,) int64, the tensors of a condition, map (B, 3, H, W) -> what a ControlNet of strength 1
    adds.

    Args:
        family: of the network that it guides.
        names: of the tensors of its conditions.
    """

    def __init__(self, family: Family, control: nn.Module, names: tuple[str, ...] = ("context",)) -> None:
        super().__init__()
        self.family, self.control, self.names = family, control, names
        self.fixed = names

    def forward(self, noisy: Tensor, t: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        condition = condition_of(self.names, tensors[:-1])
        return self.family.follow(self.control, noisy, t, condition, tensors[-1])


class Read(Part):
    """What a text encoder makes of tokens; which tensors go in and come out is its family's.

    Args:
        family: of the model.
        part: of the pipeline that `encoder` is.
    """

    def __init__(self, family: Family, part: str, encoder: nn.Module) -> None:
        super().__init__()
        self.family, self.part, self.encoder = family, part, encoder
        self.reads, self.fixed = (part,), (part,)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.family.read(self.part, self.encoder, *inputs)


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
    """pictures (B, 3, H, W), the tensors of a condition, below strength 1 also noise (B, C, h, w) -> pictures.

    Args:
        names: of the tensors of the condition.
    """

    def __init__(self, translator: Translator, strength: float, names: tuple[str, ...] = ("context",)) -> None:
        super().__init__()
        self.translator, self.strength, self.names = translator, strength, names
        schedule, family = translator.schedule, translator.family
        self.reads = (family.network, "vae")
        self.fixed = (strength, translator.prediction, schedule.alpha[-1].item(), schedule.sigma[-1].item(), *names)
        # Registered, so that their weights are this part's.
        self.network, self.autoencoder = translator.network, translator.autoencoder
        self.skips, self.first = translator.skips, translator.first
        levels = len(self.autoencoder.config.block_out_channels) - 1
        self.halved = 2 ** (levels + family.halvings(self.network))

    def forward(self, pictures: Tensor, *tensors: Tensor) -> tuple[Tensor]:
        count = len(self.names)
        condition = condition_of(self.names, tensors[:count])
        return (self.translator(pictures, condition, self.strength, *tensors[count:]),)
