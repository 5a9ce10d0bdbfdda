"""The bundled autoencoder: 64 x 64 pictures to (8, 8, 8) latents and back.

python -m train.recipes.autoencoder --data data/emoji --run runs/autoencoder
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from train.data.latents import CaptionedPictures, grid, load_pictures, to_unit_range
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player, Trainer


@dataclass(frozen=True)
@with_defaults(steps=2800, batch=32, learning_rate=2e-3, ema=0.998)
class AutoencoderConfig(RunConfig):
    data: str = setting("data/emoji", "the emoji corpus")
    out: str = setting("models/yoso-emoji/vae", "folder that the autoencoder is written to")
    size: int = setting(64, "side of the pictures in pixels: 64, 128 or 256")
    gradient_weight: float = setting(1.0, "weight of the distance between picture gradients, which keeps edges")
    pyramid_weight: float = setting(1.0, "weight of the distances at 1/2, 1/4 and 1/8 size, which keep colours")
    kl_weight: float = setting(5e-4, "weight of the KL term, a mean over latent elements")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in (64, 128, 256):
            self._refuse("size", "it must be 64, 128 or 256")


def build_autoencoder(size: int) -> AutoencoderKL:
    """(3, size, size) to (8, 8, 8). Conv-only, so that it runs at other sizes too.

    Thin where the picture is large, because that is where time goes.
    """
    outer_levels = int(math.log2(size // 64))
    channels = (16,) * outer_levels + (16, 48, 96, 128)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
    )


def augment(pictures: Tensor, draws: Draws) -> Tensor:
    """Mirror half of the pictures and permute the colours of a third, so that the code is not of emoji hues alone."""
    mirrored = draws.uniform() < 0.5
    pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
    orders = draws.uniform(3).argsort(1)
    permuted = (draws.uniform() < 0.33)[:, None]
    orders = torch.where(permuted, orders, torch.arange(3, device=orders.device))
    return pictures.gather(1, orders[:, :, None, None].expand_as(pictures))


def gradient_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical differences of two (B, C, H, W) pictures."""
    difference = a - b
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def reconstruction_losses(
    decoded: Tensor, pictures: Tensor, gradient_weight: float, pyramid_weight: float
) -> dict[str, Tensor]:
    """The weighted terms of how far (B, 3, H, W) pictures are from those that they should be."""
    pyramid = sum(F.avg_pool2d(decoded - pictures, scale).abs().mean() for scale in (2, 4, 8))
    return {
        "l1": (decoded - pictures).abs().mean(),
        "gradient": gradient_weight * gradient_distance(decoded, pictures),
        "pyramid": pyramid_weight * pyramid,
    }


class AutoencoderTask:
    """Reconstruct pictures through a Gaussian latent."""

    averaged = ("autoencoder",)

    def __init__(self, autoencoder: AutoencoderKL, data: CaptionedPictures, config: AutoencoderConfig) -> None:
        self.data, self.config = data, config
        self.sample_count, self.fingerprint = len(data), data.digest[:16]
        self.autoencoder = autoencoder.to(memory_format=torch.channels_last)
        self.players = {"autoencoder": Player(autoencoder, config.learning_rate)}
        side = autoencoder.config.sample_size // 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self.latent_shape = (autoencoder.config.latent_channels, side, side)
        self.pass_through = torch.compile(self._pass_through) if config.compile else self._pass_through

    def _pass_through(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.autoencoder.encode(pictures).latent_dist
        latent = posterior.mean + posterior.std * noise
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        return self.autoencoder.decode(latent).sample, kl

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        pictures = augment(to_unit_range(self.data.pictures[indices]).to(draws.device), draws)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return pictures, *self.pass_through(pictures, draws.normal(*self.latent_shape))

    def losses(self, player: str, shared: tuple[Tensor, Tensor, Tensor]) -> Losses:
        pictures, decoded, kl = shared
        config = self.config
        terms = reconstruction_losses(decoded.float(), pictures, config.gradient_weight, config.pyramid_weight)
        return Losses(terms | {"kl": config.kl_weight * kl})

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        pictures = to_unit_range(self.data.pictures[:: max(1, len(self.data) // 32)][:32]).to(self.autoencoder.device)
        decoded = averages["autoencoder"](pictures).sample
        return grid(
            torch.cat([part for pair in zip(pictures.split(8), decoded.split(8), strict=True) for part in pair]), 8
        )


@torch.no_grad()
def psnr(autoencoder: AutoencoderKL, pictures: Tensor) -> float:
    """Mean peak signal-to-noise ratio of the reconstruction, in dB; pictures (N, 3, H, W) in [-1, 1]."""
    errors = [((autoencoder(part).sample.clamp(-1, 1) - part) ** 2).mean(dim=(1, 2, 3)) for part in pictures.split(32)]
    return (10 * torch.log10(4 / torch.cat(errors))).mean().item()


@torch.no_grad()
def measure_latents(autoencoder: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Posterior means of the pictures: (N, C, h, w)."""
    return torch.cat([autoencoder.encode(part).latent_dist.mean for part in pictures.split(32)])


def main() -> None:
    config, folder = parse(AutoencoderConfig, __doc__, "runs/autoencoder")
    corpus = Path(config.data)
    torch.manual_seed(config.seed)
    data = load_pictures(corpus, config.size)
    unseen = load_pictures(corpus, config.size, keep=lambda row: row.get("held_out"))
    autoencoder = build_autoencoder(config.size).to(PartialState().device)
    trainer = Trainer(AutoencoderTask(autoencoder, data, config), config, folder)
    if not follow(trainer):
        return
    autoencoder = trainer.averages["autoencoder"].cpu()
    print(f"held-out pictures: {psnr(autoencoder, to_unit_range(unseen.pictures)):.2f} dB")
    latents = measure_latents(autoencoder, to_unit_range(data.pictures))
    autoencoder.register_to_config(
        scaling_factor=float(1 / latents.std()),
        latents_mean=latents.mean((0, 2, 3)).tolist(),  # for the informative prior
        latents_std=latents.std((0, 2, 3)).tolist(),
    )
    autoencoder.half().save_pretrained(config.out)
    print(f"saved {config.out}, scaling factor {autoencoder.config.scaling_factor:.4f}")


if __name__ == "__main__":
    run_command(main)
