"""Translators of random weights for the tiny model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.tiny import LORA_RANK, random_lora
from yoso_core.loading import LoadedModel
from yoso_core.translate import (
    CONFIG,
    FIRST,
    NETWORK_FILE,
    Direction,
    Skips,
    TranslatorSpec,
    read_translator,
    write_config,
)


def random_weights(module: nn.Module, prefix: str, scale: float = 0.3) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": scale * torch.randn(value.shape) for name, value in module.named_parameters()}


def write_translator(
    folder: Path,
    model: LoadedModel,
    directions: Sequence[str] = ("a2b",),
    input: str = "picture",
    seed: int = 0,
) -> TranslatorSpec:
    """Write a translator that acts: the same seed writes the same weights.

    Args:
        folder: gets its files; made if it is not there.
        model: what it is for.
        directions: their names; one alone is prompted by people, of several each has a fixed prompt.
        input: "picture" or "lines".
        seed: of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: Direction(f"Way {name}", name if len(directions) > 1 else None) for name in directions}
    spec = TranslatorSpec("Tiny translator", folder, told, model.spec.family, "none", input, "black")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = random_weights(model.network.conv_in, f"{FIRST}.", 0.1)
        save_file(first | random_lora(model.network), folder / NETWORK_FILE)
        conv = model.autoencoder.decoder.conv_in
        for name in directions:
            skips = random_weights(Skips(model.autoencoder.config.block_out_channels), "skips.")
            skips = {f"{key.replace('.weights', '')}.weight": value for key, value in skips.items()}
            place = "vae.decoder.conv_in"
            lora = {
                f"{place}.lora_A.weight": 0.1 * torch.randn(LORA_RANK, conv.in_channels, *conv.kernel_size),
                f"{place}.lora_B.weight": 0.1 * torch.randn(conv.out_channels, LORA_RANK, 1, 1),
            }
            save_file(skips | lora, folder / f"{name}.safetensors")
    write_config(spec, folder / CONFIG)
    return read_translator(folder)
