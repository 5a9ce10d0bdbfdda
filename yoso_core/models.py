"""The models that the studio knows, as data, and the one way to load any of them."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from yoso_core.lora import Lora, LoraStack, admit, read_prior
from yoso_core.requests import DEFAULT_MODEL, RequestError
from yoso_core.schedule import PREDICTIONS, NoiseSchedule, Prediction

MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"
CONVERTED_FOLDER = MODELS_FOLDER / "converted"  # git-ignored; where `python -m yoso_core convert-lora` puts its files


class ModelError(RequestError):
    """A model that can't be loaded, and what to do about it."""


@dataclass(frozen=True)
class Source:
    """A folder on this machine, or a hub repository pinned to a commit.

    Attributes:
        place: a path, or a hub id "owner/name".
        revision: 40 hex digits; None for a folder.
    """

    place: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.revision is None


@dataclass(frozen=True)
class ModelSpec:
    """Everything that tells one checkpoint from another.

    Attributes:
        title: what people read in the picker.
        source: where the diffusers folder is.
        licence: SPDX-like name of the licence of the weights.
        resolution: side of its pictures in pixels.
        lora: safetensors file of the one-step LoRA; None where the network itself is one-step.
        fetch_lora: what to do when that file is missing.
        tiny_decoder: an AutoencoderTiny for the same latents, many times faster; None to use the model's own.
        variant: the file variant to fetch from a hub, such as "fp16".
        dtype: "float32" or "bfloat16"; what the networks compute in on this kind of model.
        styles: words that the prompt understands as style chips.
        sizes: sides in pixels that it draws well.
    """

    title: str
    source: Source
    licence: str
    resolution: int
    lora: Path | None = None
    fetch_lora: str = ""
    tiny_decoder: Source | None = None
    variant: str | None = None
    dtype: str = "bfloat16"
    styles: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (384, 512, 640, 768)


HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
TRAINED_HERE = "yoso_config.json"  # the settings of the run that a folder came out of
SD15_CONTEXT = 768  # width of the prompt's encoding, which tells the Stable Diffusion 1 family
TAESD = Source("madebyollin/taesd", "614f76814bbe30edbe2e627ace1c2234c81a2c0e")

MODELS: dict[str, ModelSpec] = {
    DEFAULT_MODEL: ModelSpec(
        title="YOSO Emoji (bundled)",
        source=Source(str(MODELS_FOLDER / "yoso-emoji")),
        licence="apache-2.0",
        resolution=64,
        lora=MODELS_FOLDER / "yoso-emoji" / "yoso_lora.safetensors",
        dtype="float32",
        styles=("3d", "flat", "noto", "twemoji"),
        sizes=(64,),
    ),
    "sd15-yoso": ModelSpec(
        title="Stable Diffusion 1.5 + YOSO",
        source=Source("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
        licence="creativeml-openrail-m",
        resolution=512,
        lora=CONVERTED_FOLDER / "yoso_sd1.5_lora.safetensors",
        fetch_lora=(
            "download the file of the hub repository Luo-Yihong/yoso_sd1.5_lora and run "
            "python -m yoso_core convert-lora FILE models/converted/yoso_sd1.5_lora.safetensors"
        ),
        tiny_decoder=TAESD,
        variant="fp16",
    ),
    "sd-turbo": ModelSpec(
        title="SD-Turbo",
        source=Source("stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2"),
        licence="sai-nc-community",
        resolution=512,
        tiny_decoder=TAESD,
        variant="fp16",
    ),
}


def find_model(name: str) -> ModelSpec:
    """The spec of a known model, a diffusers folder on this machine, or ``OWNER/NAME@COMMIT`` on a hub.

    Raises:
        ModelError: none of these; a hub model without its commit, which could change from one day to the next.
    """
    if name in MODELS:
        return MODELS[name]
    if Path(name).expanduser().is_dir():
        return local_model(name)
    if HUB_MODEL.fullmatch(name):
        place, revision = name.split("@")
        return replace(local_model(place), title=place, source=Source(place, revision))
    hint = " with its commit, OWNER/NAME@ and 40 hex digits," if re.fullmatch(r"[\w.-]+/[\w.-]+(@.*)?", name) else ""
    raise ModelError(f"There is no model {name!r:.80}: name a folder, a hub model{hint} or one of {', '.join(MODELS)}.")


def local_model(folder: str) -> ModelSpec:
    """A spec for a diffusers folder on this machine, such as a fine-tune of Stable Diffusion 1.5.

    Args:
        folder: holds ``model_index.json``; a ``yoso_lora.safetensors`` in it is its one-step LoRA, a ``tiny_decoder``
            folder its fast decoder. A fine-tune of Stable Diffusion 1.5 without a LoRA takes the published one, unless
            `train` wrote the folder: then its network is what it should be.
    """
    path, like = Path(folder).expanduser(), MODELS["sd15-yoso"]
    lora, tiny = path / "yoso_lora.safetensors", path / "tiny_decoder"
    if not lora.exists():
        like_sd15 = _config(path / "unet").get("cross_attention_dim") == SD15_CONTEXT
        lora = like.lora if like_sd15 and not (path / TRAINED_HERE).exists() else None
    try:  # pixels a side that the networks were made for
        levels = len(_config(path / "vae")["block_out_channels"])
        resolution = int(_config(path / "unet")["sample_size"]) * 2 ** (levels - 1)
    except (KeyError, TypeError):
        resolution = like.resolution
    return replace(
        like,
        title=path.name,
        source=Source(str(path)),
        resolution=resolution,
        sizes=like.sizes if resolution == like.resolution else (resolution,),
        lora=lora,
        tiny_decoder=Source(str(tiny)) if tiny.is_dir() else None,
        variant=None,
    )


def _config(part: Path) -> dict:
    """The config of a part of a diffusers folder; {} where it is broken, which loading will name."""
    try:
        return dict(json.loads((part / "config.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


@dataclass
class LoadedModel:
    """A model in memory. Only the engine changes it, under its lock.

    Attributes:
        unet, text_encoder, tokenizer, autoencoder: the parts of the pipeline.
        decoder: what turns latents into pictures; the autoencoder itself or a tiny one.
        scheduler: the pipeline's scheduler, whose config the schedule comes from.
        schedule: noise schedule.
        prediction: what the UNet returns.
        prior_mean, prior_deviation: (C,) moments of clean scaled latents, for the informative prior.
        loras: the networks' weights and what is added to them.
        one_step: the model's own LoRA; empty where the network itself is one-step.
    """

    spec: ModelSpec
    unet: nn.Module
    text_encoder: nn.Module
    tokenizer: object
    autoencoder: nn.Module
    decoder: nn.Module
    scheduler: object
    schedule: NoiseSchedule
    prediction: Prediction
    prior_mean: Tensor
    prior_deviation: Tensor
    loras: LoraStack
    one_step: Lora

    @property
    def pixels_per_latent(self) -> int:
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)


def load_model(
    spec: ModelSpec,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> LoadedModel:
    """Load a checkpoint: parts by diffusers, LoRA by our own admission.

    Args:
        spec: what to load.
        device: where it computes.
        dtype: what it computes in; None for the spec's own.
        report: told in a few words what is happening.

    Raises:
        ModelError: a sentence that says what is missing or broken.
    """
    from diffusers import StableDiffusionPipeline  # seconds to import, so not at import time

    dtype = dtype or getattr(torch, spec.dtype)
    if spec.lora is not None and not spec.lora.exists():
        hint = f": {spec.fetch_lora}." if spec.fetch_lora else f": {spec.lora} is missing."
        raise ModelError(f"{spec.title} needs its one-step LoRA{hint}")
    report(f"Loading {spec.title}")
    pipeline = _from_pretrained(
        StableDiffusionPipeline,
        spec,
        spec.source,
        dtype=dtype,
        variant=spec.variant,
        safety_checker=None,
        requires_safety_checker=False,
    )
    prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ModelError(f"{spec.title} predicts {prediction!r}, which is unknown; known: {', '.join(PREDICTIONS)}.")
    schedule = _schedule(spec, pipeline.scheduler.config)
    if prediction == "epsilon" and schedule.alpha[-1] == 0:
        raise ModelError(
            f"{spec.title} predicts noise from pure noise, which says nothing; its scheduler config is wrong."
        )
    decoder = pipeline.vae
    if spec.tiny_decoder is not None:
        from diffusers import AutoencoderTiny

        report(f"Loading the fast decoder of {spec.title}")
        decoder = _from_pretrained(AutoencoderTiny, spec, spec.tiny_decoder, dtype=dtype)
    if None in (pipeline.unet, pipeline.text_encoder, pipeline.vae, pipeline.tokenizer):
        raise ModelError(f"The folder {spec.source.place} is not a whole diffusers model (a part is missing).")
    for network in (pipeline.unet, pipeline.text_encoder, pipeline.vae, decoder):
        network.requires_grad_(False).eval().to(device)
    for network in (pipeline.unet, pipeline.vae, decoder):
        network.to(memory_format=torch.channels_last)
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    mean, deviation = _prior(spec, pipeline.vae.config)
    return LoadedModel(
        spec=spec,
        unet=pipeline.unet,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        autoencoder=pipeline.vae,
        decoder=decoder,
        scheduler=pipeline.scheduler,
        schedule=schedule,
        prediction=prediction,
        prior_mean=mean,
        prior_deviation=deviation,
        loras=LoraStack(parts),
        one_step=admit(spec.lora, parts) if spec.lora is not None else {},
    )


def _prior(spec: ModelSpec, autoencoder) -> tuple[Tensor, Tensor]:
    """Mean and deviation (C,) of scaled latents: as the one-step LoRA was trained with, or as the autoencoder's config
    says, or those of the standard normal distribution.
    """
    if spec.lora is not None and (prior := read_prior(spec.lora)) and len(prior[0]) == autoencoder.latent_channels:
        return prior
    scale, channels = autoencoder.scaling_factor, autoencoder.latent_channels
    mean = torch.tensor(autoencoder.get("latents_mean") or [0.0] * channels) * scale
    return mean, torch.tensor(autoencoder.get("latents_std") or [1 / scale] * channels) * scale


def _schedule(spec: ModelSpec, config) -> NoiseSchedule:
    try:
        return NoiseSchedule.from_config(config)
    except ValueError as error:
        raise ModelError(f"{spec.title} can't be used: {error}.") from None


def _from_pretrained(kind: type, spec: ModelSpec, source: Source, **options):
    """diffusers' from_pretrained: safetensors only, no remote code, and errors in one sentence."""
    if source.is_folder and not os.path.isdir(source.place):
        raise ModelError(f"{spec.title} is not at {source.place}; please check the folder's path.")
    try:
        return kind.from_pretrained(
            source.place,
            revision=source.revision,
            use_safetensors=True,
            low_cpu_mem_usage=True,
            local_files_only=source.is_folder,
            **options,
        )
    except MemoryError:
        raise
    except Exception as error:  # diffusers, transformers, safetensors and the hub raise a dozen unrelated types
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if source.is_folder:
            raise ModelError(f"The folder {source.place} is not a whole diffusers model ({cause}).") from error
        raise ModelError(
            f"{source.place} is not on this machine and the model hub can't be reached ({cause}); connect once to "
            "download it, add a local folder with --add-model, or go on with the bundled model."
        ) from error
