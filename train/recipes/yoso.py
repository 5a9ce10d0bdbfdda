"""The bundled one-step LoRA: YOSO on the bundled teacher.

    python -m train.recipes.yoso --corpus data/emoji --run runs/yoso

Needs a whole pipeline in the model folder; writes ``yoso_lora.safetensors`` into it, in diffusers' format.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft.utils import get_peft_model_state_dict

from train.config import add_arguments, from_arguments, setting
from train.recipes.teacher import build_scheduler, load_training_latents
from train.trainer import Trainer, drain
from train.yoso import YosoConfig, YosoTask
from yoso_core.schedule import NoiseSchedule


@dataclass(frozen=True)
class BundledYosoConfig(YosoConfig):
    """The paper's settings, scaled to a network and a budget a hundred times smaller."""

    steps: int = setting(600, "optimizer steps in all")
    warmup: int = setting(30, "steps over which the learning rate rises from 0")
    ema: float = setting(0.995, "decay of the moving average of the weights")
    learning_rate: float = setting(5e-4, "learning rate of the generator's LoRA")
    discriminator_learning_rate: float = setting(1e-4, "learning rate of the discriminator")
    rank: int = setting(16, "rank of the LoRA")
    alpha: int = setting(16, "alpha of the LoRA: its change is scaled by alpha / rank")
    adversarial_weight: float = setting(0.1, "weight of the adversarial term")
    reconstruction_floor: float = setting(0.5, "least weight of a sample in that term, so that it reaches pure noise")
    last_timestep_share: float = setting(0.4, "share of samples at pure noise, where one-step generation starts")


def save_lora(unet: UNet2DConditionModel, model: Path) -> None:
    """alpha = rank, so that readers that look for no alpha apply it at full strength."""
    layers = get_peft_model_state_dict(unet.half())
    StableDiffusionPipeline.save_lora_weights(model, unet_lora_layers=layers, weight_name="yoso_lora.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/emoji"))
    parser.add_argument(
        "--model", type=Path, default=Path("models/yoso-emoji"), help="pipeline folder, read and written"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/yoso"))
    add_arguments(parser, BundledYosoConfig)
    options = parser.parse_args()
    config = from_arguments(BundledYosoConfig, options)
    if config.alpha != config.rank:
        parser.error("alpha must equal rank: the file that is written has no place for it")
    torch.manual_seed(config.seed)
    latents, previewer = load_training_latents(options.corpus, options.model)
    unet = UNet2DConditionModel.from_pretrained(options.model / "unet").float()
    unet.set_attn_processor(AttnProcessor())
    schedule = NoiseSchedule.from_config(build_scheduler().config)
    task = YosoTask(unet, schedule, "v_prediction", latents, config, previewer)
    trainer = Trainer(task, config, options.run)
    drain(trainer)
    save_lora(trainer.averages["generator"], options.model)


if __name__ == "__main__":
    main()
