"""The bundled decoder, trained on while the encoder stays as it is: every latent keeps its meaning.

python -m train.recipes.decoder --data data/emoji --run runs/decoder

So nothing else has to be trained again. Beside the corpus on its white ground it sees the same pictures on grounds of
other colours, as negatives and from near by, because people edit and train on pictures that are not emoji. LPIPS wants
its weights once: python -m train.measure.lpips_weights
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from train.data.latents import CaptionedPictures, grid, load_pictures, to_unit_range, weights_fingerprint
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player, Trainer
from train.measure.lpips_weights import load_lpips
from train.recipes.autoencoder import augment, psnr, reconstruction_losses

NEAREST = 0.45  # of the side: the smallest part of a picture that is looked at


@dataclass(frozen=True)
@with_defaults(steps=16000, batch=32, learning_rate=7e-4, ema=0.999, cooldown=0.4)
class DecoderConfig(RunConfig):
    data: str = setting("data/emoji", "the emoji corpus")
    model: str = setting("models/yoso-emoji/vae", "the autoencoder to begin with")
    out: str = setting("runs/decoder/output", "folder that the autoencoder is written to")
    varied: float = setting(
        0.4, "share of the pictures that are put on other grounds, turned into negatives or enlarged"
    )
    gradient_weight: float = setting(1.0, "weight of the distance between picture gradients, which keeps edges")
    pyramid_weight: float = setting(1.0, "weight of the distances at 1/2, 1/4 and 1/8 size, which keep colours")
    perceptual_weight: float = setting(0.3, "weight of LPIPS")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fraction("varied")


def vary(pictures: Tensor, share: float, draws: Draws) -> Tensor:
    """Some pictures (B, 3, H, W) in [-1, 1] as they are not in the corpus: on a ground, as negatives, from near by."""
    chosen, kind = draws.uniform() < share, draws.uniform()

    def where(least: float, most: float, made: Tensor) -> Tensor:
        """`made` for the chosen whose kind is in this range."""
        taken = chosen & (kind >= least) & (kind < most)
        return torch.where(taken[:, None, None, None], made, pictures)

    pictures = where(0.0, 0.75, _from_near(pictures, draws.uniform(3)))
    pictures = where(0.25, 1.0, _on_ground(pictures, draws.uniform(2, 3), draws.uniform()))
    return where(0.85, 1.0, -pictures)


def _on_ground(pictures: Tensor, colours: Tensor, angle: Tensor) -> Tensor:
    """White becomes a gradient from one of `colours` (B, 2, 3) to the other, as if the picture were printed on it."""
    side = torch.linspace(-0.7, 0.7, pictures.shape[-1], device=pictures.device)
    turn = (angle * 2 * torch.pi)[:, None, None]
    along = (side[None, :, None] * turn.sin() + side[None, None, :] * turn.cos() + 0.5).clamp(0, 1)[:, None]
    first, second = colours[:, 0, :, None, None], colours[:, 1, :, None, None]
    return (pictures + 1) * (first + (second - first) * along) - 1


def _from_near(pictures: Tensor, places: Tensor) -> Tensor:
    """A random part of each picture, enlarged; `places` (B, 3) in [0, 1] say how large and where."""
    scale = NEAREST + (1 - NEAREST) * places[:, 0]
    offset = (1 - scale)[:, None] * (2 * places[:, 1:] - 1)
    frames = torch.cat([torch.eye(2, device=pictures.device) * scale[:, None, None], offset[:, :, None]], 2)
    where = F.affine_grid(frames, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures.contiguous(), where, padding_mode="border", align_corners=False)


class DecoderTask:
    """Decode what the frozen encoder makes of pictures."""

    averaged = ("autoencoder",)

    def __init__(
        self, autoencoder: AutoencoderKL, distance: nn.Module, data: CaptionedPictures, config: DecoderConfig
    ) -> None:
        self.data, self.config, self.distance = data, config, distance
        self.sample_count = len(data)
        self.fingerprint = f"{data.digest[:16]} {weights_fingerprint(autoencoder)}"
        self.autoencoder = autoencoder.to(memory_format=torch.channels_last)
        self.autoencoder.encoder.requires_grad_(False)
        self.autoencoder.quant_conv.requires_grad_(False)
        self.players = {"autoencoder": Player(autoencoder, config.learning_rate)}
        side = autoencoder.config.sample_size // 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self.latent_shape = (autoencoder.config.latent_channels, side, side)

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        pictures = augment(to_unit_range(self.data.pictures[indices]).to(draws.device), draws)
        pictures = vary(pictures, self.config.varied, draws).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            posterior = self.autoencoder.encode(pictures).latent_dist
            latent = posterior.mean + posterior.std * draws.normal(*self.latent_shape)
        return pictures, self.autoencoder.decode(latent).sample

    def losses(self, player: str, shared: tuple[Tensor, Tensor]) -> Losses:
        pictures, decoded = shared
        terms = reconstruction_losses(decoded, pictures, self.config.gradient_weight, self.config.pyramid_weight)
        return Losses(terms | {"perceptual": self.config.perceptual_weight * self.distance(decoded, pictures).mean()})

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        pictures = to_unit_range(self.data.pictures[:: max(1, len(self.data) // 32)][:32]).to(self.autoencoder.device)
        pictures = vary(pictures, 0.5, Draws(0, 0, len(pictures), slice(None), pictures.device))
        decoded = averages["autoencoder"](pictures).sample
        return grid(
            torch.cat([part for pair in zip(pictures.split(8), decoded.split(8), strict=True) for part in pair]), 8
        )


def main() -> None:
    config, folder = parse(DecoderConfig, __doc__, "runs/decoder")
    corpus, device = Path(config.data), PartialState().device
    autoencoder = AutoencoderKL.from_pretrained(config.model, torch_dtype=torch.float32).to(device)
    size = autoencoder.config.sample_size
    data, unseen = load_pictures(corpus, size), load_pictures(corpus, size, keep=lambda row: row.get("held_out"))
    wanted = to_unit_range(unseen.pictures)
    varied = vary(wanted, 1.0, Draws(0, 0, len(wanted), slice(None)))

    def told(network: AutoencoderKL) -> str:
        return f"{psnr(network, wanted):.2f} dB on held-out pictures, {psnr(network, varied):.2f} dB on varied ones"

    print(f"before: {told(autoencoder)}")
    trainer = Trainer(DecoderTask(autoencoder, load_lpips("alex").to(device), data, config), config, folder)
    if follow(trainer):
        autoencoder = trainer.averages["autoencoder"].cpu()
        print(f"after: {told(autoencoder)}")
        autoencoder.half().save_pretrained(config.out)
        print(f"saved {config.out}")


if __name__ == "__main__":
    run_command(main)
