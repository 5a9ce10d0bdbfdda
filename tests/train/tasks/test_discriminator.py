"""The latent discriminator sees what the network's own encoder sees."""

import torch

from tests.tiny import build_unet
from train.tasks.discriminator import LatentDiscriminator, UNetEncoder


def test_encoder_features_are_those_of_the_network():
    unet = build_unet().eval()
    caught = []
    unet.mid_block.register_forward_hook(lambda module, inputs, output: caught.append(output))
    latent, t, context = torch.randn(2, 8, 8, 8), torch.tensor([0, 900]), torch.randn(2, 32, 32)
    with torch.no_grad():
        unet(latent, t, context)
        features = UNetEncoder(unet)(latent, t, context)
    assert torch.equal(features, caught[0])
    assert LatentDiscriminator(unet)(latent, t, context).shape == (2,)
