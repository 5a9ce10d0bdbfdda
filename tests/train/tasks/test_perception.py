"""Networks that compare pictures, and the discriminators that read them."""

import pytest
import torch

from train.measure.lpips_weights import find_weights
from train.tasks.perception import PERCEPTIONS, PictureDiscriminator, load_perception, normalised


@pytest.fixture(params=PERCEPTIONS)
def perception(request):
    if request.param == "lpips" and find_weights() is None:
        pytest.skip("python -m train.measure.lpips_weights has not been run")
    return load_perception(request.param)


def pictures(count=2, side=64):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_equal_pictures_have_no_distance_and_other_ones_more_the_more_they_differ(perception):
    one, noise = pictures(), pictures().flip(0)
    near, far = (torch.lerp(one, noise, share) for share in (0.2, 0.9))
    assert perception.distance(one, one).abs().max() < 1e-6
    distances = [perception.distance(one, other) for other in (near, far)]
    assert distances[0].shape == (2,) and (distances[0] > 0).all() and (distances[0] < distances[1]).all()


def test_it_is_frozen_and_gradients_reach_the_pictures(perception):
    assert not any(parameter.requires_grad for parameter in perception.parameters())
    made = pictures().requires_grad_()
    perception.distance(made, pictures().flip(0)).sum().backward()
    assert made.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in perception.parameters())


@pytest.mark.parametrize("side", [64, 96])
def test_levels_have_the_channels_that_are_told(perception, side):
    levels = perception.levels(pictures(side=side))
    assert tuple(level.shape[1] for level in levels) == perception.channels
    assert all(len(level) == 2 and level.isfinite().all() for level in levels)


def test_a_discriminator_says_of_every_level_and_place_whether_it_is_real(perception):
    discriminator, levels = PictureDiscriminator(perception), perception.levels(pictures())
    logits = discriminator(pictures(), levels)
    assert [one.shape for one in logits] == [*((2, 1, *level.shape[2:]) for level in levels), (2, 1, 16, 16)]
    owned = {parameter for parameter in discriminator.parameters()}
    assert owned and not owned & set(perception.parameters())


def test_a_discriminator_learns_to_tell_pictures_apart():
    perception = load_perception("evaluator")
    torch.manual_seed(0)
    discriminator = PictureDiscriminator(perception, width=8)
    real, fake = ((each, perception.levels(each)) for each in (pictures(), torch.zeros(2, 3, 64, 64)))
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    for _ in range(20):
        gaps = [a.mean() - b.mean() for a, b in zip(discriminator(*real), discriminator(*fake), strict=True)]
        optimizer.zero_grad()
        (-sum(gaps).clamp_max(4)).backward()
        optimizer.step()
    assert sum(gaps) > 2


def test_normalised_is_of_every_place():
    features = (torch.randn(2, 8, 4, 4) * 50, torch.zeros(2, 4, 2, 2))
    found = normalised(features)
    torch.testing.assert_close(found[0].square().mean(1), torch.ones(2, 4, 4))
    assert not found[1].any()
