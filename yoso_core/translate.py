"""One-step image translation: pix2pix-turbo and CycleGAN-Turbo (arXiv 2403.12036).

A one-step model begins from the encoded picture instead of noise, at the noisiest timestep. LoRAs in the network and in
the autoencoder and a retrained first convolution teach it to; skip connections around the network, from the encoder to
the decoder, keep what a latent is too coarse for.

A translator is a folder: ``config.json`` says what it is, ``unet.safetensors`` holds the network's LoRA and first
convolution, and one safetensors file a direction the autoencoder's LoRA and the skips. LoRAs are in diffusers' spelling
(``unet.<module>.lora_A.weight``, ``vae.<module>.lora_A.weight``).
"""

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from yoso_core.autoencoder import decode_with, encode_with_features, to_tensor
from yoso_core.checkpoints import ModelError
from yoso_core.condition import Condition
from yoso_core.denoiser import Denoiser
from yoso_core.families.base import Family
from yoso_core.loading import LoadedModel
from yoso_core.lora.admission import admit_tensors
from yoso_core.lora.changes import Lora
from yoso_core.lora.reading import LoraError, one_line, read_tensors
from yoso_core.models import CONVERTED_FOLDER, MODELS_FOLDER
from yoso_core.requests import TRANSLATION_INPUTS, RequestError
from yoso_core.sampling import one_step
from yoso_core.schedule import NoiseSchedule, Prediction

TRANSLATORS_FOLDER = MODELS_FOLDER / "translators"
CONVERTED_TRANSLATORS = CONVERTED_FOLDER / "translators"  # where `convert-translator` puts its own
HERE = (TRANSLATORS_FOLDER, CONVERTED_TRANSLATORS)
CONFIG = "config.json"
NETWORK_FILE = "unet.safetensors"
CONFIG_LIMIT = 100_000  # bytes
FORWARD, BACK = "a2b", "b2a"  # directions, as published ones call them
FIRST = "conv_in"  # of the network, retrained
SKIP_START = 1e-5  # all weights of a fresh skip, as published: at first it adds next to nothing
INKS = ("white", "black")
BLACKS = (-1.0, 0.0)
DIRECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")  # a file is named so: no dots, no slashes
DIRECTION_LIMIT = 8
TEXT_LIMIT = 300  # characters


@dataclass(frozen=True)
class Direction:
    """One way that a translator goes.

    Attributes:
        title: what people read, such as "Flat to 3D".
        prompt: the fixed caption that tells the network which way it goes; None where people prompt.
    """

    title: str
    prompt: str | None = None


@dataclass(frozen=True)
class TranslatorSpec:
    """Everything that tells one translator from another.

    Attributes:
        title: what people read in the picker.
        folder: where its files are.
        directions: by name; each has a file of that name.
        family: of the models that it is for, as in `ModelSpec`.
        licence: SPDX-like name of the licence of the weights.
        input: "picture", or "lines": edges or a scribble, which are made of a picture that is given.
        ink: what lines are drawn with, "white" on black or "black" on white.
        black: the value of black in what it is given, where white is 1: -1, or 0, as published paired ones learned.
    """

    title: str
    folder: Path
    directions: Mapping[str, Direction]
    family: str
    licence: str = "unknown"
    input: str = "picture"
    ink: str = "white"
    black: float = -1.0

    def direction(self, name: str) -> str:
        """The direction of this name; "" is the first.

        Raises:
            RequestError: there is none.
        """
        if name and name not in self.directions:
            raise RequestError(f"{self.title} has no direction {name!r:.40}; choose {' or '.join(self.directions)}.")
        return name or next(iter(self.directions))


def read_translator(folder: Path) -> TranslatorSpec:
    """What a folder says of its translator.

    Raises:
        ModelError: it holds none, or its config is broken.
    """
    folder = Path(folder)
    try:
        with open(folder / CONFIG, encoding="utf-8") as file:
            told = json.loads(file.read(CONFIG_LIMIT))
        directions = {name: Direction(one["title"], one.get("prompt")) for name, one in told["directions"].items()}
        settings = {name: told[name] for name in ("licence", "input", "ink", "black") if name in told}
        spec = TranslatorSpec(told["title"], folder, directions, told["family"], **settings)
        check_spec(spec)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{one_line(folder.name)} holds no translator that can be used ({reason:.80}).") from None
    return spec


def check_spec(spec: TranslatorSpec) -> None:
    """See whether what a translator says of itself can be shown and used.

    Raises:
        ValueError: it can't, and why.
    """
    for value in (spec.title, spec.licence, *(one.title for one in spec.directions.values())):
        _check_text(value)
    for prompt in (one.prompt for one in spec.directions.values() if one.prompt is not None):
        _check_text(prompt)
    if spec.family != "":
        _check_text(spec.family)
    if not 1 <= len(spec.directions) <= DIRECTION_LIMIT:
        raise ValueError(f"it has {len(spec.directions)} directions and may have 1 to {DIRECTION_LIMIT}")
    taken = Path(NETWORK_FILE).stem
    if odd := [name for name in spec.directions if name == taken or not DIRECTION_NAME.fullmatch(name)]:
        raise ValueError(f"{odd[0]!r:.40} can't name a direction")
    for name, value, known in (
        ("input", spec.input, TRANSLATION_INPUTS),
        ("ink", spec.ink, INKS),
        ("black", spec.black, BLACKS),
    ):
        if isinstance(value, bool) or value not in known:
            raise ValueError(f"its {name} is {value!r:.20}, not {' or '.join(map(str, known))}")


def write_config(spec: TranslatorSpec, path: Path, **more: Any) -> None:
    """Write what `read_translator` reads, and `more` that people may want to know."""
    told = {name: value for name, value in asdict(spec).items() if name != "folder"}
    path.write_text(json.dumps(told | more, indent=2) + "\n")


def find_translators(*more: Path) -> dict[str, TranslatorSpec]:
    """The translators that come along, those that were converted, and those in other folders; broken ones are left out.

    Args:
        more: folders of translators' folders.

    Returns:
        Them by the name of their folder, in this order; the first that has a name keeps it.
    """
    found: dict[str, TranslatorSpec] = {}
    for root in (*HERE, *more):
        for path in sorted(root.glob(f"[!.]*/{CONFIG}")):
            try:
                found.setdefault(path.parent.name, read_translator(path.parent))
            except ModelError:
                continue
    return found


def find_translator(name: str) -> TranslatorSpec:
    """The translator of this name that is here, or the one in a folder on this machine.

    Raises:
        ModelError: there is neither, or the folder holds none that can be used.
    """
    known = find_translators()
    if name in known:
        return known[name]
    try:
        folder = Path(name).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # names that no path can have
        is_folder = False
    if not is_folder:
        raise ModelError(f"There is no translator {name!r:.80}: please name {' or '.join(['a folder', *known])}.")
    return read_translator(folder)


def _check_text(value: Any) -> None:
    if not isinstance(value, str) or not value.isprintable() or not value.strip() or len(value) > TEXT_LIMIT:
        raise ValueError(f"{value!r:.40} is no short text")


def in_ink(lines: Tensor, ink: str) -> Tensor:
    """Maps in [-1, 1], white on black, with lines of this colour on the other one."""
    return lines if ink == "white" else -lines


def input_tensor(picture: Image.Image, spec: TranslatorSpec) -> Tensor:
    """A picture, or a map with white lines on black, as a translator is given it: (1, 3, H, W), `spec.black` to 1."""
    given = in_ink(to_tensor(picture), spec.ink) if spec.input == "lines" else to_tensor(picture)
    return (given * (1 - spec.black) + (1 + spec.black)) / 2


class Skips(nn.Module):
    """1x1 convolutions from what enters the encoder's down blocks to what enters the decoder's up blocks.

    Args:
        channels: of the autoencoder's levels, the finest first.

    Attributes:
        weights: (out, in, 1, 1) each, for the smallest features first.
        changes: the same shapes, or None; of a skip that carries a LoRA of its own, whose effect on it is merged here.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        inputs = [channels[max(level - 1, 0)] for level in reversed(range(len(channels)))]
        backwards = list(reversed(channels))
        outputs = [backwards[max(level - 1, 0)] for level in range(len(channels))]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.full((out, into, 1, 1), SKIP_START)) for out, into in zip(outputs, inputs, strict=True)
        )
        self.changes: nn.ParameterList | None = None

    def forward(self, features: Sequence[Tensor], strength: float = 1.0) -> list[Tensor]:
        """Features of `encode_with_features`, the largest first -> what `decode_with` adds, scaled by strength."""
        weights = list(self.weights)
        if self.changes is not None:  # a LoRA is scaled by the strength on its own account
            weights = [weight + strength * change for weight, change in zip(weights, self.changes, strict=True)]
        pairs = zip(reversed(features), weights, strict=True)
        return [strength * F.conv2d(feature, weight.to(feature.dtype)) for feature, weight in pairs]


@dataclass(frozen=True)
class Translator:
    """A function from pictures to pictures, of one network evaluation; it changes nothing.

    The LoRAs have been put into the networks by whoever owns them, at the strength of the call.

    Attributes:
        family: of a one-step model.
        network: of that model.
        schedule, prediction: of that network.
        autoencoder: an ``AutoencoderKL``.
        skips: around the network; None for none.
        first: the retrained first convolution; None keeps the network's own.
    """

    family: Family
    network: nn.Module
    schedule: NoiseSchedule
    prediction: Prediction
    autoencoder: nn.Module
    skips: Skips | None
    first: nn.Conv2d | None = None

    def __call__(
        self, pictures: Tensor, condition: Condition, strength: float = 1.0, noise: Tensor | None = None
    ) -> Tensor:
        """Translate pictures.

        With strength g the network begins from ``g E(x) + (1 - g) noise``, its first convolution is
        ``g trained + (1 - g) own`` and the skips are scaled by g (section 3.3): 1 has one answer, below it the noise
        makes variations, 0 is the model that makes pictures from words.

        Args:
            pictures: (B, 3, H, W) in [-1, 1], or as `input_tensor` makes them.
            condition: the encoded prompts.
            strength: g, 0 to 1.
            noise: (B, C, h, w), where a picture would begin from words alone, see `prior_start`; needed below strength
                1.

        Returns:
            (B, 3, H, W), about [-1, 1].
        """
        latents, features = encode_with_features(self.autoencoder, pictures)
        start = latents.to(condition.context.dtype)
        if strength < 1:
            start = strength * start + (1 - strength) * noise
        denoise = Denoiser(partial(self.family.predict, self._network(strength)), self.schedule, self.prediction)
        clean = one_step(denoise, start, condition, self.schedule.last).to(latents.dtype)
        added = self.skips(features, strength) if self.skips else [0.0] * len(features)
        return decode_with(self.autoencoder, clean, added)

    def _network(self, strength: float) -> nn.Module:
        """The network, with its first convolution between its own and the retrained one."""
        if self.first is None:
            return self.network
        network = copy.copy(self.network)  # of the modules' names alone: it computes with the very same weights
        network._modules = {**self.network._modules, FIRST: Blend(self.network.conv_in, self.first, strength)}
        return network


class Blend(nn.Module):
    """A convolution between two others.

    Args:
        own: at strength 0.
        trained: at strength 1.
    """

    def __init__(self, own: nn.Conv2d, trained: nn.Conv2d, strength: float) -> None:
        super().__init__()
        self.own, self.trained, self.strength = own, trained, strength

    def forward(self, hidden: Tensor) -> Tensor:
        weight, bias = (
            torch.lerp(own.to(trained.dtype), trained, self.strength)
            for own, trained in ((self.own.weight, self.trained.weight), (self.own.bias, self.trained.bias))
        )
        return F.conv2d(hidden, weight, bias, padding=self.trained.padding)


@dataclass(frozen=True)
class LoadedTranslator:
    """A translator in memory, for one model.

    Attributes:
        spec: what it is.
        loras: by direction: what is added to the network and the autoencoder.
        skips: by direction.
        first: the retrained first convolution, if any.
    """

    spec: TranslatorSpec
    loras: Mapping[str, Lora]
    skips: Mapping[str, Skips | None]
    first: nn.Conv2d | None

    def on(self, model: LoadedModel, direction: str) -> Translator:
        return Translator(
            model.family,
            model.network,
            model.schedule,
            model.prediction,
            model.autoencoder,
            self.skips[direction],
            self.first,
        )


def load_translator(
    spec: TranslatorSpec, model: LoadedModel, report: Callable[[str], None] = lambda message: None
) -> LoadedTranslator:
    """Read a translator and prove that it fits, before it touches anything.

    Raises:
        RequestError: with the reason.
    """
    report(f"Loading the translator {spec.title}")
    if spec.family != model.spec.family:
        raise ModelError(f"{spec.title} is for models of the family {spec.family}, not for {model.spec.title}.")
    parts = {model.family.network: model.network, "vae": model.autoencoder}
    path = spec.folder / NETWORK_FILE
    try:
        shared, first = _split(read_tensors(path)[0], f"{FIRST}.")
        convolution = _first(model.network, first)
        base, loras, skips = admit_tensors(path, shared, parts) if shared else {}, {}, {}
        for name in spec.directions:
            path = spec.folder / f"{name}.safetensors"
            own, weights = _split(read_tensors(path)[0], "skips.")
            loras[name] = Lora(base | (admit_tensors(path, own, parts) if own else {}))
            skips[name] = _skips(model.autoencoder, weights) if weights else None
    except (RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, RequestError):
            raise LoraError(f"{spec.title}: {error}") from None
        raise LoraError(f"{path.name} of {spec.title} does not fit {model.spec.title} ({error!s:.100}).") from None
    return LoadedTranslator(spec, loras, skips, convolution)


def _split(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those whose name does not begin so, and those that do, without it."""
    theirs = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    for key, value in theirs.items():
        if not value.is_floating_point():
            raise LoraError(f"{prefix}{key[:60]} holds whole numbers, as no weight does; the file is broken.")
        if not torch.isfinite(value.float()).all():
            raise LoraError(f"{prefix}{key[:60]} holds NaN or infinite values; the file is broken.")
    return {key: value for key, value in tensors.items() if not key.startswith(prefix)}, theirs


def _first(network: nn.Module, weights: dict[str, Tensor]) -> nn.Conv2d | None:
    if not weights:
        return None
    own = network.conv_in
    found = nn.Conv2d(own.in_channels, own.out_channels, own.kernel_size, padding=own.padding)
    found.load_state_dict(weights)
    return found.requires_grad_(False).to(own.weight).to(memory_format=torch.channels_last)


def _skips(autoencoder: nn.Module, weights: dict[str, Tensor]) -> Skips:
    found = Skips(autoencoder.config.block_out_channels)
    known = {f"{index}.{kind}" for index in range(len(found.weights)) for kind in ("weight", "change")}
    if odd := weights.keys() - known:
        raise ValueError(f"there is no place for skips.{min(odd):.40}")
    changes = {key.removesuffix(".change"): value for key, value in weights.items() if key.endswith(".change")}
    found.load_state_dict(
        {f"weights.{key.removesuffix('.weight')}": value for key, value in weights.items() if key.endswith(".weight")}
    )
    found = found.requires_grad_(False).to(autoencoder.device, autoencoder.dtype)
    if changes:
        found.changes = nn.ParameterList(
            nn.Parameter(changes[str(index)].to(weight), requires_grad=False)
            for index, weight in enumerate(found.weights)
        )
        for change, weight in zip(found.changes, found.weights, strict=True):
            if change.shape != weight.shape:
                raise ValueError(f"a skip is {tuple(weight.shape)} and its change {tuple(change.shape)}")
    return found
