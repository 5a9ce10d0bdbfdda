"""Pictures of many pictures: the ladder from one step to the teacher, and grids over any two settings."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from itertools import takewhile
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from yoso_core.drawing import Result
from yoso_core.lora.library import public_name
from yoso_core.prompts import split_at
from yoso_core.requests import (
    CONTROL_STRENGTH_LIMIT,
    GUIDANCE_LIMIT,
    GUIDANCE_STEP,
    LORA_WEIGHT_RANGE,
    MANY_STEPS,
    PROMPT_LIMIT,
    SAMPLERS,
    SEED_LIMIT,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
    check_choice,
    check_number,
    check_text,
    check_whole,
)
from yoso_core.service import Report, Service, unheard

AXIS_LIMIT = 10
CELL_LIMIT = 64
NO_ADAPTER = "none"  # in place of a LoRA's name
AXES: dict[str, Callable[[Any], Any]] = {  # what each takes
    "prompt": partial(check_text, "The prompt"),
    "style": partial(check_text, "The style"),
    "seed": partial(check_whole, "The seed", low=0, high=SEED_LIMIT),
    "steps": partial(check_whole, "Steps", low=1, high=max(MANY_STEPS)),
    "sampler": lambda name: check_choice("The sampler", name, tuple(SAMPLERS)),
    "guidance": partial(check_number, "Guidance", low=1.0, high=GUIDANCE_LIMIT, step=GUIDANCE_STEP),
    "strength": partial(check_number, "Strength", low=0.0, high=1.0),
    "control": partial(check_number, "Control strength", low=0.0, high=CONTROL_STRENGTH_LIMIT),
    "one-step": partial(
        check_number, "The weight of the one-step LoRA", low=LORA_WEIGHT_RANGE[0], high=LORA_WEIGHT_RANGE[1]
    ),
    "lora": partial(check_number, "A LoRA's weight", low=LORA_WEIGHT_RANGE[0], high=LORA_WEIGHT_RANGE[1]),
    "adapter": lambda name: LoraUse(name).name,
}
WORDS = ("prompt", "style", "adapter")  # kinds whose values are words, apart by |
AXIS_HELP = (
    "prompt=a cat|a dog, seed=0,1,2, strength=0:1:5 (five from 0 to 1), one-step=0,1, sampler=lcm,ddim,dpm++, "
    "lora.NAME=0,0.5,1 or adapter=none|NAME|NAME"
)

# Pixels.
LEAST_SIDE, MOST_SIDE = 192, 512
MARGIN, GAP = 24, 10
TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 22, 16, 13
ROW_LABEL_WIDTH = 150
INK, PALE, BLANK = "#1c1c22", "#75757f", "#f1f1f4"


@dataclass(frozen=True)
class Axis:
    """One side of a grid.

    Attributes:
        kind: what changes along it; a key of `AXES`.
        values: one to ten of it; for the kind "adapter" names of LoRAs, or "none".
        lora: the name of the LoRA whose weights they are; for the kind "lora" alone.
    """

    kind: str
    values: tuple[Any, ...]
    lora: str | None = None

    def __post_init__(self) -> None:
        check_choice("What an axis changes", self.kind, tuple(AXES))
        if (self.lora is not None) != (self.kind == "lora"):
            raise RequestError("An axis names a LoRA if it changes a LoRA's weight; write lora.NAME=0,0.5,1.")
        if not 1 <= len(self.values) <= AXIS_LIMIT:
            raise RequestError(f"An axis takes 1 to {AXIS_LIMIT} values, not {len(self.values)}; please change that.")
        object.__setattr__(self, "values", tuple(AXES[self.kind](value) for value in self.values))
        if self.kind == "adapter" and "" in self.values:
            raise RequestError(f"A LoRA on an axis has no name; write {NO_ADAPTER} to go without one.")

    @property
    def title(self) -> str:
        return f"weight of {public_name(self.lora)}" if self.lora else TITLES[self.kind]

    @property
    def loras(self) -> tuple[str, ...]:
        """The LoRAs that it names."""
        if self.kind == "adapter":
            return tuple(value for value in self.values if value != NO_ADAPTER)
        return (self.lora,) if self.lora else ()

    @property
    def labels(self) -> tuple[str, ...]:
        if self.kind == "adapter":
            told = _differences(self.loras)
            return tuple(told.get(value, value) for value in self.values)
        return tuple(f"{value:.4g}" if isinstance(value, float) else str(value) for value in self.values)

    def apply(self, request: GenerateRequest, value: Any) -> GenerateRequest:
        """The request with this value of what the axis changes.

        Raises:
            RequestError: it has nothing of the kind, or not with this value.
        """
        if self.kind == "strength" and not isinstance(request, EditRequest | TranslateRequest):
            raise RequestError("Only an edit or translation has a strength; give it a picture or choose another axis.")
        if self.kind == "control":
            if request.control is None:
                raise RequestError(
                    "Without a control picture there is no control strength; give one or choose another."
                )
            return replace(request, control=replace(request.control, strength=value))
        if self.kind == "lora":
            others = tuple(use for use in request.loras if use.name != self.lora)
            return replace(request, loras=(*others, LoraUse(self.lora, value)))
        if self.kind == "adapter":  # without those of the other cells, so that two cells differ by one LoRA
            others = tuple(use for use in request.loras if use.name not in self.values)
            return replace(request, loras=others if value == NO_ADAPTER else (*others, LoraUse(value)))
        if self.kind == "style":
            return replace(request, prompt=f"{request.prompt}, {value}".removeprefix(", "))
        return replace(request, **{self.kind.replace("-", "_"): value})


TITLES = {kind: kind for kind in AXES} | {
    "control": "control strength",
    "one-step": "weight of the one-step LoRA",
    "adapter": "LoRA",
}


def _differences(names: Iterable[str]) -> dict[str, str]:
    """Names of LoRAs -> what tells them apart: ``run-ink-step-50`` beside ``run-ink-step-200`` is "step 50"."""
    parts = {name: re.split("[-/]", public_name(name).removesuffix(".safetensors")) for name in names}
    heads = zip(*(each[:-1] for each in parts.values()), strict=False)
    cut = len(list(takewhile(lambda column: len(set(column)) == 1, heads))) if len(parts) > 1 else 0
    if cut and any(each[cut][:1].isdigit() for each in parts.values()):  # a number alone does not say of what
        cut -= 1
    return {name: " ".join(each[cut:]) if cut else public_name(name) for name, each in parts.items()}


def parse_axis(text: str) -> Axis:
    """An axis as people write it: ``seed=0,1,2``, ``strength=0:1:5``, ``lora.pixel-art=0,1``, ``prompt=a cat|a dog``.

    LoRAs themselves are ``adapter=none|line-art|blueprint-ink``.

    Raises:
        RequestError: it is none, or a value is not possible.
    """
    check_text("An axis", text, AXIS_LIMIT * PROMPT_LIMIT)
    name, equals, listed = text.partition("=")
    kind, dot, lora = name.strip().partition(".")
    if not equals or kind not in AXES:
        raise RequestError(f"{text!r:.60} is no axis; write one such as {AXIS_HELP}.")
    if kind in WORDS:
        values = [each.strip() for each in split_at(listed, "|", "{}[]")]  # bars in a prompt's choices are its own
    elif kind == "sampler":
        values = [each.strip() for each in re.split("[|,]", listed)]
    elif ":" in listed:
        values = _spread(listed)
    else:
        values = [_number(each) for each in listed.split(",")]
    return Axis(kind, tuple(values), lora if dot else None)


def _spread(text: str) -> list[float]:
    """FROM:TO:COUNT as evenly spread values."""
    parts = [_number(each) for each in text.split(":")]
    if len(parts) != 3:
        raise RequestError(f"{text!r:.40} is no range; write FROM:TO:COUNT, such as 0:1:5.")
    first, last, count = *parts[:2], check_whole("The number of values on an axis", parts[2], 2, AXIS_LIMIT)
    return [round(first + (last - first) * index / (count - 1), 9) for index in range(count)]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RequestError(f"{text.strip()!r:.40} on an axis is no number; write one such as {AXIS_HELP}.")
    return value


@dataclass(frozen=True)
class Sheet:
    """Requests whose pictures belong beside one another; each is valid, and makes one picture.

    Attributes:
        columns: what is written above each column.
        rows: what is written beside each row.
        requests: row by row.
        title, subtitle: what all of them have in common.
        column_title, row_title: what changes along a row, and along a column.
        timed: whether evaluations and times are written under each picture.
        notes: what was left out, in words.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    requests: tuple[GenerateRequest, ...] = field(repr=False)
    title: str = ""
    subtitle: str = ""
    column_title: str = ""
    row_title: str = ""
    timed: bool = False
    notes: tuple[str, ...] = ()


def ladder(
    engine: Service,
    request: GenerateRequest,
    teacher_steps: int = 25,
    teacher_guidance: float = 2.0,
    report: Report = unheard,
) -> Sheet:
    """One prompt and seed in 1, 2 and 4 steps, by the teacher, and in 1 step without the one-step LoRA, as far as the
    model has these.

    Args:
        engine: loads the model, to see whether it has such a LoRA.
        request: its steps, sampler and count give way to the rungs'.
        teacher_steps: of DDIM, 2 to 50.
        teacher_guidance: classifier-free guidance of the teacher alone.

    Raises:
        RequestError: a model that is not here, a value that is not possible, or a translation.
    """
    if isinstance(request, TranslateRequest):
        raise RequestError("A translation takes one evaluation and no other number; lay its strengths in a grid.")
    engine.load(request.model, report)
    spec = engine.models[request.model]
    request = replace(request, count=1, sampler=None, steps=1)
    rungs = {_steps_text(steps): replace(request, steps=steps) for steps in spec.offer.steps}
    notes: tuple[str, ...] = ()
    if spec.lora is None:
        notes = (f"{spec.title} has no one-step LoRA of its own to leave out, so there is no teacher beside it",)
    else:
        teacher_steps = check_whole("Steps of the teacher", teacher_steps, *MANY_STEPS)
        teacher = {"one_step": 0.0, "sampler": "ddim", "steps": teacher_steps, "guidance": teacher_guidance}
        others = {
            f"Teacher, {_steps_text(teacher_steps)}": replace(request, **teacher),
            "1 step without the one-step LoRA": replace(request, one_step=0.0),
        }
        lacks = [title for title, rung in others.items() if not _is_possible(engine, rung)]
        rungs |= {title: rung for title, rung in others.items() if title not in lacks}
        notes = tuple(f"{spec.title} does not take what “{title}” would" for title in lacks)
    subtitle = f"{spec.title}, seed {request.seed}"
    return Sheet(tuple(rungs), ("",), tuple(rungs.values()), request.prompt, subtitle, timed=True, notes=notes)


def _is_possible(engine: Service, request: GenerateRequest) -> bool:
    try:
        engine.completed(request)
    except RequestError:
        return False
    return True


def _steps_text(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"


def grid(request: GenerateRequest, x: Axis, y: Axis | None = None) -> Sheet:
    """A request with every value of `x` from left to right, and of `y` from top to bottom.

    Raises:
        RequestError: two axes that change the same, too many cells, or a value that this request can't have.
    """
    if y is not None and (x.kind, x.lora) == (y.kind, y.lora):
        raise RequestError(f"Both axes change the {x.title}; please choose two that differ.")
    if y is not None and (twice := set(x.loras) & set(y.loras)):
        raise RequestError(f"Both axes change {public_name(min(twice))!r:.60}; please take it from one of them.")
    cells = len(x.values) * (len(y.values) if y else 1)
    if cells > CELL_LIMIT:
        raise RequestError(f"A grid has at most {CELL_LIMIT} pictures, not {cells}; please take fewer values.")
    request = replace(request, count=1)
    # A style goes behind the prompt, whichever axis has which.
    axes = sorted(filter(None, (y, x)), key=lambda axis: axis.kind == "style")

    def cell(values: dict[Axis, Any]) -> GenerateRequest:
        # Steps are possible with some samplers alone, so these change together.
        together = {axis.kind: value for axis, value in values.items() if axis.kind in ("sampler", "steps")}
        return reduce(lambda made, axis: axis.apply(made, values[axis]), axes, replace(request, **together))

    kinds = {x.kind, y.kind if y else ""}
    return Sheet(
        columns=x.labels,
        rows=y.labels if y else ("",),
        requests=tuple(
            cell({x: across} | ({y: down} if y else {})) for down in (y.values if y else (None,)) for across in x.values
        ),
        title="" if "prompt" in kinds else request.prompt,
        subtitle=request.model if "seed" in kinds else f"{request.model}, seed {request.seed}",
        column_title=x.title,
        row_title=y.title if y else "",
    )


def run(engine: Service, sheet: Sheet, report: Report = unheard) -> Iterator[Result]:
    """The results of a sheet's requests in their order, each as soon as it is there; raises as `Service.run` does."""
    model = sheet.requests[0].model  # the same for all
    engine.load(model, report)  # in no picture's time
    for name in {use.name: None for request in sheet.requests for use in request.loras}:
        engine.check_lora(name, model)  # so that none is refused when half of the pictures are there
    yield from engine.run_each(sheet.requests, report)


def draw(sheet: Sheet, results: Iterable[Result]) -> Image.Image:
    """One labelled picture of the results, as far as they are there; the other places are left pale.

    Small pictures are enlarged to 192 pixels, large ones are shown at no more than 512.
    """
    made = list(results)
    natural = max(made[0].pictures[0].size) if made else LEAST_SIDE
    side = min(max(natural, LEAST_SIDE), MOST_SIDE)
    width = len(sheet.columns) * (side + GAP) - GAP
    above = [_wrap(label, LABEL_SIZE, side, 3) for label in sheet.columns]
    beside = [_wrap(label, LABEL_SIZE, ROW_LABEL_WIDTH, side // _line(LABEL_SIZE)) for label in sheet.rows]
    beside_width = math.ceil(max(_font(LABEL_SIZE).getlength(line) for lines in beside for line in lines or [""]))
    left = MARGIN + (_line(SMALL_SIZE) if sheet.row_title else 0) + (beside_width + 2 * GAP if beside_width else 0)
    title = _wrap(sheet.title, TITLE_SIZE, width, 2)
    subtitle = _wrap(sheet.subtitle, SMALL_SIZE, width, 1)
    column_title = _wrap(sheet.column_title, SMALL_SIZE, width, 1)
    notes = _wrap("; ".join(sheet.notes), SMALL_SIZE, width, 3)

    heads = MARGIN + len(title) * _line(TITLE_SIZE) + len(subtitle) * _line(SMALL_SIZE) + GAP
    labels = heads + len(column_title) * (_line(SMALL_SIZE) + GAP // 2)
    top = labels + max(map(len, above)) * _line(LABEL_SIZE) + GAP // 2
    pitch = side + GAP + (_line(LABEL_SIZE) + _line(SMALL_SIZE) + GAP if sheet.timed else 0)
    bottom = top + len(sheet.rows) * pitch - GAP
    foot = len(notes) * _line(SMALL_SIZE) + (GAP if notes else 0)
    picture = Image.new("RGB", (left + width + MARGIN, bottom + foot + MARGIN), "white")
    pen = ImageDraw.Draw(picture)

    after_title = _write(pen, title, left, MARGIN, TITLE_SIZE, INK)
    _write(pen, subtitle, left, after_title, SMALL_SIZE, PALE)
    _write(pen, column_title, left + width / 2, heads, SMALL_SIZE, PALE, "m")
    for column, lines in enumerate(above):
        lowered = top - GAP // 2 - len(lines) * _line(LABEL_SIZE)  # to stand on the pictures
        _write(pen, lines, left + column * (side + GAP) + side / 2, lowered, LABEL_SIZE, INK, "m")
    for row, lines in enumerate(beside):
        centred = top + row * pitch + (side - len(lines) * _line(LABEL_SIZE)) // 2
        _write(pen, lines, left - GAP, centred, LABEL_SIZE, INK, "r")
    if sheet.row_title:
        turned = _upright(sheet.row_title, bottom - top)
        picture.paste(turned, (MARGIN, top + (bottom - top - turned.height) // 2))
    for index in range(len(sheet.requests)):
        row, column = divmod(index, len(sheet.columns))
        place = (left + column * (side + GAP), top + row * pitch)
        pen.rectangle((place[0] - 1, place[1] - 1, place[0] + side, place[1] + side), fill=BLANK)  # frames a white one
        if index >= len(made):
            continue
        result = made[index]
        cell = ImageOps.contain(result.pictures[0], (side, side), Image.Resampling.LANCZOS)
        picture.paste(cell, (place[0] + (side - cell.width) // 2, place[1] + (side - cell.height) // 2))
        if sheet.timed:
            middle = place[0] + side / 2
            times = _write(pen, [_evaluations_text(result)], middle, place[1] + side + GAP, LABEL_SIZE, INK, "m")
            _write(pen, [_seconds_text(result.seconds["total"])], middle, times, SMALL_SIZE, PALE, "m")
    _write(pen, notes, left, bottom + GAP, SMALL_SIZE, PALE)
    return picture


def _evaluations_text(result: Result) -> str:
    return f"{result.evaluations} evaluation{'' if result.evaluations == 1 else 's'}"


def _seconds_text(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _line(size: int) -> int:
    """Height of a line in pixels."""
    return round(1.4 * size)


def _wrap(text: str, size: int, width: float, limit: int) -> list[str]:
    """At most `limit` lines no wider than `width` pixels; what does not fit is cut."""
    measure, lines = _font(size).getlength, []
    plain = (each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    rest = " ".join("".join(plain).split())  # without accents, because the font has none
    while rest and len(lines) < limit:
        fitting = next((end for end in range(1, len(rest) + 1) if measure(rest[:end]) > width), len(rest) + 1) - 1
        if fitting < len(rest) and len(lines) == limit - 1:
            lines.append(f"{rest[: max(1, fitting - 1)].rstrip()}…")
            break
        space = rest.rfind(" ", 0, fitting + 1) if fitting < len(rest) else -1
        end = space if space > 0 else max(1, fitting)
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return lines


def _write(
    pen: ImageDraw.ImageDraw, lines: list[str], x: float, y: float, size: int, fill: str, anchor: str = "l"
) -> float:
    """Write lines from (x, y) down, x being their left end ("l"), middle ("m") or right end ("r").

    Returns:
        y below the last of them.
    """
    for line in lines:
        pen.text((x, y), line, fill=fill, font=_font(size), anchor=f"{anchor}a")
        y += _line(size)
    return y


def _upright(text: str, height: int) -> Image.Image:
    """One line of small text that is read from below, no longer than `height` pixels."""
    lines = _wrap(text, SMALL_SIZE, height, 1)
    strip = Image.new("RGB", (math.ceil(_font(SMALL_SIZE).getlength(lines[0])), _line(SMALL_SIZE)), "white")
    _write(ImageDraw.Draw(strip), lines, 0, 0, SMALL_SIZE, PALE)
    return strip.transpose(Image.Transpose.ROTATE_90)
