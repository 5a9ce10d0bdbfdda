"""What can be asked of the engine: frozen dataclasses that are valid once they exist.

The studio, the command line and the API all build these. Every refusal is one sentence that says what to do.
"""

import math
import numbers
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

DEFAULT_MODEL = "yoso-emoji"
STEPS = (1, 2, 4)
MANY_STEPS = (2, 50)
# By name, what the field calls them; `yoso_core.sampling.KNOWN` has what they do.
SAMPLERS = {"lcm": "LCM", "scm": "SCM", "tcd": "TCD", "ddim": "DDIM", "dpm++": "DPM++ 2M"}
CONSISTENCY = "lcm"
FEW_STEP_SAMPLERS = (CONSISTENCY, "scm", "tcd")  # those for one-step models
PROMPT_LIMIT = 2000  # characters; the token limit of any supported model is far below
SEED_LIMIT = 2**32 - 1
RANDOM_SEED = -1
SEED_HINT = f"give a whole number up to {SEED_LIMIT}, or {RANDOM_SEED} for a random one"
COUNT_LIMIT = 9
GUIDANCE_LIMIT = 8.0
GUIDANCE_STEP = 0.05
SIZE_RANGE = (64, 1536)  # pixels; a square of 1024 is drawn this wide
SIZE_STEP = 8
LORA_LIMIT = 5
LORA_WEIGHT_RANGE = (-1.0, 2.0)
CONTROL_STRENGTH_LIMIT = 2.0
THRESHOLD_LIMIT = 500
PIXEL_LIMIT = 25_000_000
FITS = ("keep", "crop", "fit", "pad")
TRANSLATION_INPUTS = ("picture", "lines")
AUTO = "auto"
RUNTIMES = {"torch": "", "openvino": "cpu", "cuda-graphs": "cuda"}  # who executes networks, on which device; "": on any
RUNTIME_HELP = "who executes the networks; default: the fastest that is here, torch is the reference"
GROWTH_LIMIT = 1.0
FEATHER_LIMIT = 0.25


Size = int | tuple[int, int]  # side of a square, or width and height, in pixels


class RequestError(ValueError):
    """A request that can't be served as asked; the message is one sentence for the person who asked."""


def check_number(name: str, value: Any, low: float, high: float, step: float | None = None) -> float:
    """A finite real number from `low` to `high`, on the grid of `step` counted from `low` where one is given."""
    try:
        finite = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        finite = False
    if not finite:
        raise RequestError(f"{name} must be a number from {in_full(low)} to {in_full(high)}, not {value!r:.40}.")
    if not low <= value <= high:
        raise RequestError(f"{name} must be from {in_full(low)} to {in_full(high)}, not {in_full(value)}.")
    if step is not None and abs((value - low) / step - round((value - low) / step)) > 1e-6:
        raise RequestError(
            f"{name} goes in steps of {in_full(step)} from {in_full(low)}, so {in_full(value)} is not possible."
        )
    return float(value)


def in_full(value: float) -> str:
    """A number as people write it: whole ones with all their digits."""
    return f"{value:.0f}" if abs(value) < 1e15 and value == int(value) else f"{value:g}"


def check_seed(value: Any) -> int:
    """A seed; -1, as everywhere in the field, is a random one."""
    if value == RANDOM_SEED and not isinstance(value, bool):
        return secrets.randbelow(SEED_LIMIT + 1)
    try:
        return check_whole("The seed", value, 0, SEED_LIMIT)
    except RequestError as error:
        if value is None:
            raise RequestError(f"The seed is empty; {SEED_HINT}.") from None
        raise RequestError(f"{str(error).removesuffix('.')}; {SEED_HINT}.") from None


def check_whole(name: str, value: Any, low: int, high: int, step: int = 1) -> int:
    """A whole number; 3.0 counts as 3, because browsers send numbers that way."""
    return round(check_number(name, value, low, high, step))


def check_size(value: Any) -> Size:
    """A side, or width and height; those of a square are one number."""
    if not isinstance(value, tuple | list):
        return check_whole("The size", value, *SIZE_RANGE, SIZE_STEP)
    if len(value) != 2:
        raise RequestError("The size must be one side of a square, or width and height.")
    width, height = (
        check_whole(name, side, *SIZE_RANGE, SIZE_STEP)
        for name, side in zip(("The width", "The height"), value, strict=True)
    )
    return width if width == height else (width, height)


def parse_size(text: str) -> Size:
    """A size as people write it: "512", or "640x384".

    Raises:
        RequestError: it is neither.
    """
    if not re.fullmatch(r"\d{1,5}(\s*x\s*\d{1,5})?", text.strip().lower()):
        raise RequestError(f"A size is a side, such as 512, or width and height, such as 640x384, not {text!r:.40}.")
    sides = [int(side) for side in re.findall(r"\d+", text)]
    return check_size(sides if len(sides) > 1 else sides[0])


def sides_of(size: Size) -> tuple[int, int]:
    """Width and height of a size."""
    return (size, size) if isinstance(size, int) else size


def check_text(name: str, value: Any, limit: int = PROMPT_LIMIT) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be text.")
    if len(value) > limit:
        raise RequestError(f"{name} has {len(value):,} characters; at most {limit:,} are read, so please shorten it.")
    if re.search("[\x00\ud800-\udfff]", value):
        raise RequestError(f"{name} holds a character that is no text; please remove it.")
    return value


def check_picture(name: str, value: Any, mode: str) -> Image.Image:
    """A picture in memory; files are read, turned upright and converted by `yoso_core.files.pictures`."""
    if not isinstance(value, Image.Image) or value.mode != mode:
        raise RequestError(f"{name} must be a picture in mode {mode}.")
    if not 0 < value.width * value.height <= PIXEL_LIMIT:
        raise RequestError(f"{name} must have at most {PIXEL_LIMIT / 1e6:g} megapixels.")
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise RequestError(f"{name} must be one of {', '.join(choices)}, not {value!r:.60}.")
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
class ControlUse:
    """A ControlNet and the map that it follows.

    Attributes:
        picture: what the map is made of, RGB of any size.
        annotator: how it is made; a key of `yoso_core.conditioning.ANNOTATORS`, or "map" if the picture is the map.
        strength: 0 to 2; what the ControlNet adds to the network is scaled by it.
        start, end: part of the way from noise (0) to the picture (1) on which it acts.
        low, high: thresholds of "canny", on gradients of 8-bit pixels: above `high` starts an edge, above `low`
            continues it.
        network: a key of the engine's ControlNets; None for the first that fits the model and the annotator.
        fit: what becomes of a picture of another shape than what is drawn; "keep" draws in its shape.
    """

    picture: Image.Image = field(kw_only=True)
    annotator: str = "canny"
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    low: int = 100
    high: int = 200
    network: str | None = None
    fit: str = "keep"

    def __post_init__(self) -> None:
        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        check_picture("The control picture", self.picture, "RGB")
        check_text("The annotator's name", self.annotator, 100)
        settle("strength", check_number("Control strength", self.strength, 0.0, CONTROL_STRENGTH_LIMIT))
        settle("start", check_number("The start of control", self.start, 0.0, 1.0))
        settle("end", check_number("The end of control", self.end, 0.0, 1.0))
        if self.start > self.end:
            raise RequestError("Control must start before it ends; please lower its start.")
        settle("low", check_whole("The low threshold", self.low, 0, THRESHOLD_LIMIT))
        settle("high", check_whole("The high threshold", self.high, 0, THRESHOLD_LIMIT))
        if self.network is not None:
            check_text("The ControlNet's name", self.network, 500)
        check_choice("Fit", self.fit, FITS)


@dataclass(frozen=True)
class GenerateRequest:
    """A picture from words.

    Attributes:
        prompt: what to show; empty asks for an unconditional picture.
        negative: what to move away from; it acts only when guidance is above 1.
        seed: of the first picture; picture i has seed + i. -1 is settled as a random one.
        steps: network evaluations a picture (twice as many when guidance is above 1): 1, 2 or 4; with "ddim" and
            "dpm++" 2 to 50.
        guidance: how strongly the prompt is followed, 1 (off) to 8; None for the model's own.
        count: 1 to 9 pictures.
        model: a key of the engine's models.
        size: side of a square picture in pixels, a multiple of 8, or width and height; None for the model's own.
        loras: up to five, beside the model's own one-step LoRA.
        one_step: weight of the model's own one-step LoRA, -1 to 2; 0 leaves the teacher.
        sampler: how several steps follow one another: "lcm", "scm" or "tcd" as one-step models are trained, "ddim" or
            "dpm++" (DPM-Solver++ 2M) for the many small steps of a teacher, or a few of what a one-step LoRA makes of
            it; None for the model's own. `Offer.settle` says which the model has.
        control: what the picture has to follow.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 1
    guidance: float | None = None
    count: int = 1
    model: str = DEFAULT_MODEL
    size: Size | None = None
    loras: tuple[LoraUse, ...] = ()
    one_step: float = 1.0
    sampler: str | None = None
    control: ControlUse | None = None

    def __post_init__(self) -> None:
        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        check_text("The prompt", self.prompt)
        check_text("The negative prompt", self.negative)
        check_text("The model's name", self.model, 500)
        settle("seed", check_seed(self.seed))
        if self.sampler is not None:
            check_choice("The sampler", self.sampler, tuple(SAMPLERS))
        settle("steps", check_whole("Steps", self.steps, 1, max(MANY_STEPS)))
        named = SAMPLERS[self.sampler or CONSISTENCY]
        if self.sampler in (None, *FEW_STEP_SAMPLERS) and self.steps not in STEPS:
            few = ", ".join(map(str, STEPS))
            raise RequestError(f"Steps must be one of {few} with {named}, not {self.steps}; other samplers take more.")
        if self.sampler not in (None, *FEW_STEP_SAMPLERS) and self.steps < min(MANY_STEPS):
            raise RequestError(
                f"{named} takes {MANY_STEPS[0]} to {MANY_STEPS[1]} steps; for one choose the sampler lcm."
            )
        if self.guidance is not None:
            settle("guidance", check_number("Guidance", self.guidance, 1.0, GUIDANCE_LIMIT, GUIDANCE_STEP))
        settle("count", check_whole("The number of pictures", self.count, 1, COUNT_LIMIT))
        if self.size is not None:
            settle("size", check_size(self.size))
        settle("one_step", check_number("The weight of the one-step LoRA", self.one_step, *LORA_WEIGHT_RANGE))
        if len(self.loras) > LORA_LIMIT:
            raise RequestError(f"At most {LORA_LIMIT} LoRAs act at once; please remove {len(self.loras) - LORA_LIMIT}.")
        if len({use.name for use in self.loras}) < len(self.loras):
            raise RequestError("A LoRA is named twice; please give it one weight.")
        settle("loras", tuple(self.loras))


@dataclass(frozen=True)
class EditRequest(GenerateRequest):
    """A picture from a picture and words.

    Attributes:
        picture: RGB, of any size and shape.
        strength: 0 gives it back through the autoencoder, 1 is pure generation, between them the picture starts from
            the given one with that much noise (SDEdit).
        mask: white ("L" of 128 or more) where to repaint, of the picture's own size; None repaints everything. What
            lies outside it and its feather keeps its pixels. `yoso_core.files.pictures.open_mask` reads one.
        feather: width of the soft rim around the mask, as a fraction of the side, 0 to 0.25.
        grow: outpainting: every side of the canvas grows by this fraction of the picture and is painted, 0 to 1.
        fit: "keep" draws in the shape of the picture, in about as many pixels as `size` has; the others give it the
            shape of `size`: "crop" its middle, "fit" (squeeze) or "pad" with white.
    """

    picture: Image.Image = field(kw_only=True)
    strength: float = 0.5
    mask: Image.Image | None = None
    feather: float = 0.05
    grow: float = 0.0
    fit: str = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()

        def settle(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        check_picture("The picture to edit", self.picture, "RGB")
        settle("strength", check_number("Strength", self.strength, 0.0, 1.0))
        settle("feather", check_number("The feather", self.feather, 0.0, FEATHER_LIMIT))
        settle("grow", check_number("The growth of the canvas", self.grow, 0.0, GROWTH_LIMIT))
        check_choice("Fit", self.fit, FITS)
        if self.mask is not None:
            check_picture("The mask", self.mask, "L")
            if self.mask.size != self.picture.size:
                raise RequestError(
                    f"The mask has {self.mask.width} x {self.mask.height} pixels and its picture "
                    f"{self.picture.width} x {self.picture.height}; please paint it on that picture."
                )


@dataclass(frozen=True)
class TranslateRequest(GenerateRequest):
    """A picture from a picture, its structure kept, by a model that learned to (arXiv 2403.12036).

    Attributes:
        picture: RGB, of any size and shape.
        translator: a key of the engine's translators.
        direction: which way, by name; "" for its first.
        strength: 1 is as trained, with one answer; below it noise is blended in and each seed gives a variation; 0 is
            the model that makes pictures from words.
        annotator: for a translator of lines, how they are found in the picture: "canny", "scribble" for what is drawn
            already, or "map" if the picture is the map, white on black.
        low, high: thresholds of "canny", as of `ControlUse`.
        fit: "keep" gives the picture back in its own size; the others make it square, as of `EditRequest`.
    """

    picture: Image.Image = field(kw_only=True)
    translator: str = field(kw_only=True)
    direction: str = ""
    strength: float = 1.0
    annotator: str = "canny"
    low: int = 100
    high: int = 200
    fit: str = "keep"

    def __post_init__(self) -> None:
        if self.sampler not in (None, CONSISTENCY):
            raise RequestError("A translation takes one evaluation and has no sampler; leave it at lcm.")
        super().__post_init__()
        check_picture("The picture to translate", self.picture, "RGB")
        check_text("The translator's name", self.translator, 500)
        check_text("The direction", self.direction, 100)
        check_choice("Fit", self.fit, FITS)
        object.__setattr__(self, "strength", check_number("Strength", self.strength, 0.0, 1.0))
        # What ControlNets follow is checked by theirs.
        lines = self.lines
        object.__setattr__(self, "low", lines.low)
        object.__setattr__(self, "high", lines.high)
        if self.steps != 1 or self.guidance not in (None, 1):
            raise RequestError("A translation takes one evaluation; leave steps and guidance at 1.")
        if self.control is not None:
            raise RequestError("A translation follows its picture alone; leave the ControlNet out.")

    @property
    def lines(self) -> ControlUse:
        """How lines are found in the picture."""
        return ControlUse(picture=self.picture, annotator=self.annotator, low=self.low, high=self.high)
