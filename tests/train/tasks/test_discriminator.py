"""The latent discriminator sees what the network's own encoder sees."""

import torch

from tests.tiny import FAMILY, build_unet
from train.tasks.discriminator import LatentDiscriminator
from yoso_core.condition import Condition


def test_encoder_features_are_those_of_the_network():
    unet = build_unet().eval()
    caught = []
    unet.mid_block.register_forward_hook(lambda module, inputs, output: caught.append(output))
    latent, t, condition = torch.randn(2, 8, 8, 8), torch.tensor([0, 900]), Condition(torch.randn(2, 32, 32))
    with torch.no_grad():
        unet(latent, t, condition.context)
        features = FAMILY.encoder(unet)(latent, t, condition)
    assert torch.equal(features, caught[0])
    assert LatentDiscriminator(FAMILY.encoder(unet))(latent, t, condition).shape == (2,)
