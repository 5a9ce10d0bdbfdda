"""The models that the studio knows, as data."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from yoso_core.cached import LORA_FILE, HubError, folder_of
from yoso_core.checkpoints import NEWEST, ModelError, Source
from yoso_core.families import FAMILIES, family_of
from yoso_core.files import cards
from yoso_core.hub import LICENCE_CHARACTERS
from yoso_core.looking import look_at
from yoso_core.lora.reading import one_line
from yoso_core.offers import USUAL, Offer
from yoso_core.requests import CONSISTENCY, DEFAULT_MODEL
from yoso_core.words import NOTHING, Words, read_words

MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"
CONVERTED_FOLDER = MODELS_FOLDER / "converted"  # git-ignored; where `python -m yoso_core convert-lora` puts its files


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
        architecture: a key of `FAMILIES`.
        network: where what predicts is, if not in `source`: a folder of it, or a file; see `Source.inside`. A pickle is
            converted when it is fetched.
        scheduler: settings of the noise schedule and of what is predicted that are others than in `source`.
        timesteps: those that it was made to be evaluated at, by their number; () for those of LCM.
        offer: samplers, steps and guidance that it can be asked for.
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
    architecture: str = "stable-diffusion"
    network: Source | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict, hash=False)
    timesteps: tuple[tuple[int, ...], ...] = ()
    offer: Offer = USUAL
    about: str = ""
    work: float = 0.0

    @property
    def unit(self) -> int:
        """Pixels that the sides of its pictures are multiples of."""
        return FAMILIES[self.architecture].unit

    @cached_property
    def words(self) -> Words:
        """What its folder says of the words that it knows; of a model of a hub nothing is known."""
        return read_words(Path(self.source.place)) if self.source.is_folder else NOTHING

    @property
    def styles(self) -> tuple[str, ...]:
        """Words that the prompt understands as style chips."""
        return tuple(self.words.styles)


HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
TRAINED_HERE = "yoso_config.json"  # the settings of the run that a folder came out of
LARGEST_SIDE = 2048  # pixels; no network of the family was trained on more
TAESD = Source("madebyollin/taesd", "614f76814bbe30edbe2e627ace1c2234c81a2c0e")
TAESDXL = Source("madebyollin/taesdxl", "b20258aaef75ef61e659c1e0f14f251cf0ad153e")
FAST_DECODERS = {"sd15": TAESD, "sd2": TAESD, "pixart": TAESD, "sdxl": TAESDXL}  # by family
LIGHTNING = Source("ByteDance/SDXL-Lightning", "c9a24f48e1c025556787b0c58dd67a091ece2e44")
DMD2 = Source("tianweiy/DMD2", "be22767697a1f3ca656b73c776e15fa335c86c6c")
UNGUIDED = replace(USUAL, guided="never")  # of networks whose teacher was guided when they were distilled from it
EULER = {"timestep_spacing": "trailing"}  # as few-step networks are published with it: the last timestep is the first

SDXL = ModelSpec(
    title="Stable Diffusion XL",
    source=Source("stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"),
    licence="openrail++",
    resolution=1024,
    tiny_decoder=TAESDXL,
    variant="fp16",
    sizes=(768, 1024),
    family="sdxl",
    architecture="sdxl",
    work=7.33,
)

PIXART = ModelSpec(
    title="PixArt-alpha + YOSO",
    source=Source("PixArt-alpha/PixArt-XL-2-512x512", "50f702106901db6d0f8b67eb88e814c56ded2692"),
    network=Source("Luo-Yihong/yoso_pixart512", NEWEST),
    scheduler={"prediction_type": "v_prediction"},
    licence="none stated",
    resolution=512,
    tiny_decoder=TAESD,
    sizes=(512,),
    aspect=4.0,
    family="pixart",
    architecture="pixart",
    about="Long sentences are understood; its reader of prompts takes 19 GB of disk and half of that in memory.",
    work=1.38,
)

SANA = ModelSpec(
    title="SANA-Sprint 0.6B",
    source=Source(
        "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers", "a7d9fc31dd5c3f5e22dbfd78360777ceed56ae97"
    ),
    licence="as its card says; Gemma's terms for its text encoder",
    resolution=1024,
    sizes=(1024,),
    aspect=2.25,
    family="sana-sprint",
    architecture="sana-sprint",
    offer=FAMILIES["sana-sprint"].offer,
    about="A megapixel in one to four steps; reads long prompts.",
)

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
        about="Emoji in four styles, at once, on any machine.",
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
    "sd15-hyper": ModelSpec(
        title="Stable Diffusion 1.5 + Hyper-SD",
        source=Source("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
        licence="creativeml-openrail-m",
        resolution=512,
        lora=CONVERTED_FOLDER / "hyper_sd15_1step_lora.safetensors",
        lora_source=Source("ByteDance/Hyper-SD", "123f4ee05849b8241d5f451b089cb14a1019566d"),
        lora_file="Hyper-SD15-1step-lora.safetensors",
        tiny_decoder=TAESD,
        variant="fp16",
        offer=Offer(("tcd", "ddim", "dpm++"), guided="never"),
        about="The same by another LoRA, made for one to four steps of TCD.",
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
        offer=UNGUIDED,
        about="Photographs at a glance; the translators of sketches and streets work on it.",
        work=0.95,
    ),
    "sdxs-512": ModelSpec(
        title="SDXS-512 DreamShaper",
        source=Source("IDKiro/sdxs-512-dreamshaper", "76f720262bb051da75666b22c902a78c8e16c763"),
        licence="openrail++",
        resolution=512,
        dtype="float32",  # its autoencoder is a tiny one, which rounding shows in
        sizes=(512,),
        aspect=1,
        family="",
        offer=Offer(("tcd",), (1,), guided="never", edits=False),
        about="The smallest of the large ones: the fastest 512 pixels on a machine without a GPU.",
    ),
    "sana-sprint-0.6b": SANA,
    "sana-sprint-1.6b": replace(
        SANA,
        title="SANA-Sprint 1.6B",
        source=Source("Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers", NEWEST),
        about="The larger of the two, for more detail.",
    ),
    "sdxl-turbo": replace(
        SDXL,
        title="SDXL-Turbo",
        source=Source("stabilityai/sdxl-turbo", "71153311d3dbb46851df1931d3ca6e939de83304"),
        licence="sai-nc-community",
        resolution=512,
        sizes=(512,),
        offer=UNGUIDED,
        about="Photographs at a glance with more in them than SD-Turbo; takes the LoRAs of SDXL.",
        work=1.73,
    ),
    "sdxl-lightning-1": replace(
        SDXL,
        title="SDXL-Lightning, one step",
        network=replace(LIGHTNING, inside="sdxl_lightning_1step_unet_x0.safetensors"),
        scheduler=EULER | {"prediction_type": "sample"},
        offer=Offer(samplers=(CONSISTENCY,), steps=(1,), guided="never"),
        about="Large pictures in one step; its makers call it an experiment, two steps are surer.",
    ),
    **{
        f"sdxl-lightning-{steps}": replace(
            SDXL,
            title=f"SDXL-Lightning, {steps} steps",
            network=replace(LIGHTNING, inside=f"sdxl_lightning_{steps}step_unet.safetensors"),
            scheduler=EULER,
            offer=Offer(samplers=("ddim",), steps=(steps,), guided="never", exact=True),
            about="Large pictures in few steps, with the LoRAs and ControlNets of SDXL.",
        )
        for steps in (2, 4, 8)
    },
    "sdxl-dmd2-1": replace(
        SDXL,
        title="SDXL + DMD2, one step",
        licence="cc-by-nc-4.0",
        network=replace(DMD2, inside="dmd2_sdxl_1step_unet_fp16.bin"),
        timesteps=((399,),),
        offer=Offer(samplers=(CONSISTENCY,), steps=(1,), guided="never"),
        about="Large photographs in one step; its network has to be converted, which takes minutes.",
    ),
    "sdxl-dmd2": replace(
        SDXL,
        title="SDXL + DMD2, four steps",
        licence="cc-by-nc-4.0",
        lora=CONVERTED_FOLDER / "dmd2_sdxl_4step_lora_fp16.safetensors",
        lora_source=DMD2,
        lora_file="dmd2_sdxl_4step_lora_fp16.safetensors",
        timesteps=((999, 749, 499, 249),),
        offer=Offer(samplers=(CONSISTENCY,), steps=(4,), guided="never"),
        about="Large photographs in four steps, near the base's own in quality.",
    ),
    "sdxl": replace(
        SDXL,
        offer=Offer(samplers=("dpm++", "ddim"), steps=(20, 30, 50), guidance=5.0),
        about="The base of them all, in many steps: what LoRAs are trained on.",
    ),
    "pixart512-yoso": PIXART,
    "pixart512-yoso-new": replace(
        PIXART,
        title="PixArt-alpha + YOSO, the newer",
        network=Source("Luo-Yihong/yoso_pixart512", NEWEST, inside="new"),
        about="The same by a network that its authors made later and call the better one.",
    ),
    "pixart1024-yoso": replace(
        PIXART,
        title="PixArt-alpha 1024 + YOSO",
        source=Source("PixArt-alpha/PixArt-XL-2-1024-MS", "b89adadeccd9ead2adcb9fa2825d3fabec48d404"),
        network=Source("Luo-Yihong/yoso_pixart1024", NEWEST),
        resolution=1024,
        sizes=(1024,),
        work=7.07,
    ),
}


def find_model(name: str) -> ModelSpec:
    """The spec of a known model, a diffusers folder on this machine, or ``OWNER/NAME@COMMIT`` on a hub.

    Raises:
        ModelError: none of these, or one that can't be drawn with here; a hub model without its commit, which could
            change from one day to the next.
    """
    if name in MODELS:
        return MODELS[name]
    is_folder = False
    with suppress(OSError, RuntimeError, ValueError):  # names that no path can have
        is_folder = Path(name).expanduser().is_dir()
    if is_folder:
        return local_model(name)
    if HUB_MODEL.fullmatch(name):
        place, revision = name.split("@")
        try:
            return hub_model(look_at(place, revision))
        except HubError as error:
            raise ModelError(f"{place} can't be looked at ({error}).") from None
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


def hub_model(told: Mapping[str, str]) -> ModelSpec:
    """A spec for a model of a hub of which the settings are on this machine.

    Args:
        told: of it, as `look_at` returns it.

    Raises:
        ModelError: it can't be drawn with here.
    """
    place, commit = told["place"], told["commit"]
    spec = local_model(str(folder_of(place) / "snapshots" / commit), place)
    decoder, licence = FAST_DECODERS.get(spec.family), told["licence"] or spec.licence
    made = {"variant": told["variant"] or None, "licence": licence, "tiny_decoder": decoder}
    return replace(spec, source=Source(place, commit), **made)


def local_model(folder: str, title: str = "") -> ModelSpec:
    """A spec for a diffusers folder on this machine, such as a fine-tune of Stable Diffusion 1.5.

    Args:
        folder: holds ``model_index.json``; a ``yoso_lora.safetensors`` in it is its one-step LoRA, a ``tiny_decoder``
            folder its fast decoder. A fine-tune of Stable Diffusion 1.5 without a LoRA takes the published one, unless
            `train` wrote the folder: then its network is what it should be.
        title: of it; "" for the folder's name.

    Raises:
        ModelError: it is of no kind that can be drawn with here.
    """
    path, like = Path(folder).expanduser(), MODELS["sd15-yoso"]
    lora, tiny, architecture = path / "yoso_lora.safetensors", path / "tiny_decoder", family_of(path, title)
    told = architecture.outline(path)
    if not lora.exists():
        lora = like.lora if told.kind == "sd15" and not (path / TRAINED_HERE).exists() else None
    resolution = like.resolution if told.resolution is None else told.resolution
    if not 1 <= resolution <= LARGEST_SIDE:
        raise ModelError(f"The networks of {path} are for pictures of {resolution} pixels; its config is broken.")
    return replace(
        like,
        title=title or path.name,
        source=Source(str(path)),
        licence=licence_in(path) or (like.licence if told.kind == "sd15" else "unknown"),
        resolution=resolution,
        sizes=like.sizes if resolution == like.resolution else (resolution,),
        lora=lora,
        lora_source=like.lora_source if lora == like.lora else None,
        tiny_decoder=Source(str(tiny)) if tiny.is_dir() else None,
        variant=None,
        family=told.kind,
        architecture=architecture.name,
        offer=architecture.offer,
        about="",
        work=0.0,
    )


def licence_in(folder: Path) -> str:
    """As a folder's card says it; "" where it does not."""
    fields, _ = cards.read_card(folder / "README.md")
    stated = [fields.get(name) for name in ("license_name", "license")]
    said = (one_line(one) for one in stated if isinstance(one, str))
    return next((one[:LICENCE_CHARACTERS] for one in said if one.lower() not in cards.NOTHING), "")
