"""What can be asked of the engine: frozen dataclasses that are valid once they exist.

The studio, the command line and the API all build these. Every refusal is one sentence that says what to do.
"""

import math
import numbers
import re
from dataclasses import dataclass
from typing import Any

DEFAULT_MODEL = "yoso-emoji"
STEPS = (1, 2, 4)
PROMPT_LIMIT = 2000  # characters; the token limit of any supported model is far below
SEED_LIMIT = 2**32 - 1
COUNT_LIMIT = 9
GUIDANCE_LIMIT = 8.0
GUIDANCE_STEP = 0.05
SIZE_RANGE = (64, 1024)  # pixels
SIZE_STEP = 8
LORA_LIMIT = 5
LORA_WEIGHT_RANGE = (-1.0, 2.0)


class RequestError(ValueError):
    """A request that can't be served as asked; the message is one sentence for the person who asked."""


def check_number(name: str, value: Any, low: float, high: float, step: float | None = None) -> float:
    """A finite real number from `low` to `high`, on the grid of `step` counted from `low` where one is given."""
    try:
        finite = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        finite = False
    if not finite:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, not {value!r:.40}.")
    if not low <= value <= high:
        raise RequestError(f"{name} must be from {low:g} to {high:g}, not {value:g}.")
    if step is not None and abs((value - low) / step - round((value - low) / step)) > 1e-6:
        raise RequestError(f"{name} goes in steps of {step:g} from {low:g}, so {value:g} is not possible.")
    return float(value)


def check_whole(name: str, value: Any, low: int, high: int, step: int = 1) -> int:
    """A whole number; 3.0 counts as 3, because browsers send numbers that way."""
    return round(check_number(name, value, low, high, step))


def check_text(name: str, value: Any, limit: int = PROMPT_LIMIT) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be text.")
    if len(value) > limit:
        raise RequestError(f"{name} has {len(value):,} characters; at most {limit:,} are read, so please shorten it.")
    if re.search("[\x00\ud800-\udfff]", value):
        raise RequestError(f"{name} holds a character that is no text; please remove it.")
    return value


@dataclass(frozen=True)
class LoraUse:
    """One LoRA of the engine's library and how strongly it acts.

    Attributes:
        name: its id in the engine's library, never a path from a client.
        weight: -1 to 2; 1 is as trained, 0 is without it.
    """

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_text("A LoRA's name", self.name, 200)
        object.__setattr__(self, "weight", check_number("A LoRA's weight", self.weight, *LORA_WEIGHT_RANGE))


@dataclass(frozen=True)
class GenerateRequest:
    """A picture from words.

    Attributes:
        prompt: what to show; empty asks for an unconditional picture.
        negative: what to move away from; it acts only when guidance is above 1.
        seed: of the first picture; picture i has seed + i.
        steps: network evaluations a picture (twice as many when guidance is above 1): 1, 2 or 4.
        guidance: classifier-free guidance, 1 (off) to 8.
        count: 1 to 9 pictures.
        model: a key of the engine's models.
        size: side of the square picture in pixels, a multiple of 8; None for the model's own.
        loras: up to five, beside the model's own one-step LoRA.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 1
    guidance: float = 1.0
    count: int = 1
    model: str = DEFAULT_MODEL
    size: int | None = None
    loras: tuple[LoraUse, ...] = ()

    def __post_init__(self) -> None:
        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        check_text("The prompt", self.prompt)
        check_text("The negative prompt", self.negative)
        check_text("The model's name", self.model, 500)
        settle("seed", check_whole("The seed", self.seed, 0, SEED_LIMIT))
        settle("steps", check_whole("Steps", self.steps, min(STEPS), max(STEPS)))
        if self.steps not in STEPS:
            raise RequestError(f"Steps must be one of {', '.join(map(str, STEPS))}, not {self.steps}.")
        settle("guidance", check_number("Guidance", self.guidance, 1.0, GUIDANCE_LIMIT, GUIDANCE_STEP))
        settle("count", check_whole("The number of pictures", self.count, 1, COUNT_LIMIT))
        if self.size is not None:
            settle("size", check_whole("The size", self.size, *SIZE_RANGE, SIZE_STEP))
        if len(self.loras) > LORA_LIMIT:
            raise RequestError(f"At most {LORA_LIMIT} LoRAs act at once; please remove {len(self.loras) - LORA_LIMIT}.")
        if len({use.name for use in self.loras}) < len(self.loras):
            raise RequestError("A LoRA is named twice; please give it one weight.")
        settle("loras", tuple(self.loras))
