"""Exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


def averaged_copy(module: nn.Module) -> nn.Module:
    """The network that will hold the average; never trained."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """average <- d * average + (1 - d) * module, d rising from 0 to `decay` so that early weights are forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    pairs = [(a, p.detach()) for a, p in zip(average.parameters(), module.parameters(), strict=True) if p.requires_grad]
    torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)
