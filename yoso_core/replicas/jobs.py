"""What replicas are asked, and what they answer: all that travels between processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoso_core.conditioning import ControlSpec
from yoso_core.drawing import PictureError
from yoso_core.models import ModelSpec
from yoso_core.requests import RequestError
from yoso_core.translate import TranslatorSpec


@dataclass(frozen=True)
class Job:
    """What a replica is asked, with whatever it may not know yet.

    Attributes:
        ask: "answer", "load", "check_lora" or "control_map", of an `Engine`.
        arguments: of that.
        model: that it is about; "" of none.
        spec: of that, where it was added since the replicas began.
        loras, controls, translators: those that it names and that were added since the replicas began: a mark, which is
            another for another content, and what is there by that name.
    """

    ask: str
    arguments: tuple[Any, ...]
    model: str = ""
    spec: ModelSpec | None = None
    loras: Mapping[str, tuple[str, Path]] = field(default_factory=dict)
    controls: Mapping[str, tuple[str, ControlSpec]] = field(default_factory=dict)
    translators: Mapping[str, tuple[str, TranslatorSpec]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of a job, or why nothing did: an exception that was raised would come wrapped in Ray's words."""

    value: Any = None
    error: RequestError | PictureError | None = None
