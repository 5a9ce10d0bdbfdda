"""Randomness is a function of (seed, step), however a batch is split."""

import torch

from train.loop.randomness import Draws, batch_indices, generator_for


def test_every_sample_once_an_epoch_in_an_order_of_its_own():
    seen = torch.cat([batch_indices(10, 4, seed=1, step=step) for step in range(5)])
    first, second = seen[:10], seen[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    assert torch.equal(batch_indices(10, 4, seed=1, step=3), seen[12:16])
    assert not torch.equal(batch_indices(10, 10, seed=2, step=0), first)


def test_samples_are_seen_as_often_as_they_are_to_be_repeated():
    repeats = torch.tensor([30, 1, 5])
    seen = torch.cat([batch_indices(3, 8, seed=1, step=step, repeats=repeats) for step in range(9)])
    for epoch in (seen[:36], seen[36:]):
        assert epoch.bincount().tolist() == repeats.tolist()
    assert seen[:36].tolist() != seen[36:].tolist()
    assert torch.equal(batch_indices(3, 8, seed=1, step=5, repeats=repeats), seen[40:48])


def test_repeats_with_a_common_divisor_are_shorter_epochs():
    seen = torch.cat([batch_indices(3, 4, 1, step, repeats=torch.tensor([20, 10, 10])) for step in range(10)])
    assert all(part.bincount().tolist() == [2, 1, 1] for part in seen.split(4))


def test_noise_depends_on_its_numbers_alone():
    assert torch.equal(torch.randn(4, generator=generator_for(1, 2)), torch.randn(4, generator=generator_for(1, 2)))
    assert not torch.equal(torch.randn(4, generator=generator_for(1, 2)), torch.randn(4, generator=generator_for(2, 1)))


def numbers(rows):
    draws = Draws(3, 7, 12, rows)
    return [draws.normal(2, 2), draws.uniform(), draws.stratified(), draws.uniform(3)]


def test_parts_of_a_batch_draw_their_own_rows_of_the_whole():
    whole = numbers(slice(0, 12))
    parts = [numbers(slice(start, start + 4)) for start in (0, 4, 8)]
    for index, value in enumerate(whole):
        assert torch.equal(value, torch.cat([part[index] for part in parts]))


def test_stratified_numbers_fill_the_range_evenly():
    places = (numbers(slice(0, 12))[2] * 12).long()
    assert sorted(places.tolist()) == list(range(12)) and places.tolist() != list(range(12))
