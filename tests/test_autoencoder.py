"""Pictures to latents and back, whole or with features on the way."""

import pytest
import torch

from tests.tiny import build_autoencoder
from tests.tiny_checkpoint import build_whole_autoencoder
from yoso_core.autoencoder import decode, decode_with, encode, encode_with_features, to_pil, to_tensor


@pytest.fixture(params=[build_autoencoder, build_whole_autoencoder], ids=["plain", "with attention"])
def autoencoder(request):
    torch.manual_seed(0)
    return request.param().eval().requires_grad_(False)


def test_features_change_nothing(autoencoder):
    pictures = torch.randn(2, 3, 64, 64)
    latents, features = encode_with_features(autoencoder, pictures)
    assert torch.equal(latents, encode(autoencoder, pictures))
    nothing = [0.0] * len(features)
    assert torch.equal(decode_with(autoencoder, latents, nothing), decode(autoencoder, latents))


def test_features_are_what_enters_the_down_blocks(autoencoder):
    _, features = encode_with_features(autoencoder, torch.randn(2, 3, 64, 64))
    channels = autoencoder.config.block_out_channels
    entering = (channels[0], *channels[:-1])
    assert [tuple(feature.shape) for feature in features] == [
        (2, width, side, side) for width, side in zip(entering, (64, 32, 16, 8), strict=True)
    ]


def test_what_is_added_acts_on_every_level(autoencoder):
    latents, features = encode_with_features(autoencoder, torch.randn(1, 3, 64, 64))
    plain = decode(autoencoder, latents)
    for level in range(len(features)):
        added = [0.0] * len(features)
        added[level] = torch.randn_like(features[-1 - level][:, :1])
        assert (decode_with(autoencoder, latents, added) - plain).abs().mean() > 1e-4
    with pytest.raises(ValueError, match="shorter"):
        decode_with(autoencoder, latents, [0.0])


def test_there_and_back_in_8_bits():
    pictures = torch.rand(2, 3, 8, 8) * 2 - 1
    made = to_pil(pictures)
    assert [picture.mode for picture in made] == ["RGB", "RGB"]
    again = torch.cat([to_tensor(picture) for picture in made])
    assert again.shape == pictures.shape and (again - pictures).abs().max() <= 1 / 255 + 1e-6
