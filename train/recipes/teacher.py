"""The bundled teacher: a latent diffusion model, v-prediction under a zero-terminal-SNR schedule.

    python -m train.recipes.teacher --data data/emoji --run runs/teacher

Needs the autoencoder and the text encoder in the model folder; both stay frozen. Writes ``unet/``, ``scheduler/``
and ``model_index.json`` beside them, which makes the folder an ordinary diffusers pipeline.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from train.data.latents import encode_folder, encode_texts
from train.loop.config import parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.trainer import Trainer
from train.tasks.base import Previewer
from train.tasks.diffusion import DenoisingConfig, DiffusionTask
from yoso_core.schedule import NoiseSchedule

PREVIEW_PROMPTS = [
    f"{thing}, {style}"
    for thing in ("red heart", "grinning face", "dog face", "pizza", "rocket", "tree", "automobile", "crown")
    for style in ("3d", "flat", "noto", "twemoji")
]


@dataclass(frozen=True)
@with_defaults(steps=14000, warmup=200, ema=0.9985, high_noise=0.7, compile=True)
class BundledTeacherConfig(DenoisingConfig):
    data: str = setting("data/emoji", "the emoji corpus")
    model: str = setting("models/yoso-emoji", "pipeline folder, read and written")
    start_from: str = setting("", "folder of a network to go on from")


def build_unet() -> UNet2DConditionModel:
    """Attention at 4 x 4 only: at 8 x 8 it costs a third of the speed and the convolutions see everything anyway."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(160, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=192,
        attention_head_dim=5,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # unused with trailing timesteps, but StableDiffusionPipeline warns without it
    )


def load_frozen(model: Path, device: torch.device) -> tuple[AutoencoderKL, CLIPTokenizer, CLIPTextModel]:
    autoencoder = AutoencoderKL.from_pretrained(model / "vae").float().eval().requires_grad_(False).to(device)
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder").float().eval().requires_grad_(False)
    return autoencoder, CLIPTokenizer.from_pretrained(model / "tokenizer"), text_encoder.to(device)


def write_pipeline(model: Path, unet: nn.Module) -> None:
    """Save the network and what makes `model` a folder that StableDiffusionPipeline.from_pretrained reads."""
    unet.half().save_pretrained(model / "unet", max_shard_size="9MB")
    build_scheduler().save_pretrained(model / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    config, folder = parse(BundledTeacherConfig, __doc__, "runs/teacher")
    torch.manual_seed(config.seed)
    device, model = PartialState().device, Path(config.model)
    autoencoder, tokenizer, text_encoder = load_frozen(model, device)
    size = autoencoder.config.sample_size
    latents = encode_folder(Path(config.data), size, autoencoder, tokenizer, text_encoder)
    contexts = encode_texts(PREVIEW_PROMPTS, tokenizer, text_encoder)
    previewer = Previewer(autoencoder, contexts, latents.empty, latents.shape)
    unet = UNet2DConditionModel.from_pretrained(config.start_from).float() if config.start_from else build_unet()
    unet.set_attn_processor(AttnProcessor())  # its backward is faster than fused attention on 16 tokens
    unet.to(device, memory_format=torch.channels_last)
    schedule = NoiseSchedule.from_config(build_scheduler().config)
    trainer = Trainer(DiffusionTask(unet, schedule, latents, config, previewer), config, folder)
    if follow(trainer):
        write_pipeline(model, trainer.averages["network"])


if __name__ == "__main__":
    run_command(main)
