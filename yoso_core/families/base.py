"""The contract of a family: what tells one architecture from another, and nothing else knows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from yoso_core.checkpoints import Checkpoint, ModelError
from yoso_core.condition import Condition
from yoso_core.offers import USUAL, Offer
from yoso_core.prompts import Prompt
from yoso_core.requests import SIZE_STEP
from yoso_core.schedule import PREDICTIONS, NoiseSchedule, Prediction


@dataclass(frozen=True)
class Outline:
    """What the configs of a model say of it before a weight is read.

    Attributes:
        resolution: side in pixels of the pictures that its networks were made for; None where they don't say.
        kind: of models whose LoRAs and ControlNets fit it, as `ModelSpec.family`; "" where none is known.
    """

    resolution: int | None = None
    kind: str = ""


class Encoded(NamedTuple):
    """A prompt as its network reads it.

    Attributes:
        condition: of one row, without what depends on the size of the picture.
        cut: the words that did not fit; "" if none.
    """

    condition: Condition
    cut: str


class Model(Protocol):
    """What a family is told of the model that it works on; a `LoadedModel` is one.

    Attributes:
        parts: of the pipeline, by the names that diffusers gives them.
        device: where its networks are.
    """

    parts: dict[str, Any]
    device: torch.device


class Read(Protocol):
    """Executes `Family.read` with a part of the pipeline, by whatever runtime; inputs may be on the CPU."""

    def __call__(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]: ...


class Family:
    """An architecture. Each is one file here and an entry in `FAMILIES`; it holds no weights and no state.

    Attributes:
        name: its key in `FAMILIES`.
        diffusers: the class of its pipeline.
        alike: other classes of pipelines that the same parts are published in.
        network: the part of the pipeline that predicts: "unet" or "transformer".
        encoders: the parts that read prompts.
        adapted: the parts that LoRAs may change.
        targets: the modules of `network` that training puts a LoRA on, by the ends of their names.
        offer: samplers, steps and guidance of a model of which no more is known.
        weighs: whether words of a prompt can weigh more than others, and its parts be encoded by themselves.
        unit: pixels that the sides of pictures are multiples of, as its published models have it.
    """

    name: str
    diffusers: str = "StableDiffusionPipeline"
    alike: tuple[str, ...] = ()
    network: str = "unet"
    encoders: tuple[str, ...] = ("text_encoder",)
    adapted: tuple[str, ...] = ("unet", "text_encoder")
    targets: tuple[str, ...] = ()
    offer: Offer = USUAL
    weighs: bool = True
    unit: int = SIZE_STEP

    # A folder.

    def recognises(self, index: Mapping[str, Any]) -> bool:
        """Whether a ``model_index.json`` is of this family."""
        return index.get("_class_name") in (self.diffusers, *self.alike)

    def outline(self, folder: Path) -> Outline:
        """What the configs in a folder say; broken ones say nothing, and loading names them."""
        raise NotImplementedError

    def load(self, files: Checkpoint, dtype: Any) -> dict[str, Any]:
        """The parts of the pipeline, whole and fitting each other: `network`, "vae", "scheduler", tokenizers, encoders.

        Raises:
            ModelError: they are not; one sentence says how.
        """
        raise NotImplementedError

    def schedule(self, config: Mapping[str, Any]) -> NoiseSchedule:
        """The noise schedule of a scheduler's config.

        Raises:
            ValueError: it says of none.
        """
        return NoiseSchedule.from_config(config)

    def prediction(self, config: Mapping[str, Any]) -> Prediction:
        """What the network predicts, as a scheduler's config says it.

        Raises:
            ValueError: it says something unknown.
        """
        predicted = config.get("prediction_type", "epsilon")
        if predicted not in PREDICTIONS:
            raise ValueError(f"it predicts {predicted!r}, which is unknown; known: {', '.join(PREDICTIONS)}")
        return predicted

    def pipeline(self, parts: Mapping[str, Any]) -> Any:
        """A pipeline of diffusers with these parts."""
        raise NotImplementedError

    def save(self, parts: Mapping[str, Any], folder: Path) -> None:
        """Write a pipeline of these parts to a folder, but for its network."""
        parts = dict(parts)
        apart = parts.pop("encodings", None)  # of a text encoder that comes and goes
        self.pipeline(parts).save_config(folder)
        for name in parts.keys() - {self.network}:
            parts[name].save_pretrained(folder / name)
        if apart is not None:
            apart.save(folder)

    # Prompts.

    def encode(self, model: Model, prompt: Prompt, read: Read) -> Encoded:
        """A prompt that somebody typed, with its weights of words."""
        raise NotImplementedError

    def encode_texts(self, model: Model, texts: Sequence[str]) -> Condition:
        """Texts whose every character is meant, such as captions: N rows, float32 on the CPU, too long ones cut."""
        raise NotImplementedError

    def read(self, part: str, encoder: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One call of a text encoder, tensors in and tensors out."""
        raise NotImplementedError

    def at_size(self, model: Model, condition: Condition, size: tuple[int, int]) -> Condition:
        """A condition with what is said of the picture's width and height in pixels; most networks are told nothing."""
        return condition

    def told(self, condition: Condition, guidance: float) -> Condition:
        """A condition with how strongly the prompt is to be followed, of networks that are told so."""
        return condition

    def shape(self, model: Model, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that it draws best, of those nearest to a size in pixels."""
        return size

    # The network.

    def predict(
        self, network: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, residuals: Sequence[Tensor] = ()
    ) -> Tensor:
        """What the network predicts, bare.

        Args:
            noisy: (B, C, h, w).
            t: (B,) int64, indices into the noise schedule.
            condition: of B rows.
            residuals: as `follow` returns them; none where nothing guides.

        Returns:
            (B, C, h, w), of the kind that `prediction` names.
        """
        raise NotImplementedError

    def halvings(self, network: nn.Module) -> int:
        """How often the network halves the sides of latents on the way, where an odd side makes it go another way."""
        return 0

    def is_apart(self, network: nn.Module, shape: tuple[int, ...]) -> bool:
        """Whether latents of this shape (..., h, w) take another way through the network than others."""
        return False

    def patch(self, network: nn.Module) -> int:
        """Sides of latents are multiples of it."""
        return 1

    def follow(
        self, control: nn.Module, noisy: Tensor, t: Tensor, condition: Condition, given: Tensor
    ) -> tuple[Tensor, ...]:
        """What a ControlNet adds at strength 1: to the network's skips and, last, to its middle.

        Args:
            given: the map, (B, 3, H, W) in [0, 1].
        """
        raise NotImplementedError

    def check_control(self, title: str, control: nn.Module, model: Model) -> None:
        """See whether a ControlNet fits a model of this family.

        Raises:
            ModelError: it does not, and why.
        """
        raise ModelError(f"{title} can't guide this model: there are no ControlNets for its family.")

    def encoder(self, network: nn.Module) -> nn.Module:
        """A copy of the first half of a network as features of a latent, for discriminators and distances.

        It is called with a clean latent (B, C, h, w), t (B,) and a `Condition`, gives (B, F, h', w'), and has F as
        `features` and the groups that it normalises them in as `groups`.
        """
        raise NotImplementedError
