"""The bundled teacher: a latent diffusion model, v-prediction under a zero-terminal-SNR schedule.

    python -m train.recipes.teacher --corpus data/emoji --run runs/teacher

Needs the autoencoder and the text encoder in the model folder; both stay frozen. Writes ``unet/``, ``scheduler/``
and ``model_index.json`` beside them, which makes the folder an ordinary diffusers pipeline.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from train.config import RunConfig, add_arguments, from_arguments, setting
from train.data import CaptionedLatents, encode_corpus, encode_texts, grid, load_pictures
from train.losses import per_sample_mse
from train.randomness import generator_for
from train.trainer import Player, Trainer, drain
from yoso_core.denoiser import Denoiser, guided
from yoso_core.sampling import ddim
from yoso_core.schedule import NoiseSchedule

PREVIEW_PROMPTS = [
    f"{thing}, {style}"
    for thing in ("red heart", "grinning face", "dog face", "pizza", "rocket", "tree", "automobile", "crown")
    for style in ("3d", "flat", "noto", "twemoji")
]


@dataclass(frozen=True)
class TeacherConfig(RunConfig):
    steps: int = setting(8600, "optimizer steps in all")
    batch: int = setting(64, "latents a step")
    warmup: int = setting(200, "steps over which the learning rate rises from 0")
    ema: float = setting(0.9985, "decay of the moving average of the weights")
    drop_caption: float = setting(0.1, "share of captions replaced by the empty prompt, for guidance")
    high_noise: float = setting(0.7, "timesteps are T u^high_noise, u uniform: below 1 favours noisy ones")
    preview_guidance: float = setting(2.0, "guidance of the preview pictures")
    preview_steps: int = setting(10, "evaluations a preview picture")


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


class TeacherTask:
    """Plain v-MSE on noisy latents with their captions."""

    averaged = ("unet",)

    def __init__(self, unet: UNet2DConditionModel, data: CaptionedLatents, config: TeacherConfig, previewer) -> None:
        self.data, self.config, self.previewer = data, config, previewer
        self.sample_count = len(data)
        self.schedule = NoiseSchedule.from_config(build_scheduler().config)
        unet.set_attn_processor(AttnProcessor())  # its backward is faster than fused attention on 16 tokens
        self.unet = unet.to(memory_format=torch.channels_last)
        self.players = {"unet": Player(unet, config.learning_rate)}
        self.network = torch.compile(unet) if config.compile else unet

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) int64, one from each `count`-th of the range, which evens the loss out."""
        uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        return (uniform**self.config.high_noise * len(self.schedule)).long().clamp(max=self.schedule.last)

    def forward(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        clean, context = self.data.batch(indices, self.config.drop_caption, generator)
        noise = torch.randn(clean.shape, generator=generator)
        t = self.timesteps(len(clean), generator)
        noisy = self.schedule.add_noise(clean, noise, t).contiguous(memory_format=torch.channels_last)
        output = self.network(noisy, t, encoder_hidden_states=context, return_dict=False)[0]
        return output, self.schedule.velocity(clean, noise, t)

    def losses(self, player: str, shared: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"velocity": per_sample_mse(*shared).mean()}

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        denoise = Denoiser(averages["unet"], self.schedule, "v_prediction", consistent=False)
        return self.previewer(
            lambda noise, context, empty: ddim(
                guided(denoise, self.config.preview_guidance, empty),
                self.schedule,
                noise,
                context,
                self.config.preview_steps,
            )
        )


class Previewer:
    """Draws the preview prompts from fixed seeds with whatever sampler it is given."""

    def __init__(self, autoencoder: AutoencoderKL, contexts: Tensor, empty: Tensor) -> None:
        self.autoencoder, self.contexts, self.empty = autoencoder, contexts, empty
        self.noise = torch.stack(
            [torch.randn(8, 8, 8, generator=generator_for(0, 2, index // 4)) for index in range(len(contexts))]
        )

    @torch.no_grad()
    def __call__(self, sample) -> Image.Image:
        """`sample(noise, context, empty)` -> clean latents (B, 8, 8, 8), scaled."""
        latents = sample(self.noise, self.contexts, self.empty)
        pictures = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        return grid(pictures, 8)


def load_frozen(model: Path) -> tuple[AutoencoderKL, CLIPTokenizer, CLIPTextModel]:
    autoencoder = AutoencoderKL.from_pretrained(model / "vae").float().eval().requires_grad_(False)
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder").float().eval().requires_grad_(False)
    return autoencoder, CLIPTokenizer.from_pretrained(model / "tokenizer"), text_encoder


def load_training_latents(corpus: Path, model: Path) -> tuple[CaptionedLatents, Previewer]:
    """The corpus without its held-out pairs, through the frozen parts of `model`."""
    autoencoder, tokenizer, text_encoder = load_frozen(model)
    data = load_pictures(corpus, autoencoder.config.sample_size, keep=lambda row: not row["held_out"])
    latents = encode_corpus(data, autoencoder, tokenizer, text_encoder)
    contexts = encode_texts(PREVIEW_PROMPTS, tokenizer, text_encoder)
    return latents, Previewer(autoencoder, contexts, latents.empty)


def write_pipeline(model: Path, unet: UNet2DConditionModel) -> None:
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/emoji"))
    parser.add_argument(
        "--model", type=Path, default=Path("models/yoso-emoji"), help="pipeline folder, read and written"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/teacher"))
    parser.add_argument("--start-from", type=Path, help="network weights (safetensors) of an earlier run to go on from")
    add_arguments(parser, TeacherConfig)
    options = parser.parse_args()
    config = from_arguments(TeacherConfig, options)
    torch.manual_seed(config.seed)
    latents, previewer = load_training_latents(options.corpus, options.model)
    unet = build_unet()
    if options.start_from:
        unet.load_state_dict(load_file(options.start_from))
    print(f"{len(latents)} latents, {sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters", flush=True)
    trainer = Trainer(TeacherTask(unet, latents, config, previewer), config, options.run)
    drain(trainer)
    write_pipeline(options.model, trainer.averages["unet"])


if __name__ == "__main__":
    main()
