"""Random weights for networks of any size, in the time that writing them takes."""

import torch
from torch import nn

BLOCK = 10_000_019  # numbers; a prime, so that rows differ


def filled(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """A network of the "meta" device with random weights: those of a fresh one in scale, the same block over and over,
    because as many fresh numbers as a text encoder has take minutes.
    """
    network = network.to_empty(device="cpu")
    if hasattr(network, "tie_weights"):
        network.tie_weights()
    block = torch.rand(BLOCK, generator=generator) * 2 - 1
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            weight.data.fill_(float(name.endswith("weight")))
            continue
        values = block[: weight.numel()].to(weight.dtype) * (3 / weight[0].numel()) ** 0.5
        flat = weight.data.view(-1)
        for start in range(0, len(flat), len(values)):
            flat[start : start + len(values)] = values[: len(flat) - start]
    return network
