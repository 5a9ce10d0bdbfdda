"""Exponential moving average of a network's weights."""

import copy
from collections.abc import Iterable

import torch
from torch import nn


def copied(module: nn.Module) -> nn.Module:
    """A copy whose frozen parameters are the very same ones: of a large network with a LoRA they are all but a few."""
    kept = {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}
    return copy.deepcopy(module, kept)


def averaged_copy(module: nn.Module) -> nn.Module:
    """The network that will hold the average; never trained."""
    return copied(module).requires_grad_(False).eval()


class Average:
    """Keeps `network`, a copy of a module, at the moving average of what is trained of it.

    Args:
        module: the network in training.
        names: of its parameters that are trained.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self.network = averaged_copy(module)
        # Gathered once: to go over all modules of a small network takes a twentieth of its step.
        to, source = dict(self.network.named_parameters()), dict(module.named_parameters())
        names = list(names)
        self._to, self._from = [to[name] for name in names], [source[name] for name in names]
        self._buffers = list(zip(self.network.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, decay: float, step: int) -> None:
        """average <- d * average + (1 - d) * module for what is trained; buffers are copied.

        d rises from 0.1 to `decay` over the first steps, so that the initial weights are forgotten.
        """
        torch._foreach_lerp_(self._to, self._from, 1 - min(decay, (1 + step) / (10 + step)))
        for mine, now in self._buffers:
            mine.copy_(now)
