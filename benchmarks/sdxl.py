"""Stable Diffusion XL in its real size and layout with random weights, so that its path runs without a hub.

    python -m benchmarks.sdxl FOLDER

Random weights make noise for pictures; shapes, arithmetic, file formats and time are those of the real model.
"""

import sys
from pathlib import Path

import torch

from benchmarks.random_weights import filled
from benchmarks.sd15 import OUTPUT_GAIN, TOKENIZER, autoencoder_layout, tiny_decoder_layout, write_tokenizer

PADDING = "!"  # of the second tokenizer; the first one pads with its end of text


def layout(small: bool) -> dict[str, dict]:
    """Constructor arguments of each part; those of SDXL itself unless `small`."""
    widths = (16, 16) if small else (768, 1280)  # of the text encoders
    times = 8 if small else 256
    return {
        "unet": {
            "sample_size": 8 if small else 128,
            "block_out_channels": (16, 32, 32) if small else (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 1, 1) if small else (1, 2, 10),
            "cross_attention_dim": sum(widths),
            "attention_head_dim": (2, 4, 4) if small else (5, 10, 20),  # diffusers' name for the number of heads
            "norm_num_groups": 8 if small else 32,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": times,
            "projection_class_embeddings_input_dim": 6 * times + widths[1],
        },
        "text_encoder": {
            "vocab_size": 49408,
            "hidden_size": widths[0],
            "intermediate_size": 4 * widths[0],
            "num_hidden_layers": 2 if small else 12,
            "num_attention_heads": 2 if small else 12,
            "max_position_embeddings": 77,
            "projection_dim": widths[0],
        },
        "text_encoder_2": {
            "vocab_size": 49408,
            "hidden_size": widths[1],
            "intermediate_size": 4 * widths[1],
            "num_hidden_layers": 3 if small else 32,
            "num_attention_heads": 2 if small else 20,
            "max_position_embeddings": 77,
            "projection_dim": widths[1],
            "hidden_act": "gelu",
        },
        "vae": {
            "sample_size": 64 if small else 1024,
            **autoencoder_layout(small),
            "scaling_factor": 0.13025,
            "force_upcast": True,
        },
        "tiny_decoder": tiny_decoder_layout(small),
        "scheduler": {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        },
    }


def write_random_sdxl(folder: Path, small: bool = False, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Path:
    """A whole pipeline in diffusers' layout, with ``tiny_decoder/`` beside its parts.

    Args:
        folder: made if missing; 7 GB at full size.
        small: the same layout in a few megabytes, for tests.
        dtype: of the weights in the files.
        seed: of the weights.
    """
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    configs, folder = layout(small), Path(folder)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.device("meta"):
        networks = {
            "vae": AutoencoderKL(**configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"], **ends)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"], **ends)),
            "unet": UNet2DConditionModel(**configs["unet"]),
            "tiny_decoder": AutoencoderTiny(**configs["tiny_decoder"], scaling_factor=1.0),
        }
    generator = torch.Generator().manual_seed(seed)
    networks = {name: filled(network.to(dtype), generator) for name, network in networks.items()}
    networks["unet"].conv_out.weight.data *= OUTPUT_GAIN
    networks.pop("tiny_decoder").save_pretrained(folder / "tiny_decoder")
    StableDiffusionXLPipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=EulerDiscreteScheduler(**configs["scheduler"]),
        **networks,
    ).save_pretrained(folder)
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer_2", pad_token=PADDING)
    return folder


if __name__ == "__main__":
    write_random_sdxl(Path(sys.argv[1]))
