"""The models that the studio knows, as data, and the one way to load any of them."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from yoso_core import hub
from yoso_core.files import cards
from yoso_core.hub import LICENCE_CHARACTERS, LORA_FILE
from yoso_core.lora.admission import admit
from yoso_core.lora.changes import Lora
from yoso_core.lora.reading import one_line, read_prior
from yoso_core.lora.stack import LoraStack
from yoso_core.requests import DEFAULT_MODEL, RequestError
from yoso_core.schedule import PREDICTIONS, NoiseSchedule, Prediction
from yoso_core.words import NOTHING, Words, read_words

MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"
CONVERTED_FOLDER = MODELS_FOLDER / "converted"  # git-ignored; where `python -m yoso_core convert-lora` puts its files


class ModelError(RequestError):
    """A model that can't be loaded, and what to do about it."""


NEWEST = ""  # in place of a commit that is not known where this was written


@dataclass(frozen=True)
class Source:
    """A folder on this machine, or a hub repository pinned to a commit.

    Attributes:
        place: a path, or a hub id "owner/name".
        revision: 40 hex digits; `NEWEST` for the commit that is found at the first fetch and recorded; None for a
            folder.
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
        lora_source: the repository of a hub that it is made of where it is missing; None where it can't be had.
        lora_file: of that repository, where it has several.
        tiny_decoder: an AutoencoderTiny for the same latents, many times faster; None to use the model's own.
        variant: the file variant to fetch from a hub, such as "fp16".
        dtype: "float32" or "bfloat16"; what the networks compute in on this kind of model.
        sizes: sides in pixels of squares that it draws well; other shapes have as many pixels.
        aspect: how many times as long as short what it draws from words may be.
        family: whose LoRAs and ControlNets fit it: "sd15", "sd2", "yoso-emoji"; "" where none is known to.
        about: what it is good for, in a sentence.
        work: of a picture of its own size in one step, in 10^12 floating-point operations; 0 where nobody counted.
    """

    title: str
    source: Source
    licence: str
    resolution: int
    lora: Path | None = None
    lora_source: Source | None = None
    lora_file: str = ""
    tiny_decoder: Source | None = None
    variant: str | None = None
    dtype: str = "bfloat16"
    sizes: tuple[int, ...] = (384, 512, 640, 768)
    aspect: float = 2.0
    family: str = "sd15"
    about: str = ""
    work: float = 0.0

    @cached_property
    def words(self) -> Words:
        """What its folder says of the words that it knows; of a model of a hub nothing is known."""
        return read_words(Path(self.source.place)) if self.source.is_folder else NOTHING

    @property
    def styles(self) -> tuple[str, ...]:
        """Words that the prompt understands as style chips."""
        return tuple(self.words.styles)


SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
TRAINED_HERE = "yoso_config.json"  # the settings of the run that a folder came out of
TOLD_EVERY = 5.0  # seconds
LARGEST_SIDE = 2048  # pixels; no network of the family was trained on more
FAMILIES = {192: "yoso-emoji", 768: "sd15", 1024: "sd2"}  # by the width of the prompt's encoding
TAESD = Source("madebyollin/taesd", "614f76814bbe30edbe2e627ace1c2234c81a2c0e")

MODELS: dict[str, ModelSpec] = {
    DEFAULT_MODEL: ModelSpec(
        title="YOSO Emoji (bundled)",
        source=Source(str(MODELS_FOLDER / "yoso-emoji")),
        licence="apache-2.0",
        resolution=64,
        lora=MODELS_FOLDER / "yoso-emoji" / "yoso_lora.safetensors",
        dtype="float32",
        sizes=(64,),
        aspect=1,
        family="yoso-emoji",
        about="Emoji in five styles, at once, on any machine.",
    ),
    "sd15-yoso": ModelSpec(
        title="Stable Diffusion 1.5 + YOSO",
        source=Source("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
        licence="creativeml-openrail-m",
        resolution=512,
        lora=CONVERTED_FOLDER / "yoso_sd1.5_lora.safetensors",
        lora_source=Source("Luo-Yihong/yoso_sd1.5_lora", NEWEST),
        tiny_decoder=TAESD,
        variant="fp16",
        about="Photographs and art, with the largest choice of LoRAs and ControlNets.",
        work=0.94,
    ),
    "sd-turbo": ModelSpec(
        title="SD-Turbo",
        source=Source("stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2"),
        licence="sai-nc-community",
        resolution=512,
        tiny_decoder=TAESD,
        variant="fp16",
        family="sd2",
        about="Photographs at a glance; the translators of sketches and streets work on it.",
        work=0.95,
    ),
}


def find_model(name: str) -> ModelSpec:
    """The spec of a known model, a diffusers folder on this machine, or ``OWNER/NAME@COMMIT`` on a hub.

    Raises:
        ModelError: none of these; a hub model without its commit, which could change from one day to the next.
    """
    if name in MODELS:
        return MODELS[name]
    with suppress(OSError, RuntimeError, ValueError):  # names that no path can have
        if Path(name).expanduser().is_dir():
            return local_model(name)
    if HUB_MODEL.fullmatch(name):
        place, revision = name.split("@")
        return replace(local_model(place), title=place, source=Source(place, revision))
    hint = " with its commit, OWNER/NAME@ and 40 hex digits," if re.fullmatch(r"[\w.-]+/[\w.-]+(@.*)?", name) else ""
    raise ModelError(f"There is no model {name!r:.80}: name a folder, a hub model{hint} or one of {', '.join(MODELS)}.")


def with_weights(spec: ModelSpec, weights: str) -> ModelSpec:
    """A model with one-step weights of choice.

    Args:
        spec: the model.
        weights: "own", "none", a LoRA file, or a folder with one as `train` hands it over.

    Raises:
        ModelError: there is no such file.
    """
    if weights == "own":
        return spec
    if weights == "none":
        return replace(spec, lora=None, lora_source=None)
    path = Path(weights).expanduser()
    path = path / LORA_FILE if path.is_dir() else path
    if not path.is_file():
        raise ModelError(f"There is no LoRA file {path}: name one, the output folder of a run, own or none.")
    return replace(spec, lora=path, lora_source=None)


def local_model(folder: str) -> ModelSpec:
    """A spec for a diffusers folder on this machine, such as a fine-tune of Stable Diffusion 1.5.

    Args:
        folder: holds ``model_index.json``; a ``yoso_lora.safetensors`` in it is its one-step LoRA, a ``tiny_decoder``
            folder its fast decoder. A fine-tune of Stable Diffusion 1.5 without a LoRA takes the published one, unless
            `train` wrote the folder: then its network is what it should be.
    """
    path, like = Path(folder).expanduser(), MODELS["sd15-yoso"]
    lora, tiny = path / "yoso_lora.safetensors", path / "tiny_decoder"
    family = FAMILIES.get(_config(path / "unet").get("cross_attention_dim"), "")
    if not lora.exists():
        lora = like.lora if family == "sd15" and not (path / TRAINED_HERE).exists() else None
    try:  # pixels a side that the networks were made for
        levels, side = len(_config(path / "vae")["block_out_channels"]), _config(path / "unet")["sample_size"]
        resolution = int(min(side) if isinstance(side, list) else side) * 2 ** (levels - 1)
    except (KeyError, TypeError, ValueError, OverflowError):
        resolution = like.resolution
    if not 1 <= resolution <= LARGEST_SIDE:
        raise ModelError(f"The networks of {path} are for pictures of {resolution} pixels; its config is broken.")
    return replace(
        like,
        title=path.name,
        source=Source(str(path)),
        licence=_licence(path) or (like.licence if family == "sd15" else "unknown"),
        resolution=resolution,
        sizes=like.sizes if resolution == like.resolution else (resolution,),
        lora=lora,
        lora_source=like.lora_source if lora == like.lora else None,
        tiny_decoder=Source(str(tiny)) if tiny.is_dir() else None,
        variant=None,
        family=family,
        about="",
    )


def _config(part: Path) -> dict:
    """The config of a part of a diffusers folder; {} where it is broken, which loading will name."""
    try:
        return dict(json.loads((part / "config.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _licence(folder: Path) -> str:
    """As the folder's card says it; "" where it does not."""
    fields, _ = cards.read_card(folder / "README.md")
    stated = [fields.get(name) for name in ("license_name", "license")]
    said = (one_line(one) for one in stated if isinstance(one, str))
    return next((one[:LICENCE_CHARACTERS] for one in said if one.lower() not in cards.NOTHING), "")


def local_source(title: str, source: Source, variant: str | None = None) -> Source:
    """A source on this machine, or where on this machine a hub's is.

    Raises:
        ModelError: it has not been fetched.
    """
    if source.is_folder:
        return source
    folder = hub.find(hub.Need(title, source.place, source.revision, variant))
    if folder is None:
        raise ModelError(f"{title} is not on this machine, or not all of it; fetch {source.place} from the hub first.")
    return Source(str(folder))


def parts_of(spec: ModelSpec) -> list[hub.Need]:
    """What a model is made of that a hub has, be it on this machine or not."""
    wanted = [(spec.title, spec.source, spec.variant)]
    if spec.tiny_decoder is not None:
        wanted.append((f"The fast decoder of {spec.title}", spec.tiny_decoder, None))
    parts = needed(wanted)
    if spec.lora is not None and spec.lora_source is not None:
        title, made = f"The one-step LoRA of {spec.title}", {"convert": "lora", "out": spec.lora}
        parts.append(hub.Need(title, spec.lora_source.place, spec.lora_source.revision, file=spec.lora_file, **made))
    return parts


def needs_of(spec: ModelSpec) -> list[hub.Need]:
    """What a model needs of a hub that is not on this machine.

    Raises:
        ModelError: its LoRA has to be brought by hand first, so there is no use in fetching the rest.
    """
    if spec.lora_source is None:
        refuse_missing_lora(spec)
    return [need for need in parts_of(spec) if hub.find(need) is None]


def needed(wanted: Iterable[tuple[str, Source, str | None]]) -> list[hub.Need]:
    """What a hub has of titles with their sources and variants."""
    return [hub.Need(title, one.place, one.revision, variant) for title, one, variant in wanted if not one.is_folder]


def missing(wanted: Iterable[tuple[str, Source, str | None]]) -> list[hub.Need]:
    """What of that is not on this machine."""
    return [need for need in needed(wanted) if hub.find(need) is None]


def refuse_missing_lora(spec: ModelSpec) -> None:
    if spec.lora is not None and not spec.lora.exists():
        raise ModelError(f"{spec.title} needs its one-step LoRA: {spec.lora} is missing.")


def fetch_model(spec: ModelSpec, report: Callable[[str], None] = lambda message: None) -> None:
    """Bring what a model needs of a hub to this machine.

    Raises:
        HubError, ModelError: it can't be had.
    """
    for need in needs_of(spec):
        fetch_need(need, report)


def fetch_need(need: hub.Need, report: Callable[[str], None]) -> None:
    """Bring one thing to this machine, and tell now and then how far it is."""
    told, progress = -TOLD_EVERY, hub.Progress()
    for progress in hub.fetch(need):
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            report(f"Fetching {need.title}: {progress}")
    report(f"Fetched {need.title}: {progress}")


def parameter_shapes(source: Source, variant: str | None) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of what LoRAs may change in a model, by part, read off its files; {} where it is not here."""
    try:
        folder = Path(local_source("The model", source, variant).place).expanduser()
    except ModelError:
        return {}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for path in sorted((folder / part).glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    own = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError):  # loading names it
                return {}
            shapes.setdefault(part, {}).update(own)
    return shapes if "unet" in shapes else {}


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
    """Load a checkpoint that is on this machine: parts by diffusers, LoRA by our own admission.

    Args:
        spec: what to load.
        device: where it computes.
        dtype: what it computes in; None for the spec's own.
        report: told in a few words what is happening.

    Raises:
        ModelError: a sentence that says what is missing or broken.
    """
    from diffusers import StableDiffusionPipeline  # seconds to import, so not at import time
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTextModel
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # `report` says it in a line
    dtype = dtype or getattr(torch, spec.dtype)
    refuse_missing_lora(spec)
    report(f"Loading {spec.title}")
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    place = local_source(spec.title, spec.source, spec.variant).place
    refuse_other_files(spec.title, Path(place))
    # By itself, because only so transformers tells which weights the files lack; it makes those up.
    text_encoder, told = load_part(
        CLIPTextModel.from_pretrained,
        spec.title,
        Source(place),
        subfolder="text_encoder",
        dtype=dtype,
        variant=spec.variant,
        output_loading_info=True,
    )
    if missing := sorted(told["missing_keys"]):
        raise ModelError(f"The text encoder of {spec.title} lacks the weights {missing[0]}; its files are incomplete.")
    pipeline = load_part(
        StableDiffusionPipeline.from_pretrained,
        spec.title,
        Source(place),
        text_encoder=text_encoder,
        dtype=dtype,
        variant=spec.variant,
        low_cpu_mem_usage=True,
        **unchecked,
    )
    _refuse_other_families(spec, pipeline)
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
        source = local_source(f"The fast decoder of {spec.title}", spec.tiny_decoder)
        decoder = load_part(AutoencoderTiny.from_pretrained, spec.title, source, dtype=dtype)
    for network in (pipeline.unet, pipeline.text_encoder, pipeline.vae, decoder):
        network.requires_grad_(False).eval().to(device)
    for network in (pipeline.unet, pipeline.vae, decoder):
        network.to(memory_format=torch.channels_last)
    networks = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "vae": pipeline.vae}
    stack = LoraStack(networks)
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
        loras=stack,
        one_step=admit(spec.lora, stack.for_requests) if spec.lora is not None else Lora(),
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


def refuse_other_files(title: str, folder: Path) -> None:
    """The lists of sharded weights may name any file; only safetensors beside them are read.

    Raises:
        ModelError: one names something else.
    """
    for index in folder.rglob("*.safetensors.index*.json"):
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            names = {"nothing that can be read"}
        if odd := [name for name in names if not SHARD.fullmatch(str(name))]:
            raise ModelError(f"{title} lists weights in {odd[0]!r:.60}; only safetensors files are read.")


def refuse_missing_weights(title: str, network: nn.Module) -> None:
    """What diffusers found no weights for is left on the "meta" device.

    Raises:
        ModelError: there is such a weight.
    """
    if lacking := [key for key, value in network.state_dict().items() if value.is_meta]:
        raise ModelError(f"{title} lacks the weights {lacking[0]}; its files are incomplete.")


def _refuse_other_families(spec: ModelSpec, pipeline) -> None:
    """The parts must be there, whole, fit each other, and be of the Stable Diffusion family.

    Raises:
        ModelError: they are not; one sentence says how.
    """
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
    if absent := [name for name, part in parts.items() if part is None]:
        raise ModelError(f"The folder {spec.source.place} is not a whole diffusers model ({absent[0]} is missing).")
    for name in ("unet", "vae"):
        refuse_missing_weights(f"The {name} of {spec.title}", parts[name])
    unet, channels = pipeline.unet.config, pipeline.vae.config.latent_channels
    extra = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim")
    wanting = [name for name in extra if unet.get(name) is not None]
    width, read = pipeline.text_encoder.config.hidden_size, unet.get("cross_attention_dim")
    limit = pipeline.text_encoder.config.max_position_embeddings
    if wanting:
        reason = f"its network wants more than a prompt ({wanting[0]})"
    elif not unet.get("in_channels") == unet.get("out_channels") == channels:
        takes, gives = unet.get("in_channels"), unet.get("out_channels")
        reason = f"latents have {channels} channels, its network takes {takes} and gives {gives}"
    elif read != width:
        reason = f"its network reads prompts of width {read}, its text encoder writes {width}"
    elif not 2 <= pipeline.tokenizer.model_max_length <= limit:
        reason = f"its text encoder takes {limit} tokens, its tokenizer gives {pipeline.tokenizer.model_max_length:.3g}"
    elif not {"beta_schedule", "trained_betas"} & set(pipeline.scheduler.config):
        reason = f"its scheduler, {type(pipeline.scheduler).__name__}, has no betas"
    elif not pipeline.vae.config.scaling_factor:
        reason = "its autoencoder has no scaling factor"
    else:
        return
    raise ModelError(f"{spec.title} is not a Stable Diffusion model that can be used here: {reason}.")


def load_part(call: Callable, title: str, source: Source, **options):
    """What a `from_pretrained` returns of a folder: safetensors only, no remote code, and errors in one sentence."""
    if not os.path.isdir(source.place):
        raise ModelError(f"{title} is not at {source.place}; please check the folder's path.")
    try:
        return call(source.place, use_safetensors=True, local_files_only=True, **options)
    except MemoryError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors raise a dozen unrelated types
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ModelError(f"The folder {source.place} is not a whole diffusers model ({cause}).") from error
