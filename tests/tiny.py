"""A text-to-image model of random weights, whole but tiny: real code paths in milliseconds, offline."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from train.recipes.teacher import build_scheduler
from yoso_core.denoiser import Predict
from yoso_core.families import FAMILIES
from yoso_core.lora.changes import LowRank
from yoso_core.models import MODELS_FOLDER

FAMILY = FAMILIES["stable-diffusion"]
TOKENIZER = MODELS_FOLDER / "yoso-emoji" / "tokenizer"
LORA_RANK = 4


def called(network: Callable) -> Predict:
    """What is called as a UNet is, as a `Denoiser` wants it."""
    return partial(FAMILY.predict, network)


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def build_autoencoder(
    channels: tuple[int, ...] = (16, 16, 16, 16), latent_channels: int = 8, attention: bool = False
) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=attention,
        sample_size=64,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=32,
        )
    )


def random_lora(unet: UNet2DConditionModel, scale: float = 0.1) -> dict[str, torch.Tensor]:
    """LoRA weights for every attention projection of `unet`, in diffusers' spelling."""
    tensors = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            tensors[f"unet.{name}.lora_A.weight"] = scale * torch.randn(LORA_RANK, module.in_features)
            tensors[f"unet.{name}.lora_B.weight"] = scale * torch.randn(module.out_features, LORA_RANK)
    return tensors


def dense(change: LowRank) -> torch.Tensor:
    """(alpha / r) B A in the shape of the weight that it changes."""
    product = change.up.flatten(1) @ change.down.flatten(1)
    return change.scale * product.view(len(change.up), *change.down.shape[1:])


def write_pipeline(folder: Path, unet: UNet2DConditionModel, autoencoder: AutoencoderKL) -> None:
    """Write a folder as diffusers does, with a text encoder of random weights."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write the model and its ``yoso_lora.safetensors`` to `folder`; the same seed writes the same weights."""
    folder = Path(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = build_unet()
        write_pipeline(folder, unet, build_autoencoder())
        save_file(random_lora(unet), folder / "yoso_lora.safetensors")
    return folder
