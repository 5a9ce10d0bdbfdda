"""One-step image translation: pix2pix-turbo and CycleGAN-Turbo (arXiv 2403.12036).

A one-step model begins from the encoded picture instead of noise, at the noisiest timestep. LoRAs in the network and in
the autoencoder and a retrained first convolution teach it to; skip connections around the network, from the encoder to
the decoder, keep what a latent is too coarse for.

A translator is a folder: ``config.json`` says what it is, ``unet.safetensors`` holds the network's LoRA and first
convolution, and one safetensors file a direction the autoencoder's LoRA and the skips. LoRAs are in diffusers' spelling
(``unet.<module>.lora_A.weight``, ``vae.<module>.lora_A.weight``).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.func import functional_call

from yoso_core.autoencoder import decode_with, encode_with_features
from yoso_core.denoiser import Denoiser
from yoso_core.lora import Lora, LoraError, admit_tensors, read_tensors
from yoso_core.models import MODELS_FOLDER, LoadedModel, ModelError
from yoso_core.requests import TRANSLATION_INPUTS, RequestError
from yoso_core.sampling import one_step
from yoso_core.schedule import NoiseSchedule, Prediction

TRANSLATORS_FOLDER = MODELS_FOLDER / "translators"
CONFIG = "config.json"
NETWORK_FILE = "unet.safetensors"
CONFIG_LIMIT = 100_000  # bytes
FIRST = "conv_in"  # of the network, retrained
SKIP_START = 1e-5  # all weights of a fresh skip, as published: at first it adds next to nothing
INKS = ("white", "black")


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
    """

    title: str
    folder: Path
    directions: Mapping[str, Direction]
    family: str
    licence: str = "unknown"
    input: str = "picture"
    ink: str = "white"

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
        directions = {
            name: Direction(_text(one["title"]), one.get("prompt")) for name, one in told["directions"].items()
        }
        texts = {name: _text(told[name]) for name in ("title", "family", "licence", "input", "ink") if name in told}
        spec = TranslatorSpec(folder=folder, directions=directions, **texts)
        sound = (
            directions
            and all(name.isidentifier() for name in (each.replace("-", "_") for each in directions))
            and all(one.prompt is None or _text(one.prompt) for one in directions.values())
            and spec.input in TRANSLATION_INPUTS
            and spec.ink in INKS
        )
        if not sound:
            raise ValueError("a direction, its prompt, the input or the ink is none that is known")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder.name} holds no translator that can be used ({error!s:.80}).") from None
    return spec


def write_config(spec: TranslatorSpec, path: Path, **more: Any) -> None:
    """Write what `read_translator` reads, and `more` that people may want to know."""
    told = {name: value for name, value in asdict(spec).items() if name != "folder"}
    path.write_text(json.dumps(told | more, indent=2) + "\n")


def find_translators(root: Path = TRANSLATORS_FOLDER) -> dict[str, TranslatorSpec]:
    """The translators in the folders of `root`, by folder name; broken ones are left out."""
    found = {}
    for path in sorted(root.glob(f"*/{CONFIG}")):
        try:
            found[path.parent.name] = read_translator(path.parent)
        except ModelError:
            continue
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 300:
        raise ValueError(f"{value!r:.40} is no short text")
    return value


def lines_in_ink(lines: Image.Image, ink: str) -> Image.Image:
    """A map, white on black, with lines of this colour on the other one."""
    return lines if ink == "white" else ImageOps.invert(lines)


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
        self.changes: list[Tensor] | None = None

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
        unet: the network of a one-step model.
        schedule, prediction: of that network.
        autoencoder: an ``AutoencoderKL``.
        skips: around the network; None for none.
        first: the retrained first convolution; None keeps the network's own.
    """

    unet: nn.Module
    schedule: NoiseSchedule
    prediction: Prediction
    autoencoder: nn.Module
    skips: Skips | None
    first: nn.Conv2d | None = None

    def __call__(self, pictures: Tensor, context: Tensor, strength: float = 1.0, noise: Tensor | None = None) -> Tensor:
        """Translate pictures.

        With strength g the network begins from ``g E(x) + (1 - g) noise``, its first convolution is
        ``g trained + (1 - g) own`` and the skips are scaled by g (section 3.3): 1 has one answer, below it the noise
        makes variations, 0 is the model that makes pictures from words.

        Args:
            pictures: (B, 3, H, W) in [-1, 1].
            context: (B, L, D) encoded prompts.
            strength: g, 0 to 1.
            noise: (B, C, h, w) standard normal; needed below strength 1.

        Returns:
            (B, 3, H, W), about [-1, 1].
        """
        latents, features = encode_with_features(self.autoencoder, pictures)
        start = latents.to(context.dtype)
        if strength < 1:
            start = strength * start + (1 - strength) * noise
        denoise = Denoiser(self._network(strength), self.schedule, self.prediction)
        clean = one_step(denoise, start, context, self.schedule.last).to(latents.dtype)
        added = self.skips(features, strength) if self.skips else [0.0] * len(features)
        return decode_with(self.autoencoder, clean, added)

    def _network(self, strength: float) -> Callable[..., Any]:
        """The network, with its first convolution between its own and the retrained one."""
        if self.first is None:
            return self.unet
        own, trained = self.unet.conv_in, self.first
        blended = {
            f"{FIRST}.{name}": torch.lerp(getattr(own, name).to(value.dtype), value, strength)
            for name, value in trained.named_parameters()
        }
        return lambda *arguments, **options: functional_call(self.unet, blended, arguments, options)


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
            model.unet, model.schedule, model.prediction, model.autoencoder, self.skips[direction], self.first
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
    parts = {"unet": model.unet, "vae": model.autoencoder}
    path = spec.folder / NETWORK_FILE
    shared, first = _split(read_tensors(path)[0], f"{FIRST}.")
    try:
        convolution = _first(model.unet, first)
        base, loras, skips = admit_tensors(path, shared, parts) if shared else {}, {}, {}
        for name in spec.directions:
            path = spec.folder / f"{name}.safetensors"
            own, weights = _split(read_tensors(path)[0], "skips.")
            loras[name] = base | (admit_tensors(path, own, parts) if own else {})
            skips[name] = _skips(model.autoencoder, weights) if weights else None
    except (RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise LoraError(f"{path.name} of {spec.title} does not fit {model.spec.title} ({error!s:.100}).") from None
    return LoadedTranslator(spec, loras, skips, convolution)


def _split(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those whose name does not begin so, and those that do, without it."""
    theirs = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    for key, value in theirs.items():
        if not torch.isfinite(value.float()).all():
            raise LoraError(f"{prefix}{key[:60]} holds NaN or infinite values; the file is broken.")
    return {key: value for key, value in tensors.items() if not key.startswith(prefix)}, theirs


def _first(unet: nn.Module, weights: dict[str, Tensor]) -> nn.Conv2d | None:
    if not weights:
        return None
    own = unet.conv_in
    found = nn.Conv2d(own.in_channels, own.out_channels, own.kernel_size, padding=own.padding)
    found.load_state_dict(weights)
    return found.requires_grad_(False).to(own.weight).to(memory_format=torch.channels_last)


def _skips(autoencoder: nn.Module, weights: dict[str, Tensor]) -> Skips:
    found = Skips(autoencoder.config.block_out_channels)
    changes = {key.removesuffix(".change"): value for key, value in weights.items() if key.endswith(".change")}
    found.load_state_dict(
        {f"weights.{key.removesuffix('.weight')}": value for key, value in weights.items() if key.endswith(".weight")}
    )
    found = found.requires_grad_(False).to(autoencoder.device, autoencoder.dtype)
    if changes:
        found.changes = [changes[str(index)].to(weight) for index, weight in enumerate(found.weights)]
        for change, weight in zip(found.changes, found.weights, strict=True):
            if change.shape != weight.shape:
                raise ValueError(f"a skip is {tuple(weight.shape)} and its change {tuple(change.shape)}")
    return found
