"""Stable Diffusion 1.5 in its real size and layout with random weights, so that its path runs without a hub.

    python -m benchmarks.sd15 FOLDER

Random weights make noise for pictures; shapes, arithmetic, file formats and time are those of the real model.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from yoso_core.models import MODELS_FOLDER

TOKENIZER = MODELS_FOLDER / "yoso-emoji" / "tokenizer"
LORA_RANK, LORA_ALPHA = 64, 8.0
LORA_STRENGTH = 0.05  # deviation of the LoRA's change, in units of 1 / sqrt(fan in)
LORA_TARGETS = re.compile(  # the layers that the published YOSO and LCM LoRAs change
    r"\.(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv1|conv2|conv_shortcut|time_emb_proj|(down|up)samplers\.0\.conv)$"
)
OUTPUT_GAIN = 4.0  # brings the output of a freshly initialised UNet to about the unit variance of noise


def autoencoder_layout(small: bool) -> dict[str, Any]:
    """What the autoencoders of SD1.5 and SDXL have in common."""
    return {
        "block_out_channels": (8, 8, 16, 16) if small else (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1 if small else 2,
        "latent_channels": 4,
        "norm_num_groups": 8 if small else 32,
    }


def tiny_decoder_layout(small: bool) -> dict[str, Any]:
    """The defaults are those of the published ones."""
    channels = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (8, 8, 8, 8))
    return channels | dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), (1, 1, 1, 1)) if small else {}


def write_tokenizer(folder: Path, **own: Any) -> None:
    """The bundled tokenizer in place of CLIP's: its ids fit the larger vocabulary, only the length differs.

    Args:
        folder: of the tokenizer.
        own: further settings of it.
    """
    shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text()) | {"model_max_length": 77, **own}
    config_file.write_text(json.dumps(config, indent=2))


def layout(small: bool) -> dict[str, dict]:
    """Constructor arguments of each part; those of SD1.5 itself unless `small`."""
    down, up = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    return {
        "unet": {
            "sample_size": 8 if small else 64,
            "block_out_channels": (16, 16, 32, 32) if small else (320, 640, 1280, 1280),
            "down_block_types": down,
            "up_block_types": up,
            "layers_per_block": 1 if small else 2,
            "cross_attention_dim": 32 if small else 768,
            "attention_head_dim": 2 if small else 8,  # diffusers' name for the number of heads
            "norm_num_groups": 8 if small else 32,
        },
        "text_encoder": {
            "vocab_size": 49408,
            "hidden_size": 32 if small else 768,
            "intermediate_size": 64 if small else 3072,
            "num_hidden_layers": 2 if small else 12,
            "num_attention_heads": 2 if small else 12,
            "max_position_embeddings": 77,
            "projection_dim": 32 if small else 768,
        },
        "vae": {
            "sample_size": 64 if small else 512,
            **autoencoder_layout(small),
        },
        "tiny_decoder": tiny_decoder_layout(small),
        "scheduler": {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "skip_prk_steps": True,
            "steps_offset": 1,
        },
    }


def random_lora(unet: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A LoRA for `unet` in the published key format: kohya's names, rank 64, alpha 8."""
    tensors = {}
    for name, layer in unet.named_modules():
        if not LORA_TARGETS.search(name):
            continue
        weight = layer.weight
        down = torch.randn(LORA_RANK, *weight.shape[1:]) / weight[0].numel() ** 0.5
        up = torch.randn(len(weight), LORA_RANK, *[1] * (weight.ndim - 2))
        up *= LORA_STRENGTH / (LORA_ALPHA / LORA_RANK * LORA_RANK**0.5)
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = down.to(dtype)
        tensors[f"{stem}.lora_up.weight"] = up.to(dtype)
        tensors[f"{stem}.alpha"] = torch.tensor(LORA_ALPHA, dtype=dtype)
    return tensors


def write_random_sd15(folder: Path, small: bool = False, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Path:
    """A whole pipeline in diffusers' layout, with ``tiny_decoder/`` and ``yoso_lora.safetensors`` beside its parts.

    Args:
        folder: made if missing; 2.3 GB at full size.
        small: the same layout in a few hundred kilobytes a part, for tests.
        dtype: of the weights in the files.
        seed: of the weights.
    """
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    configs = layout(small)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**configs["unet"])
        unet.conv_out.weight.data *= OUTPUT_GAIN
        save_file(random_lora(unet, dtype), folder / "yoso_lora.safetensors")
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(**configs["vae"]).to(dtype),
            text_encoder=CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).to(dtype),
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
            unet=unet.to(dtype),
            scheduler=PNDMScheduler(**configs["scheduler"]),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder)
        AutoencoderTiny(**configs["tiny_decoder"]).to(dtype).save_pretrained(folder / "tiny_decoder")
    write_tokenizer(folder / "tokenizer")
    return folder


if __name__ == "__main__":
    write_random_sd15(Path(sys.argv[1]))
