"""The bundled teacher: a latent diffusion model, v-prediction under a zero-terminal-SNR schedule.

    python -m train.recipes.teacher --model models/next --run runs/teacher

Needs the autoencoder and the text encoder in the model's folder, which stay frozen, and packed scenes. Writes
``unet/``, ``scheduler/`` and ``model_index.json`` beside them, which makes the folder an ordinary diffusers pipeline.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from train.loop.config import parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.trainer import Trainer
from train.recipes.packed import PACKED, PackedScenes, load_frozen
from train.tasks.base import Previewer
from train.tasks.diffusion import DenoisingConfig, DiffusionTask
from yoso_core.condition import Condition
from yoso_core.families import FAMILIES
from yoso_core.families.unet import clip_texts
from yoso_core.schedule import NoiseSchedule

PREVIEW_PROMPTS = (
    "a cute corgi",
    "pizza slice",
    "red sports car",
    "castle on a hill at night",
    "two cats",
    "a panda next to a tree",
    "sunset over the sea",
    "🐶",
    "a photo of a dog",
    "happy birthday",
    "a cat wearing a hat",
    "a rocket in space",
    "blue heart",
    "a house in the snow",
    "three apples",
    "a sailboat on the sea",
    "grinning face, 3d",
    "grinning face, flat",
    "tiger, noto",
    "tiger, blob",
    "a lion in the desert",
    "strawberry",
    "a robot on the street",
    "a butterfly on a pink background",
    "wizard",
    "guitar",
    "a bee, glossy",
    "christmas tree in the snow",
    "an airplane in the sky",
    "a shark under water",
    "cup of coffee",
    "a unicorn on a meadow at sunset",
)


@dataclass(frozen=True)
@with_defaults(steps=40000, batch=128, warmup=300, ema=0.9995, high_noise=0.7)
class BundledTeacherConfig(DenoisingConfig):
    data: str = setting(str(PACKED), "packed scenes")
    model: str = setting("models/next", "pipeline folder, read and written", on_resume=True)
    start_from: str = setting("", "folder of a network to go on from")


def build_unet() -> UNet2DConditionModel:
    """Attention at 8 x 8 and 4 x 4 only: at 16 x 16 it costs most and the convolutions see everything anyway."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(96, 160, 224),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=(3, 5, 7),  # diffusers' name for the number of heads
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


def write_pipeline(model: Path, unet: nn.Module) -> None:
    """Save the network and what makes `model` a folder that StableDiffusionPipeline.from_pretrained reads."""
    half = copy.deepcopy(unet).cpu().half()
    half.save_pretrained(model / "unet", max_shard_size="9MB")
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
    data = PackedScenes.load(Path(config.data), model, device)
    conditions = Condition(clip_texts(PREVIEW_PROMPTS, tokenizer, text_encoder))
    previewer = Previewer(autoencoder, conditions, data.empty, data.shape)
    unet = UNet2DConditionModel.from_pretrained(config.start_from).float() if config.start_from else build_unet()
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # its backward is faster than fused attention on 64 tokens
    unet.to(device, memory_format=torch.channels_last)
    schedule = NoiseSchedule.from_config(build_scheduler().config)

    def hand_over(trainer: Trainer) -> None:
        if trainer.processes.is_main_process:
            write_pipeline(model, trainer.averages["network"])

    follow(
        Trainer(
            DiffusionTask(FAMILIES["stable-diffusion"], unet, schedule, data, config, previewer),
            config,
            folder,
            hand_over,
        )
    )


if __name__ == "__main__":
    run_command(main)
