"""Scenes as the networks see them: encoded once, kept in one file, read on the device where it is trained.

    python -m train.recipes.packed --model models/next --out runs/packed.safetensors

Wants the autoencoder and the text encoder in the model's folder.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from train.loop.config import ConfigError, Settings, from_arguments, setting
from train.loop.console import run_command
from train.loop.randomness import Draws
from train.recipes.corpus.art import CORPUS, SIDE
from train.recipes.corpus.corpus import Corpus
from train.recipes.corpus.scenes import describe
from yoso_core.autoencoder import encode
from yoso_core.condition import Condition
from yoso_core.families.unet import clip_texts

PACKED = Path("runs/packed.safetensors")


@dataclass(frozen=True)
class PackConfig(Settings):
    data: str = setting(str(CORPUS), "the corpus")
    model: str = setting("models/next", "folder with vae, tokenizer and text_encoder")
    out: str = setting(str(PACKED), "file to write")
    scenes: int = setting(400000, "scenes, at most")
    minutes: float = setting(0.0, "minutes after which no more are added; 0: no limit")
    seed: int = setting(1, "seed of the scenes")
    batch: int = setting(512, "pictures encoded at once")
    side: int = setting(SIDE, "side of the pictures in pixels; shapes are learned at half of it in less time")


def load_frozen(model: Path, device: torch.device) -> tuple[AutoencoderKL, CLIPTokenizer, CLIPTextModel]:
    """The parts that a network is trained between; float32, on the device."""
    autoencoder = AutoencoderKL.from_pretrained(model / "vae").float().eval().requires_grad_(False).to(device)
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder").float().eval().requires_grad_(False)
    return autoencoder, CLIPTokenizer.from_pretrained(model / "tokenizer"), text_encoder.to(device)


@dataclass(frozen=True)
class PackedScenes:
    """Clean latents and the tokens of their captions; conditions are computed as they are asked for.

    Attributes:
        latents: (N, C, h, w) float16, scaled by the autoencoder's scaling factor.
        tokens: (N, L) int16.
        empty_tokens: (L,) int64, of the empty prompt.
        text_encoder: frozen.
        empty: one row, the encoded empty prompt.
        digest: of the file.
    """

    latents: Tensor
    tokens: Tensor
    empty_tokens: Tensor
    text_encoder: CLIPTextModel
    empty: Condition
    digest: str
    repeats = None  # each scene once an epoch

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of a latent."""
        return tuple(self.latents.shape[1:])

    def batch(self, indices: Tensor, drop: float, draws: Draws) -> tuple[Tensor, Condition]:
        """As `CaptionedLatents.batch`."""
        device = self.latents.device
        indices = indices.to(device)
        dropped = (draws.uniform() < drop).to(device)
        tokens = torch.where(dropped[:, None], self.empty_tokens, self.tokens[indices].long())
        with torch.no_grad():
            condition = Condition(self.text_encoder(tokens)[0].float())
        return self.latents[indices].float().to(draws.device), condition.to(draws.device)

    def moments(self) -> tuple[Tensor, Tensor]:
        """As `CaptionedLatents.moments`."""
        some = self.latents[:4000].float()
        return some.mean((0, 2, 3)).cpu(), some.std((0, 2, 3)).cpu()

    def fingerprint(self) -> str:
        return self.digest

    @classmethod
    def load(cls, path: Path, model: Path, device: torch.device) -> "PackedScenes":
        """Read what this module's command wrote.

        Raises:
            ConfigError: there is no such file.
        """
        if not path.exists():
            raise ConfigError(f"{path} is missing: python -m train.recipes.packed writes it")
        _, tokenizer, text_encoder = load_frozen(model, device)
        with safe_open(path, "pt", device=str(device)) as file:
            latents, tokens = file.get_tensor("latents"), file.get_tensor("tokens")
            digest = file.metadata()["digest"]
        empty = tokenize([""], tokenizer)[0].to(device)
        return cls(latents, tokens, empty, text_encoder, Condition(clip_texts([""], tokenizer, text_encoder)), digest)


def tokenize(texts: list[str], tokenizer: CLIPTokenizer) -> Tensor:
    """(N, L) int64, padded and cut as a pipeline does it."""
    length = tokenizer.model_max_length
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return found.input_ids


@torch.no_grad()
def pack(config: PackConfig) -> None:
    started, device, model = time.monotonic(), PartialState().device, Path(config.model)
    corpus = Corpus.load(Path(config.data), device, config.side)
    autoencoder, tokenizer, _ = load_frozen(model, device)
    scenes = describe(corpus.describer, config.scenes, config.seed)
    latents: list[Tensor] = []
    for start in tqdm(range(0, len(scenes), config.batch), unit="batch"):
        if config.minutes and time.monotonic() - started > 60 * config.minutes:
            break
        chosen = torch.arange(start, min(start + config.batch, len(scenes)))
        pictures = corpus.painter(scenes[chosen]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            latents.append(encode(autoencoder, pictures).half())
    packed = torch.cat(latents)
    tokens = tokenize(scenes.captions[: len(packed)], tokenizer).short()
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".part")
    digest = f"{config.seed}/{len(packed)}/{packed.float().mean().item():.6f}"
    save_file({"latents": packed.cpu().contiguous(), "tokens": tokens}, partial, metadata={"digest": digest})
    partial.rename(out)
    print(f"{len(packed)} scenes in {out}, {time.monotonic() - started:.0f} s")


def main() -> None:
    import argparse

    from train.loop.config import add_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, PackConfig)
    pack(from_arguments(PackConfig, parser.parse_args()))


if __name__ == "__main__":
    run_command(main)
