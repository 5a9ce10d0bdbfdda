"""The settings of a run as a form: one component of the page for all of them, made from their dataclass."""

import dataclasses
import json
from collections.abc import Collection
from typing import Any, get_type_hints

import gradio as gr

from app.components import component
from train.loop.config import Config, ConfigError, Settings, from_values

SIZE_LIMIT = 50_000  # characters of JSON that a form sends
KINDS = {int: "whole", float: "number", bool: "switch", str: "text", tuple[str, ...]: "lines"}
HEADINGS = {  # of the fields that a class brings in
    "RunConfig": "Optimisation",
    "ModelRunConfig": "Model and data",
    "DenoisingConfig": "Diffusion",
    "DiffusionConfig": "Diffusion",
    "CooperationConfig": "YOSO",
    "YosoConfig": "YOSO",
    "ControlConfig": "ControlNet",
    "TranslateConfig": "Translation",
}
ACRONYMS = {"ema": "EMA", "snr": "SNR"}


def build_form(elem_id: str, fields: Collection[dict[str, Any]] = ()) -> gr.HTML:
    """The form; its value holds what differs from the preset, by name. Another preset: ``value={}`` and new `fields`.

    Args:
        fields: from `fields_of`.
    """
    return component("config_form", {}, fields=list(fields), elem_id=elem_id)


def fields_of(config: Settings, hidden: Collection[str] = ()) -> list[dict[str, Any]]:
    """What the page shows of each setting; the task's own come first.

    Args:
        config: the preset.
        hidden: settings that are left out.
    """
    hints, found = get_type_hints(type(config)), []
    order = list(dict.fromkeys(_heading(base) for base in type(config).__mro__))
    for one in dataclasses.fields(config):
        if one.name in hidden:
            continue
        choices = one.metadata["choices"]
        found.append(
            {
                "name": one.name,
                "label": _label(one.name),
                "help": one.metadata["help"],
                "kind": "choice" if choices else KINDS[hints[one.name]],
                "choices": list(choices),
                "preset": _plain(getattr(config, one.name)),
                "default": _plain(one.default),
                "group": _heading(_origin(type(config), one.name)),
            }
        )
    return sorted(found, key=lambda field: order.index(field["group"]))


def read_form(config: Config, value: object, hidden: Collection[str] = ()) -> Config:
    """The preset with what the form changed.

    Args:
        config: the preset.
        value: of the form, as the page sent it.
        hidden: settings that the form may not change.

    Raises:
        ConfigError: a field that there is not, or a value of another kind or out of range.
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError("the form sent something that is no setting") from None
    if not isinstance(value, dict):
        raise ConfigError("the form must send a table of settings by name")
    if len(text) > SIZE_LIMIT:
        raise ConfigError(f"the form sent too much text; {SIZE_LIMIT} characters is the most")
    changed = json.loads(text)
    if locked := sorted(set(changed) & set(hidden)):
        raise ConfigError(f"the form can't change {locked[0]}")
    return from_values(type(config), dataclasses.asdict(config) | changed, "the form")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _label(name: str) -> str:
    words = " ".join(ACRONYMS.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


def _origin(config: type, name: str) -> type:
    """The class that brings a field in; those below it may only change its default."""
    return next(base for base in reversed(config.__mro__) if name in getattr(base, "__dataclass_fields__", {}))


def _heading(config: type) -> str:
    return HEADINGS.get(config.__name__, config.__name__.removesuffix("Config"))
