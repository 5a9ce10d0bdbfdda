"""PixArt-alpha in its real size and layout with random weights, so that its path runs without a hub.

    python -m benchmarks.pixart FOLDER [512 | 1024]

Random weights make noise for pictures; shapes, arithmetic, file formats and time are those of the real model.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_weights import filled
from benchmarks.sd15 import autoencoder_layout, tiny_decoder_layout

WORDS = ("▁a", "▁red", "▁blue", "▁cat", "▁dog", "▁heart", ",", *"▁abcdefghijklmnopqrstuvwxyz")


def layout(small: bool, sized: bool = False) -> dict[str, dict[str, Any]]:
    """Constructor arguments of each part; those of PixArt itself unless `small`.

    Args:
        sized: of the one for 1024 pixels, which is told of the picture's size.
    """
    width = 32 if small else 4096  # of T5's encodings
    return {
        "transformer": {
            "sample_size": 128 if sized else 8 if small else 64,
            "num_layers": 4 if small else 28,
            "num_attention_heads": 2 if small else 16,
            "attention_head_dim": 24 if small else 72,  # in all a multiple of 3, as sizes are told in thirds
            "cross_attention_dim": 48 if small else 1152,
            "caption_channels": width,
        },
        "text_encoder": {
            "vocab_size": 32128,
            "d_model": width,
            "d_kv": 8 if small else 64,
            "d_ff": 64 if small else 10240,
            "num_layers": 2 if small else 24,
            "num_heads": 4 if small else 64,
            "feed_forward_proj": "gated-gelu",
        },
        "vae": autoencoder_layout(small),
        "tiny_decoder": tiny_decoder_layout(small),
        "scheduler": {
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "beta_schedule": "linear",
            "prediction_type": "v_prediction",
        },
    }


def write_random_pixart(
    folder: Path, sized: bool = False, small: bool = False, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> Path:
    """A whole pipeline that predicts velocity in diffusers' layout, with ``tiny_decoder/`` beside its parts.

    Args:
        folder: made if missing; 11 GB at full size, of which 9.5 are the text encoder.
        sized: as of `layout`.
        small: the same layout in a megabyte or two, for tests.
        dtype: of the weights in the files.
        seed: of the weights.
    """
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtTransformer2DModel,
    )
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    parts, folder = layout(small, sized), Path(folder)
    with torch.device("meta"):
        networks = {
            "text_encoder": T5EncoderModel(T5Config(**parts["text_encoder"])),
            "vae": AutoencoderKL(**parts["vae"]),
            "transformer": PixArtTransformer2DModel(**parts["transformer"]),
            "tiny_decoder": AutoencoderTiny(**parts["tiny_decoder"]),
        }
    generator = torch.Generator().manual_seed(seed)
    networks = {name: filled(network.to(dtype), generator) for name, network in networks.items()}
    networks.pop("tiny_decoder").save_pretrained(folder / "tiny_decoder")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((word, -1.0 / len(word)) for word in WORDS)]
    PixArtAlphaPipeline(
        tokenizer=T5Tokenizer(pieces, extra_ids=0, additional_special_tokens=[]),
        scheduler=DPMSolverMultistepScheduler(**parts["scheduler"]),
        **networks,
    ).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    write_random_pixart(Path(sys.argv[1]), sized="1024" in sys.argv[2:])
