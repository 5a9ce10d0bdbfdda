"""Copies of networks: what is trained is a copy's own, what is frozen is one and the same."""

import torch
from torch import nn

from train.loop.ema import Average


def test_a_copy_shares_what_is_frozen_and_nothing_else():
    network = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3))
    kept = Average(network, ["1.weight", "1.bias"])
    average = kept.network
    assert average[0].weight is network[0].weight and average[1].weight is not network[1].weight
    assert network[1].weight.requires_grad and not average[1].weight.requires_grad
    before = average[1].weight.clone()
    with torch.no_grad():
        network[1].weight += 1
    kept.update(0.5, 100)
    torch.testing.assert_close(average[1].weight, before + 0.5)
