"""The autoencoder's recipe: what it learns from, its two stages, what is measured."""

import pytest
import torch
from diffusers import AutoencoderKL

from train.loop.config import ConfigError
from train.loop.randomness import Draws
from train.recipes.autoencoder import (
    AutoencoderConfig,
    AutoencoderTask,
    Critic,
    Pictures,
    build_autoencoder,
    permute_colours,
    psnr,
    unseen_pictures,
)
from train.recipes.corpus.scenes import describe


def tiny():
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=64,
    )


def draws(batch, step=0):
    return Draws(seed=0, step=step, batch=batch, rows=slice(None))


def task(corpus, **settings):
    config = AutoencoderConfig(perceptual_weight=0.0, textures=0.5, **settings)
    return AutoencoderTask(tiny(), Pictures(corpus, describe(corpus.describer, 8, 0), config.textures), config)


def test_the_bundled_layout_is_eight_pixels_a_latent():
    with torch.device("meta"):
        autoencoder = build_autoencoder()
        latent = autoencoder.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mean
    assert latent.shape == (1, 8, 16, 16)


def test_a_batch_is_scenes_and_textures_and_repeats(corpus):
    data = task(corpus).data
    first, again, other = (data.batch(torch.arange(8), draws(8, step)) for step in (0, 0, 1))
    assert first.shape == (8, 3, 64, 64) and torch.equal(first, again) and not torch.equal(first[4:], other[4:])


def test_colours_change_for_one_another_and_nothing_else():
    pictures = torch.rand(40, 3, 4, 4)
    changed = permute_colours(pictures, draws(40))
    assert torch.equal(changed.sort(1).values, pictures.sort(1).values)
    moved = (changed != pictures).flatten(1).any(1).float().mean()
    assert 0.05 < moved < 0.5


def test_it_learns_all_of_itself(corpus):
    one = task(corpus)
    terms = one.losses("autoencoder", one.forward(torch.arange(8), draws(8))).minimised
    sum(terms.values()).backward()
    assert {"l1", "gradient", "pyramid", "kl"} == {*terms}
    assert all(value.grad is not None for value in one.autoencoder.parameters())


def test_sharpening_moves_the_decoder_alone_and_its_critic(corpus):
    one = task(corpus, sharpen=True, start_from="anything")
    shared = one.forward(torch.arange(8), draws(8))
    sum(one.losses("autoencoder", shared).minimised.values()).backward()
    assert all(value.grad is None for value in one.autoencoder.encoder.parameters())
    assert all(value.grad is None for value in one.critic.parameters())
    assert all(value.grad is not None for value in one.autoencoder.decoder.parameters())
    before = [value.grad.clone() for value in one.autoencoder.decoder.parameters()]
    one.losses("critic", shared).minimised["critic"].backward()
    assert all(value.grad is not None for value in one.critic.parameters())
    after = [value.grad for value in one.autoencoder.decoder.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_sharpening_wants_something_to_sharpen():
    with pytest.raises(ConfigError, match="start_from"):
        AutoencoderConfig(sharpen=True)


def test_the_critic_judges_patches():
    assert Critic()(torch.zeros(2, 3, 64, 64)).shape == (2, 7 * 7)


def test_unseen_are_sprites_scenes_and_photographs(corpus):
    found = unseen_pictures(corpus, 3)
    assert {name: len(pictures) for name, pictures in found.items()} == {"sprites": 3, "scenes": 3, "photographs": 64}


def test_psnr_in_decibels():
    class Off(torch.nn.Module):
        def forward(self, pictures):
            return type("Decoded", (), {"sample": pictures + 0.2})

    assert psnr(Off(), torch.zeros(2, 3, 8, 8)) == pytest.approx(20.0, abs=1e-4)
