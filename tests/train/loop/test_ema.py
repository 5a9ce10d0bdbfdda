"""Copies of networks: what is trained is a copy's own, what is frozen is one and the same."""

import torch
from torch import nn

from train.loop.ema import averaged_copy, update_average


def test_a_copy_shares_what_is_frozen_and_nothing_else():
    network = nn.Sequential(nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3))
    average = averaged_copy(network)
    assert average[0].weight is network[0].weight and average[1].weight is not network[1].weight
    assert network[1].weight.requires_grad and not average[1].weight.requires_grad
    before = average[1].weight.clone()
    with torch.no_grad():
        network[1].weight += 1
    update_average(average, network, ["1.weight", "1.bias"], 0.5, 100)
    torch.testing.assert_close(average[1].weight, before + 0.5)
