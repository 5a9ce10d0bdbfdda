"""The losses: every sample keeps its weight, and averages come last."""

import pytest
import torch

from train.tasks.losses import (
    consistency_sample_weight,
    discriminator_loss,
    generator_loss,
    reconstruction_sample_weight,
    weighted_mse,
)


def test_each_sample_keeps_its_weight():
    a, b = torch.zeros(3, 2, 2), torch.stack([torch.full((2, 2), float(value)) for value in (1, 2, 3)])
    weight = torch.tensor([1.0, 10.0, 100.0])
    assert weighted_mse(a, b, weight).item() == pytest.approx((1 + 40 + 900) / 3)


def test_softplus_comes_before_the_mean():
    logits = torch.tensor([-4.0, 4.0])
    expected = torch.nn.functional.softplus(torch.tensor([4.0, -4.0])).mean()
    assert generator_loss(logits) == expected
    assert generator_loss(logits) > torch.nn.functional.softplus(-logits.mean())
    assert discriminator_loss(logits, logits) == pytest.approx(2 * expected.item())


def test_weights_of_the_paper():
    assert reconstruction_sample_weight(torch.tensor([0.0, 3.0, 9.0]), 5).tolist() == [0, 3, 5]
    weight = consistency_sample_weight(torch.tensor([1.0, 1.0, 0.0, 100.0]), torch.tensor([4.0, 1.0, 0.01, 101.0]), 5)
    assert weight.tolist() == [2, 5, 0, 5]  # 1 / (1 - 1/2); coinciding; pure noise; nearly coinciding
    assert torch.isfinite(weight).all()
