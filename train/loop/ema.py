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


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, names: Iterable[str], decay: float, step: int) -> None:
    """average <- d * average + (1 - d) * module for the parameters `names` and all buffers.

    d rises from 0.1 to `decay` over the first steps, so that the initial weights are forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    to, source = dict(average.named_parameters()), dict(module.named_parameters())
    torch._foreach_lerp_([to[name] for name in names], [source[name].detach() for name in names], 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)
