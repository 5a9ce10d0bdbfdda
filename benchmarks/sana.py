"""SANA-Sprint in its real sizes and layout with random weights, so that its path runs without a hub.

    python -m benchmarks.sana FOLDER [0.6b | 1.6b]

Random weights make noise for pictures; shapes, arithmetic, file formats and time are those of the real model.
"""

import string
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_weights import filled

SIZES = ("tiny", "0.6b", "1.6b")
BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
SCALES = ((), (), (), (5,), (5,), (5,))


def layout(size: str) -> dict[str, dict[str, Any]]:
    """Constructor arguments of each part; "tiny" is for tests, in the same layout."""
    tiny = size == "tiny"
    heads = {"tiny": (4, 8, 2, 16), "0.6b": (36, 32, 16, 72), "1.6b": (70, 32, 20, 112)}[size]
    widths = (8, 8, 16, 16, 16, 16) if tiny else (128, 256, 512, 512, 1024, 1024)
    return {
        "transformer": {
            "in_channels": 8 if tiny else 32,
            "out_channels": 8 if tiny else 32,
            "num_layers": {"tiny": 2, "0.6b": 28, "1.6b": 20}[size],
            "num_attention_heads": heads[0],
            "attention_head_dim": heads[1],
            "num_cross_attention_heads": heads[2],
            "cross_attention_head_dim": heads[3],
            "cross_attention_dim": heads[2] * heads[3],
            "caption_channels": 24 if tiny else 2304,
            "sample_size": 4 if tiny else 32,
            "guidance_embeds": True,
            "qk_norm": "rms_norm_across_heads",
        },
        "text_encoder": {
            "vocab_size": 512,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
        }
        if tiny
        else {},  # the defaults are those of Gemma 2 2B
        "vae": {
            "latent_channels": 8 if tiny else 32,
            "attention_head_dim": 4 if tiny else 32,
            "encoder_block_types": BLOCKS,
            "decoder_block_types": BLOCKS,
            "encoder_block_out_channels": widths,
            "decoder_block_out_channels": widths,
            "encoder_layers_per_block": (1,) * 6 if tiny else (2, 2, 2, 3, 3, 3),
            "decoder_layers_per_block": (1,) * 6 if tiny else (3,) * 6,
            "encoder_qkv_multiscales": SCALES,
            "decoder_qkv_multiscales": SCALES,
            "upsample_block_type": "interpolate",
            "downsample_block_type": "conv",
            "scaling_factor": 0.41407,
        },
        "scheduler": {},
    }


def build_tokenizer():
    """Characters, and bytes for all others; one merge, so that a word may begin with the token of the space before."""
    from tokenizers.processors import TemplateProcessing
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *string.ascii_letters, *string.digits, *string.punctuation, "\n", "▁a"]
    tokenizer = GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[("▁", "a")])
    begin = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = begin
    return tokenizer


def write_random_sana(folder: Path, size: str = "0.6b", dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Path:
    """A whole pipeline in diffusers' layout.

    Args:
        folder: made if missing; 7 GB at 0.6b, of which 5.2 are the text encoder.
        size: of `SIZES`.
        dtype: of the weights.
        seed: of the weights.
    """
    from diffusers import AutoencoderDC, SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler
    from transformers import Gemma2Config, Gemma2Model

    parts = layout(size)
    with torch.device("meta"):
        networks = {
            "text_encoder": Gemma2Model(Gemma2Config(**parts["text_encoder"])),
            "vae": AutoencoderDC(**parts["vae"]),
            "transformer": SanaTransformer2DModel(**parts["transformer"]),
        }
    generator = torch.Generator().manual_seed(seed)
    networks = {name: filled(network.to(dtype), generator) for name, network in networks.items()}
    SanaSprintPipeline(
        tokenizer=build_tokenizer(), scheduler=SCMScheduler(**parts["scheduler"]), **networks
    ).save_pretrained(folder)
    return Path(folder)


if __name__ == "__main__":
    write_random_sana(Path(sys.argv[1]), *sys.argv[2:3])
