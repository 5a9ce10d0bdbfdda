"""What people usually train, as data: a task with settings that work, for small models and for large ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.measure.lpips_weights import find_weights
from train.tasks.base import ModelRunConfig
from train.tasks.controlnet import ControlConfig
from train.tasks.diffusion import DiffusionConfig
from train.tasks.translate_config import TranslateConfig
from train.tasks.yoso import YosoConfig
from yoso_core.models import MODELS, ModelSpec

SMALL = 128  # pixels a side up to which a model counts as small
HIDDEN = ("model", "data", "captions", "maker", "title", "trigger")  # asked elsewhere


@dataclass(frozen=True)
class Preset:
    """A task with settings.

    Attributes:
        title: what people choose.
        about: what it is for, in a sentence or two.
        task: as ``python -m train`` calls it.
        config: the task's settings.
        small, large: what differs from its defaults, by the size of the model's pictures.
        hidden: settings that can't be changed, because they are asked elsewhere or are what the preset is.
        name: of what is learned, where people give it none.
    """

    title: str
    about: str
    task: str
    config: type[ModelRunConfig]
    small: Mapping[str, Any]
    large: Mapping[str, Any]
    hidden: tuple[str, ...] = HIDDEN
    name: str = "My style"

    @property
    def asks_for_domains(self) -> bool:
        """Whether two words of the captions have to be named, which tell its pictures apart."""
        return bool(self.config(**self.small).words)


STYLE = {"adapter": "lora", "on_one_step": True, "preview_guidance": 1.0, "preview_steps": 1, "precision": "bf16"}
STYLE_SMALL = STYLE | {"high_noise": 0.4, "drop_caption": 0.3, "learning_rate": 2e-3, "warmup": 20, "ema": 0.98}
STYLE_LARGE = STYLE | {"high_noise": 0.6, "learning_rate": 1e-4, "warmup": 20, "batch": 4, "checkpointing": True}

LONGER = {"steps": 1500, "checkpoint_every": 150, "preview_every": 150}

TRANSLATION = (*HIDDEN, "pairs", "input", "domains")
# Published: rank 8 and 5e-6 for pairs, rank 128 and 1e-5 for two domains (arXiv 2403.12036).
TRANSLATION_SMALL = {"warmup": 20, "ema": 0.98, "checkpoint_every": 50, "preview_every": 50}
TRANSLATION_LARGE = {"checkpointing": True, "ema": 0.999, "checkpoint_every": 500, "preview_every": 500}
LOOKS = {"domains": ("flat", "3d")}  # until others are named

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "Style, quick",
        "A LoRA of your pictures' style that works at one step. Twenty to fifty pictures are enough.",
        "teacher",
        DiffusionConfig,
        # A third of the samples that 150 steps of 32 see, and as much of the style: `python -m benchmarks.style`.
        STYLE_SMALL
        | {"steps": 100, "batch": 16, "learning_rate": 2.5e-3, "warmup": 15, "ema": 0.97, "rank": 4, "alpha": 4}
        | {"checkpoint_every": 20, "preview_every": 20},
        STYLE_LARGE | {"steps": 300, "checkpoint_every": 25, "preview_every": 25, "rank": 8, "alpha": 8},
    ),
    "good": Preset(
        "Style, good",
        "The same with more room and more time: for fifty pictures and more, or a subject with details.",
        "teacher",
        DiffusionConfig,
        STYLE_SMALL | LONGER | {"batch": 32, "rank": 8, "alpha": 8},
        STYLE_LARGE | LONGER | {"rank": 32, "alpha": 32},
    ),
    "one-step": Preset(
        "One step from a base model",
        "YOSO itself: the base model without its one-step LoRA learns to draw in one evaluation. Wants thousands of "
        "pictures like those that the model knows.",
        "yoso",
        YosoConfig,
        {
            **{"steps": 300, "batch": 32, "warmup": 30, "ema": 0.98, "learning_rate": 5e-4, "rank": 16, "alpha": 16},
            **{"discriminator_learning_rate": 2e-4, "adversarial_weight": 0.1, "last_timestep_share": 0.5},
            **{"consistency_path": "teacher", "teacher_guidance": 2.0, "consistency_offset": 250},
            **{"consistency_floor": 1.0, "reconstruction_floor": 0.5, "checkpoint_every": 50, "preview_every": 50},
        },
        {"batch": 16, "accumulation": 4, "checkpointing": True, "checkpoint_every": 250, "preview_every": 250},
        name="My one-step model",
    ),
    "controlnet": Preset(
        "ControlNet",
        "Guides the model by edges and scribbles, which are made of your pictures. Wants hundreds of them.",
        "controlnet",
        ControlConfig,
        {
            **{"steps": 1000, "whole_encoder": False, "variants": 6, "learning_rate": 2e-3, "warmup": 50},
            **{"last_timestep_share": 0.7, "drop_caption": 0.3, "adversarial_weight": 0.0},
            **{"checkpoint_every": 100, "preview_every": 100},
        },
        {
            **{"steps": 5000, "batch": 8, "learning_rate": 1e-5, "checkpointing": True},
            **{"checkpoint_every": 250, "preview_every": 250},
        },
        name="My ControlNet",
    ),
    "lines": Preset(
        "Lines to pictures",
        "A translator that makes a picture of edges or a sketch, in one evaluation (pix2pix-turbo). The lines are made "
        "of your pictures; some dozens do for one kind of thing, hundreds for more.",
        "translate",
        TranslateConfig,
        TRANSLATION_SMALL | {"steps": 500, "batch": 8, "learning_rate": 1e-3},
        # Photographs have no white ground to be turned on.
        TRANSLATION_LARGE
        | {"steps": 10_000, "batch": 2, "accumulation": 2, "learning_rate": 5e-6, "warmup": 500, "varied": 0.0},
        TRANSLATION,
        "My translator",
    ),
    "looks": Preset(
        "Two looks, both ways",
        "A translator between two looks, from either to the other (CycleGAN-Turbo). No picture needs a counterpart: "
        "the captions of each look hold a word for it. Wants fifty pictures and more of each.",
        "translate",
        TranslateConfig,
        TRANSLATION_SMALL
        | LOOKS
        | {"steps": 400, "batch": 4, "learning_rate": 7e-4, "identity_weight": 0.0, "identity_perceptual_weight": 0.0},
        TRANSLATION_LARGE
        | LOOKS
        | {"steps": 25_000, "batch": 1, "learning_rate": 1e-5, "warmup": 500, "rank": 128, "alpha": 128},
        TRANSLATION,
        "My translator",
    ),
}


def settings(preset: Preset, model: str, spec: ModelSpec, **given: Any) -> ModelRunConfig:
    """The settings of a preset for a model.

    Args:
        preset: what to train.
        model: its name among the known models.
        spec: what is known of it.
        given: settings that win.

    Raises:
        ConfigError: these do not go together.
    """
    values = dict(preset.small if spec.resolution <= SMALL else preset.large)
    if preset.config is DiffusionConfig:
        values |= _schedule(spec)
    if preset.config is TranslateConfig:
        values["perceptual"] = "lpips" if find_weights() else "evaluator"  # the latter comes along
    return preset.config(**values | {"model": source_name(model, spec)} | given)


def source_name(model: str, spec: ModelSpec) -> str:
    """A model as a run's settings name it: a known one, a folder, or OWNER/NAME@COMMIT."""
    if model in MODELS:
        return model
    place = spec.source.place
    return str(Path(place).expanduser().resolve()) if spec.source.is_folder else f"{place}@{spec.source.revision}"


def model_of(config: Mapping[str, Any], models: Mapping[str, ModelSpec]) -> str | None:
    """The name, among `models`, of the one that a run's settings name; None where it is not there."""
    return next((name for name, spec in models.items() if source_name(name, spec) == config.get("model")), None)


def pictures_of(config: Mapping[str, Any]) -> str:
    """The one folder of pictures that a run's settings name; "" where there is none."""
    return str(config.get("data") or config.get("pairs") or "")


def _schedule(spec: ModelSpec) -> dict[str, Any]:
    """What the network predicts and how its noise ends, which a LoRA has to leave as it is.

    Of a hub's models only their kind is known before they are fetched: they predict noise.
    """
    try:
        path = Path(spec.source.place).expanduser() / "scheduler" / "scheduler_config.json"
        scheduler = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        scheduler = {}
    return {
        "prediction": scheduler.get("prediction_type", "epsilon"),
        "zero_terminal_snr": bool(scheduler.get("rescale_betas_zero_snr", False)),
    }
