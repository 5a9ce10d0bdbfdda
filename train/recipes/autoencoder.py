"""The bundled autoencoder: 128 x 128 pictures of any ground to (8, 16, 16) latents and back.

    python -m train.recipes.autoencoder --run runs/autoencoder
    python -m train.recipes.autoencoder --run runs/decoder --start-from models/next/vae --sharpen

The second command trains the decoder on while the encoder stays as it is, so that every latent keeps its meaning:
against LPIPS and a critic of patches, which is where sharpness comes from. LPIPS wants its weights once:
``python -m train.measure.lpips_weights``.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from train.data.latents import grid, weights_fingerprint
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player, Trainer
from train.measure.lpips_weights import load_lpips
from train.recipes.corpus.art import CORPUS, SIDE
from train.recipes.corpus.corpus import Corpus
from train.recipes.corpus.scenes import Scenes, describe
from train.recipes.corpus.textures import (
    HELD_OUT_PHOTOGRAPHS,
    PHOTOGRAPHS,
    crops,
    dead_leaves,
    read_photographs,
)
from train.tasks.losses import discriminator_loss, generator_loss

UNSEEN_SEED = 10**6  # of scenes that nothing is trained on


@dataclass(frozen=True)
@with_defaults(steps=12000, batch=64, learning_rate=1e-3, ema=0.998, cooldown=0.4)
class AutoencoderConfig(RunConfig):
    data: str = setting(str(CORPUS), "the corpus")
    out: str = setting("models/next/vae", "folder that the autoencoder is written to", on_resume=True)
    start_from: str = setting("", "folder of an autoencoder to go on from")
    scenes: int = setting(60000, "scenes to learn from")
    textures: float = setting(0.25, "share of a batch that is dead leaves and photographs")
    sharpen: bool = setting(False, "train the decoder alone, with LPIPS and a critic")
    gradient_weight: float = setting(1.0, "weight of the distance between picture gradients, which keeps edges")
    pyramid_weight: float = setting(1.0, "weight of the distances at 1/2, 1/4 and 1/8 size, which keep colours")
    perceptual_weight: float = setting(0.25, "weight of LPIPS; 0: without")
    adversarial_weight: float = setting(0.03, "weight of the critic, where the decoder is sharpened")
    critic_learning_rate: float = setting(4e-4, "learning rate of the critic")
    latent_noise: float = setting(
        0.15, "deviation of what is added to latents where the decoder is sharpened: networks are not exact"
    )
    kl_weight: float = setting(5e-4, "weight of the KL term, a mean over latent elements")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fraction("textures")
        self._at_least(1, "scenes")
        self._at_least(0, "perceptual_weight", "adversarial_weight", "latent_noise", "kl_weight")
        if self.sharpen and not self.start_from:
            self._refuse("sharpen", "it wants an autoencoder; name one by start_from")


def build_autoencoder() -> AutoencoderKL:
    """(3, 128, 128) to (8, 16, 16). Conv-only, so that it runs at other sizes too.

    Thin where the picture is large, because that is where time goes.
    """
    channels = (16, 48, 96, 128)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )


class Critic(nn.Sequential):
    """Tells patches of pictures from decoded ones: (B, 3, H, W) -> logits (B, P), a few hundred overlapping patches."""

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for step in range(2):
            channels = width * 2**step
            layers += [
                nn.Conv2d(channels, channels * 2, 4, 2, 1, bias=False),
                nn.GroupNorm(8, channels * 2),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(width * 4, 1, 4, 1, 1), nn.Flatten())


def permute_colours(pictures: Tensor, draws: Draws) -> Tensor:
    """Change the colours of a quarter of the pictures for one another, so that the code is not of the art's hues."""
    orders = draws.uniform(3).argsort(1)
    permuted = (draws.uniform() < 0.25)[:, None]
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


class Pictures:
    """Where a step's pictures come from: scenes, with dead leaves and photographs among them."""

    def __init__(self, corpus: Corpus, scenes: Scenes, textures: float) -> None:
        self.corpus, self.scenes, self.textures = corpus, scenes, textures
        self.photographs = read_photographs(PHOTOGRAPHS)

    def batch(self, indices: Tensor, draws: Draws) -> Tensor:
        """(B, 3, S, S) in [-1, 1] on the device of `draws`."""
        size = self.corpus.painter.size
        textured = round(len(indices) * self.textures)
        parts = [self.corpus.painter(self.scenes[indices[textured:]]).to(draws.device)]
        generator = torch.Generator(draws.device)
        generator.manual_seed(int(torch.randint(2**62, (1,), generator=draws.generator)))
        near = textured // 4 if self.photographs else 0
        if near:
            parts.append(crops(self.photographs, near, size, generator))
        if textured - near:
            parts.append(dead_leaves(textured - near, size, generator))
        return permute_colours(torch.cat(parts), draws)


class AutoencoderTask:
    """Reconstruct pictures through a Gaussian latent; or decode what the frozen encoder makes of them, sharper."""

    averaged = ("autoencoder",)
    repeats = None

    def __init__(self, autoencoder: AutoencoderKL, data: Pictures, config: AutoencoderConfig) -> None:
        self.data, self.config = data, config
        self.sample_count = len(data.scenes)
        self.fingerprint = f"{len(data.scenes)} {weights_fingerprint(autoencoder)}"
        device = autoencoder.device
        # Thin layers on large pictures: on CPUs a third faster with the channels first.
        self.layout = torch.contiguous_format if device.type == "cpu" else torch.channels_last
        self.autoencoder = autoencoder.to(memory_format=self.layout)
        self.distance = load_lpips("alex").to(device) if config.perceptual_weight else None
        self.players = {}
        if config.sharpen:
            autoencoder.encoder.requires_grad_(False)
            autoencoder.quant_conv.requires_grad_(False)
            self.critic = Critic().to(device)
            self.players["critic"] = Player(self.critic, config.critic_learning_rate, (0.5, 0.9), 0.0)
        self.players["autoencoder"] = Player(autoencoder, config.learning_rate)

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(torch.device(draws.device).type, enabled=False):
            pictures = self.data.batch(indices, draws).contiguous(memory_format=self.layout)
        with torch.set_grad_enabled(not self.config.sharpen):
            posterior = self.autoencoder.encode(pictures).latent_dist
            noise = draws.normal(*posterior.mean.shape[1:])
            latent = posterior.mean + posterior.std * noise
            if self.config.sharpen:
                latent = posterior.mean + self.config.latent_noise * draws.uniform(1, 1, 1) * noise
            kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        return pictures, self.autoencoder.decode(latent).sample, kl

    def losses(self, player: str, shared: tuple[Tensor, Tensor, Tensor]) -> Losses:
        pictures, decoded, kl = shared
        config = self.config
        if player == "critic":
            self.critic.requires_grad_(True)
            return Losses({"critic": discriminator_loss(self.critic(pictures), self.critic(decoded.detach()))})
        terms = reconstruction_losses(decoded.float(), pictures, config.gradient_weight, config.pyramid_weight)
        if self.distance is not None:
            terms["perceptual"] = config.perceptual_weight * self.distance(decoded, pictures).mean()
        if config.sharpen:
            self.critic.requires_grad_(False)
            terms["adversarial"] = config.adversarial_weight * generator_loss(self.critic(decoded))
        else:
            terms["kl"] = config.kl_weight * kl
        return Losses(terms)

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        device = self.autoencoder.device
        generator = torch.Generator(device).manual_seed(0)
        pictures = [self.data.corpus.painter(self.data.scenes[torch.arange(24)]).to(device)]
        if self.data.photographs:
            pictures.append(crops(self.data.photographs, 4, pictures[0].shape[-1], generator))
        pictures.append(dead_leaves(4, pictures[0].shape[-1], generator))
        shown = torch.cat(pictures)[:32]
        decoded = averages["autoencoder"](shown).sample
        pairs = zip(shown.cpu().split(8), decoded.cpu().split(8), strict=True)
        return grid(torch.cat([part for pair in pairs for part in pair]), 8)


@torch.no_grad()
def psnr(autoencoder: AutoencoderKL, pictures: Tensor) -> float:
    """Mean peak signal-to-noise ratio of the reconstruction, in dB; pictures (N, 3, H, W) in [-1, 1]."""
    errors = [((autoencoder(part).sample.clamp(-1, 1) - part) ** 2).mean(dim=(1, 2, 3)) for part in pictures.split(32)]
    return (10 * torch.log10(4 / torch.cat(errors).float())).mean().item()


@torch.no_grad()
def measure_latents(autoencoder: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Posterior means of the pictures: (N, C, h, w)."""
    return torch.cat([autoencoder.encode(part).latent_dist.mean for part in pictures.split(32)]).float()


def unseen_pictures(corpus: Corpus, count: int = 200) -> dict[str, Tensor]:
    """What reconstruction is measured on: (N, 3, S, S) each of held-out sprites, new scenes and new photographs."""
    painter = corpus.painter
    sprites = describe(corpus.unseen, count, UNSEEN_SEED)
    scenes = describe(corpus.describer, count, UNSEEN_SEED)
    generator = torch.Generator(painter.device).manual_seed(0)
    found = {"sprites": painter(sprites), "scenes": painter(scenes)}
    if photographs := read_photographs(HELD_OUT_PHOTOGRAPHS):
        found["photographs"] = crops(photographs, 64, painter.size, generator)
    return found


def main() -> None:
    config, folder = parse(AutoencoderConfig, __doc__, "runs/autoencoder")
    torch.manual_seed(config.seed)
    device = PartialState().device
    corpus = Corpus.load(Path(config.data), device)
    scenes = describe(corpus.describer, config.scenes, config.seed)
    if config.start_from:
        autoencoder = AutoencoderKL.from_pretrained(config.start_from, torch_dtype=torch.float32).to(device)
    else:
        autoencoder = build_autoencoder().to(device)
    autoencoder.register_to_config(sample_size=SIDE)
    task = AutoencoderTask(autoencoder, Pictures(corpus, scenes, config.textures), config)
    trainer = Trainer(task, config, folder)
    if not follow(trainer):
        return
    autoencoder = trainer.averages["autoencoder"].float()
    for name, pictures in unseen_pictures(corpus).items():
        print(f"{name} that it has not seen: {psnr(autoencoder, pictures):.2f} dB")
    if not config.sharpen:
        latents = measure_latents(autoencoder, corpus.painter(scenes[torch.arange(min(2000, len(scenes)))]))
        autoencoder.register_to_config(
            scaling_factor=float(1 / latents.std()),
            latents_mean=latents.mean((0, 2, 3)).tolist(),  # for the informative prior
            latents_std=latents.std((0, 2, 3)).tolist(),
        )
    autoencoder.cpu().half().save_pretrained(config.out)
    print(f"saved {config.out}, scaling factor {autoencoder.config.scaling_factor:.4f}")


if __name__ == "__main__":
    run_command(main)
