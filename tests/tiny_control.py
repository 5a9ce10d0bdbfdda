"""A ControlNet of random weights for the tiny model."""

from pathlib import Path

import torch

from tests.tiny import build_unet
from train.tasks.controlnet import build_controlnet


def write_tiny_control(folder: Path, seed: int = 0) -> Path:
    """Write it as a diffusers folder. Unlike a fresh one it acts: the layers by which it joins are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_controlnet(build_unet(), whole_encoder=True)
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.3)
    network.save_pretrained(folder)
    return folder
