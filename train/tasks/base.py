"""What a run starts from: a text-to-image model, its data, and the part of it that is trained."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn

from train.data.latents import (
    CaptionedLatents,
    GeneratedLatents,
    digest_of,
    encode_folder,
    encode_texts,
    grid,
    weights_fingerprint,
)
from train.data.listings import read_captions
from train.loop.config import ConfigError, RunConfig, setting
from train.loop.randomness import Use, generator_for
from yoso_core.autoencoder import decode
from yoso_core.denoiser import Denoiser
from yoso_core.hub import HubError
from yoso_core.lora.admission import RANK_LIMIT, SCALE_LIMIT
from yoso_core.models import LoadedModel, ModelError, fetch_model, find_model, load_model
from yoso_core.sampling import one_step, prior_start

ADAPTERS = ("lora", "full")
LORA_STARTS = ("gaussian", "kaiming")
PREVIEWS = 16  # pictures in a preview grid where no prompts are given
FEW_TOKENS = 256  # up to here plain attention is faster to train than the fused one

# Attention projections, feed-forward, resnet convolutions, shortcuts, samplers and time-embedding projections.
LORA_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
]


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
    if (model.unet.config.sample_size or 64) ** 2 <= FEW_TOKENS:
        model.unet.set_attn_processor(AttnProcessor())  # its backward is faster there; on many it takes memory
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
        size = base.spec.resolution
        return encode_folder(Path(config.data), size, base.autoencoder, base.tokenizer, base.text_encoder)
    if not config.maker:
        raise ConfigError("captions need a maker: the one-step model that makes latents of them")
    device = base.unet.device
    maker = _load(config.maker, device, one_step=True)
    if maker.autoencoder.config.latent_channels != base.autoencoder.config.latent_channels:
        raise ConfigError(
            f"{config.maker} and {config.model} have different latents; choose a maker of the same family"
        )
    denoise = Denoiser(maker.unet, maker.schedule, maker.prediction)
    phrases = read_captions(Path(config.captions))
    read = encode_texts(phrases, maker.tokenizer, maker.text_encoder)
    same = maker.spec.source == base.spec.source
    contexts = read if same else encode_texts(phrases, base.tokenizer, base.text_encoder)

    def sample(noise: Tensor, context: Tensor) -> Tensor:
        start = prior_start(maker.schedule, noise, maker.prior_mean, maker.prior_deviation)
        return one_step(denoise, start, context, maker.schedule.last)

    return GeneratedLatents(
        sample,
        shape=(base.unet.config.in_channels, *[base.spec.resolution // base.pixels_per_latent] * 2),
        maker_contexts=read,
        contexts=contexts.bfloat16(),
        empty=encode_texts([""], base.tokenizer, base.text_encoder),
        device=device,
        digest=digest_of([*phrases, weights_fingerprint(maker.unet, maker.text_encoder, base.text_encoder)]),
    )


def trainable(unet: UNet2DConditionModel, config: ModelRunConfig) -> UNet2DConditionModel:
    """A copy of the network of which the right part requires gradients: a fresh LoRA, or everything."""
    network = copy.deepcopy(unet).to(memory_format=torch.channels_last).train()
    if config.adapter == "full":
        network.requires_grad_(True)
    else:
        add_lora(network, config.rank, config.alpha, config.lora_start)
    if config.checkpointing:
        network.enable_gradient_checkpointing()
    return network


def add_lora(unet: UNet2DConditionModel, rank: int, alpha: int, start: str = "gaussian") -> None:
    """Freeze the network and put a trainable LoRA on everything that YOSO's has it on."""
    unet.requires_grad_(False)
    unet.add_adapter(lora_config(rank, alpha, LORA_TARGETS, start))


def lora_config(rank: int, alpha: int, targets: list[str], start: str) -> LoraConfig:
    """Of a fresh LoRA, which changes nothing; `start` is one of `LORA_STARTS`."""
    first = {"gaussian": "gaussian", "kaiming": True}[start]  # as peft calls them
    return LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights=first, target_modules=targets)


class Previewer:
    """Draws preview prompts from fixed seeds with whatever sampler it is given.

    Args:
        autoencoder: decodes.
        contexts: (N, L, D), the encoded prompts.
        empty: (1, L, D), the encoded empty prompt.
        shape: (C, h, w) of a latent.
        seeds: prompt i starts from the noise of seed ``i % seeds``.
    """

    def __init__(
        self, autoencoder: nn.Module, contexts: Tensor, empty: Tensor, shape: tuple[int, ...], seeds: int = 8
    ) -> None:
        self.autoencoder = autoencoder
        self.device = next(autoencoder.parameters()).device
        self.contexts, self.empty = contexts.float().to(self.device), empty.to(self.device)
        noise = [
            torch.randn(shape, generator=generator_for(0, Use.PREVIEW, index % seeds)) for index in range(len(contexts))
        ]
        self.noise = torch.stack(noise).to(self.device)

    @torch.no_grad()
    def __call__(self, sample: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Image.Image:
        """`sample(noise, context, empty)` -> clean latents (B, C, h, w), scaled."""
        noise = self.noise.contiguous(memory_format=torch.channels_last)
        found = []
        for start in range(0, len(noise), 8):
            part = slice(start, start + 8)
            found.append(decode(self.autoencoder, sample(noise[part], self.contexts[part], self.empty)).cpu())
        return grid(torch.cat(found), 8)


def previewer(config: ModelRunConfig, base: LoadedModel, data: CaptionedLatents | GeneratedLatents) -> Previewer:
    """The previewer of a run: its own prompts, or phrasings spread over the data."""
    if config.preview_prompts:
        contexts = encode_texts(list(config.preview_prompts), base.tokenizer, base.text_encoder)
    else:
        count = min(PREVIEWS, len(data.contexts))
        contexts = data.contexts[torch.arange(count) * len(data.contexts) // count]
    return Previewer(base.decoder, contexts, data.empty, data.shape)
