"""What a run starts from: a text-to-image model, its data, and the part of it that is trained."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from torch import Tensor, nn

from train.data.latents import (
    CaptionedLatents,
    GeneratedLatents,
    digest_of,
    encode_folder,
    grid,
    weights_fingerprint,
)
from train.data.listings import read_captions
from train.loop.config import ConfigError, RunConfig, setting
from train.loop.ema import copied
from train.loop.randomness import Use, generator_for
from yoso_core.autoencoder import decode
from yoso_core.cached import HubError
from yoso_core.checkpoints import ModelError
from yoso_core.condition import Condition
from yoso_core.loading import LoadedModel, load_model
from yoso_core.lora.admission import RANK_LIMIT, SCALE_LIMIT
from yoso_core.models import find_model
from yoso_core.needs import fetch_model
from yoso_core.sampling import one_step, prior_start

ADAPTERS = ("lora", "full")
LORA_STARTS = ("gaussian", "kaiming")
PREVIEWS = 16  # pictures in a preview grid where no prompts are given
FEW_TOKENS = 256  # up to here plain attention is faster to train than the fused one


@dataclass(frozen=True)
class ModelRunConfig(RunConfig):
    """A run that trains the network of a text-to-image model."""

    model: str = setting(
        "yoso-emoji",
        "what is trained: a known model, a diffusers folder, or OWNER/NAME@COMMIT of a hub",
        on_resume=True,
    )
    data: str = setting("", "folder of captioned pictures", on_resume=True)
    captions: str = setting(
        "", "text file of captions, one a line; their latents are made on the fly by `maker`", on_resume=True
    )
    maker: str = setting("", "one-step model with the same autoencoder that makes latents of captions", on_resume=True)
    adapter: str = setting("lora", "train a LoRA, or the full network", ADAPTERS)
    rank: int = setting(64, "rank of the LoRA")
    alpha: int = setting(8, "alpha of the LoRA: its change is scaled by alpha / rank")
    lora_start: str = setting(
        "gaussian",
        "first weights of the LoRA: gaussian, N(0, 1 / rank), or kaiming, as published",
        LORA_STARTS,
    )
    title: str = setting("", "name of what is learned, for its card", on_resume=True)
    trigger: str = setting("", "words in a prompt that call what is learned, for its card", on_resume=True)
    preview_prompts: tuple[str, ...] = setting(
        (), "prompts of the preview pictures; none: captions of the data", on_resume=True
    )
    checkpointing: bool = setting(
        False, "compute the network's activations twice instead of keeping them, to save memory", on_resume=True
    )

    @property
    def takes(self) -> str:
        """The setting that a folder of captioned pictures goes into."""
        return "data"

    @property
    def words(self) -> tuple[str, ...]:
        """Words by which captions tell kinds of pictures apart, where the run wants that."""
        return ()

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.data,) if self.data else ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "rank", "alpha")
        self._at_most(RANK_LIMIT, "rank")  # what is read back
        self._at_most(SCALE_LIMIT, "alpha")


def load_base(config: ModelRunConfig, device: torch.device, one_step: bool = False) -> LoadedModel:
    """The model that is trained, in float32, with or without its one-step LoRA in the weights.

    Raises:
        ConfigError: it can't be found or is of a family that can't be trained.
    """
    return _load(config.model, device, one_step)


def _load(name: str, device: torch.device, one_step: bool) -> LoadedModel:
    try:
        spec = find_model(name)
        spec = spec if one_step else replace(spec, lora=None)
        with PartialState().local_main_process_first():  # the others find it there
            fetch_model(spec, lambda message: print(message, flush=True))
        model = load_model(spec, device, torch.float32)
    except (ModelError, HubError) as error:
        raise ConfigError(str(error)) from error
    model.loras.apply([(model.one_step, 1.0)])
    if (model.network.config.sample_size or 64) ** 2 <= FEW_TOKENS:
        model.network.set_attn_processor(AttnProcessor())  # its backward is faster there; on many it takes memory
    return model


def load_data(config: ModelRunConfig, base: LoadedModel) -> CaptionedLatents | GeneratedLatents:
    """The training data as latents of `base`: of pictures, or of captions alone.

    Raises:
        ConfigError: none or two sources are named, or nothing in them is usable.
    """
    if bool(config.data) == bool(config.captions):
        raise ConfigError("name the training data: either data, a folder of pictures, or captions, a text file")
    if config.maker and not config.captions:
        raise ConfigError("a maker makes latents of captions; name a text file of captions, or leave maker out")
    if config.data:
        return encode_folder(Path(config.data), base.spec.resolution, base)
    if not config.maker:
        raise ConfigError("captions need a maker: the one-step model that makes latents of them")
    device = base.device
    maker = _load(config.maker, device, one_step=True)
    if maker.channels != base.channels:
        raise ConfigError(
            f"{config.maker} and {config.model} have different latents; choose a maker of the same family"
        )
    denoise = maker.denoiser()
    phrases = read_captions(Path(config.captions))
    read = maker.encode_texts(phrases)
    same = maker.spec.source == base.spec.source
    conditions = read if same else base.encode_texts(phrases)

    def sample(noise: Tensor, condition: Condition) -> Tensor:
        start = prior_start(maker.schedule, noise, maker.prior_mean, maker.prior_deviation)
        return one_step(denoise, start, condition, maker.schedule.last)

    return GeneratedLatents(
        sample,
        shape=(base.channels, *[base.spec.resolution // base.pixels_per_latent] * 2),
        maker_conditions=read,
        conditions=conditions.to(dtype=torch.bfloat16),
        empty=base.encode_texts([""]),
        device=device,
        digest=digest_of([*phrases, weights_fingerprint(maker.network, *maker.encoders, *base.encoders)]),
    )


def trainable(base: LoadedModel, config: ModelRunConfig) -> nn.Module:
    """A copy of the network of which the right part requires gradients: a fresh LoRA, or everything."""
    if config.adapter == "full":
        network = copy.deepcopy(base.network).requires_grad_(True)
    else:
        network = copied(base.network)
        add_lora(network, base.family.targets, config.rank, config.alpha, config.lora_start)
    if config.checkpointing:
        network.enable_gradient_checkpointing()
    return network.to(memory_format=torch.channels_last).train()


def add_lora(network: nn.Module, targets: Sequence[str], rank: int, alpha: int, start: str = "gaussian") -> None:
    """Freeze the network and put a trainable LoRA on everything that YOSO's has it on."""
    network.requires_grad_(False)
    config = lora_config(rank, alpha, targets, start)
    if hasattr(network, "add_adapter"):
        network.add_adapter(config)
    else:  # diffusers gives some transformers none
        inject_adapter_in_model(config, network)


def lora_config(rank: int, alpha: int, targets: Sequence[str], start: str) -> LoraConfig:
    """Of a fresh LoRA, which changes nothing; `start` is one of `LORA_STARTS`."""
    first = {"gaussian": "gaussian", "kaiming": True}[start]  # as peft calls them
    return LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights=first, target_modules=list(targets))


class Previewer:
    """Draws preview prompts from fixed seeds with whatever sampler it is given.

    Args:
        autoencoder: decodes.
        conditions: N rows, the encoded prompts.
        empty: one row, the encoded empty prompt.
        shape: (C, h, w) of a latent.
        seeds: prompt i starts from the noise of seed ``i % seeds``.
    """

    def __init__(
        self, autoencoder: nn.Module, conditions: Condition, empty: Condition, shape: tuple[int, ...], seeds: int = 8
    ) -> None:
        self.autoencoder = autoencoder
        self.device = next(autoencoder.parameters()).device
        self.conditions, self.empty = conditions.float().to(self.device), empty.to(self.device)
        noise = [
            torch.randn(shape, generator=generator_for(0, Use.PREVIEW, index % seeds))
            for index in range(len(conditions))
        ]
        self.noise = torch.stack(noise).to(self.device)

    @torch.no_grad()
    def __call__(self, sample: Callable[[Tensor, Condition, Condition], Tensor]) -> Image.Image:
        """`sample(noise, condition, empty)` -> clean latents (B, C, h, w), scaled."""
        noise = self.noise.contiguous(memory_format=torch.channels_last)
        found = []
        for start in range(0, len(noise), 8):
            part = slice(start, start + 8)
            made = decode(self.autoencoder, sample(noise[part], self.conditions[part], self.empty))
            found.append(made.float().cpu())
        return grid(torch.cat(found), 8)


def previewer(config: ModelRunConfig, base: LoadedModel, data: CaptionedLatents | GeneratedLatents) -> Previewer:
    """The previewer of a run: its own prompts, or phrasings spread over the data."""
    if config.preview_prompts:
        conditions = base.encode_texts(config.preview_prompts)
    else:
        count = min(PREVIEWS, len(data.conditions))
        conditions = data.conditions[torch.arange(count) * len(data.conditions) // count]
    return Previewer(base.decoder, conditions, data.empty, data.shape)
