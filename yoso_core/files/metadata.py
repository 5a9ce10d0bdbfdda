"""What is written into a PNG so that its picture can be made again.

Two text chunks: ``parameters``, the line format that other tools of the field write and read, and ``yoso``, our request
as JSON, with the pictures that it edits and follows.
"""

import base64
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from yoso_core.editing import lay_out
from yoso_core.engine import Result
from yoso_core.files.foreign import NEGATIVE, PARAMETERS_LIMIT, Found, exif_texts, read_foreign, read_lines
from yoso_core.files.pictures import PictureFileError, fitted, open_mask, open_picture, opened
from yoso_core.lora.library import public_name
from yoso_core.prompts import LORA_KINDS, Tag, called, choose, number_in, tags_of, without_tags
from yoso_core.requests import (
    CONSISTENCY,
    DEFAULT_MODEL,
    FEW_STEP_SAMPLERS,
    GUIDANCE_STEP,
    LORA_LIMIT,
    LORA_WEIGHT_RANGE,
    PROMPT_LIMIT,
    SAMPLERS,
    SEED_LIMIT,
    STEPS,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
    check_text,
)

KINDS = {"generate": GenerateRequest, "edit": EditRequest, "translate": TranslateRequest}
PNG_URL = "data:image/png;base64,"
PICTURE_LIMIT = 24_000_000  # characters of one picture in JSON
JSON_LIMIT = 48_000_000  # characters in all; PIL reads no more than 64 MB of text from a PNG
SAMPLER_KEYS = ("sampler", "sampler_name", "scheduler")  # in small letters
LISTED = 8  # things named in one note
FEW_STEPS_STAND = 1.5  # guidance; above it one to four steps draw burnt pictures


@dataclass(frozen=True)
class Restored:
    """Settings that were read.

    Attributes:
        request: what they ask for, as far as it can be asked here.
        notes: what was left out or changed, in words; empty if nothing was.
    """

    request: GenerateRequest
    notes: tuple[str, ...] = ()


def request_of(result: Result, index: int) -> GenerateRequest:
    """The request that makes picture number `index` of a result alone, from pictures no larger than that takes.

    What a large picture was translated to comes out in the size that the network drew.
    """
    alone = replace(result.request, seed=result.seeds[index], count=1)
    if not isinstance(alone, TranslateRequest):
        return _reduced(alone, result.pictures[index].size)
    large = max(alone.picture.size) > 2 * max(result.before.size)
    return replace(alone, picture=result.before) if large else alone


def for_others(request: GenerateRequest) -> GenerateRequest:
    """A request as it may leave its session: with LoRAs named without what only the session knows."""
    weights = {public_name(use.name): use.weight for use in request.loras}
    return replace(request, loras=tuple(LoraUse(name, weight) for name, weight in weights.items()))


def _reduced(request: GenerateRequest, size: tuple[int, int]) -> GenerateRequest:
    """The same request with pictures of more than twice the size laid out already, which changes nothing it makes.

    Args:
        size: width and height of what it makes.
    """

    def is_large(picture: Image.Image) -> bool:
        return max(picture.size) > 2 * max(size)

    control = request.control
    if control is not None and is_large(control.picture):
        control = replace(control, picture=fitted(control.picture, size, control.fit))
        request = replace(request, control=control)
    if isinstance(request, EditRequest) and is_large(request.picture):
        inner = tuple(round(side / (1 + 2 * request.grow)) for side in size)
        plain = lay_out(replace(request, grow=0.0, feather=0.0), inner)
        request = replace(request, picture=plain.picture, mask=plain.mask)
    return request


def to_json(request: GenerateRequest) -> dict[str, Any]:
    """A request as JSON holds it: its fields, pictures as PNG in data URLs, and its "kind"."""
    kind = next(name for name, made in KINDS.items() if type(request) is made)
    return {"kind": kind, **_plain(request)}


def _plain(value: Any) -> Any:
    if isinstance(value, Image.Image):
        return _png_url(value.mode, value.size, value.tobytes())
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@lru_cache(maxsize=4)  # while a slider moves, what it changes is the same each time
def _png_url(mode: str, size: tuple[int, int], pixels: bytes) -> str:
    buffer = BytesIO()
    Image.frombytes(mode, size, pixels).save(buffer, "PNG")
    return PNG_URL + base64.b64encode(buffer.getvalue()).decode()


def from_json(values: Any) -> GenerateRequest:
    """The request that `to_json` wrote, of one of `KINDS`.

    Raises:
        RequestError: an unknown kind or field, one that is missing, or a value that is not valid.
    """
    values = dict(_object(values))
    kind = values.pop("kind", "generate")  # pictures of the first version say none
    if not isinstance(kind, str) or kind not in KINDS:
        raise RequestError(f"The settings are of the kind {kind!r:.40}; known are {' and '.join(KINDS)}.")
    return _build(KINDS[kind], values)


def _object(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise RequestError("The settings can't be read, because they are no JSON object; please choose others.")
    return values


def _build(kind: type, values: Any) -> Any:
    """A request, or a part of one, from its fields as JSON holds them."""
    known = {field.name: field for field in fields(kind)}
    for name in _object(values):
        if name not in known:
            raise RequestError(f"The settings have a field {name!r:.40}, which is not known here; please remove it.")
    for name, field in known.items():
        if field.default is MISSING and name not in values:
            raise RequestError(f"The settings lack the field {name!r}; please add it.")
    return kind(**{name: READERS[name](value) if name in READERS else value for name, value in values.items()})


def _read_picture(text: Any) -> Image.Image:
    return _opened(text, lambda file: open_picture(file).picture)


def _read_mask(text: Any) -> Image.Image | None:
    return None if text is None else _opened(text, open_mask)


def _opened(text: Any, read: Callable[[BinaryIO], Image.Image]) -> Image.Image:
    try:
        if not isinstance(text, str) or not text.startswith(PNG_URL) or len(text) > PICTURE_LIMIT:
            raise ValueError
        return read(BytesIO(base64.b64decode(text[len(PNG_URL) :], validate=True)))
    except (ValueError, PictureFileError):
        raise RequestError("A picture inside the settings can't be read; please choose another file.") from None


def _read_control(values: Any) -> ControlUse | None:
    return None if values is None else _build(ControlUse, values)


def _read_loras(values: Any) -> tuple[LoraUse, ...]:
    if not isinstance(values, list):
        raise RequestError("The LoRAs in the settings can't be read: they must be a list.")
    return tuple(_build(LoraUse, use) for use in values[: LORA_LIMIT + 1])  # one too many is enough to be refused


def _read_sampler(name: Any) -> Any:
    return CONSISTENCY if name == "consistency" else name  # as pictures of earlier versions call it


READERS: dict[str, Callable[[Any], Any]] = {
    "picture": _read_picture,
    "mask": _read_mask,
    "control": _read_control,
    "loras": _read_loras,
    "sampler": _read_sampler,
}


def _parse(text: str, limit: int) -> Any:
    try:
        if len(text) > limit:
            raise ValueError(f"{len(text):,} characters, at most {limit:,} are read")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The settings can't be read ({error!s:.80}).") from None


def parameters_text(result: Result, index: int) -> str:
    """The ``parameters`` text: prompt, negative prompt, then the settings."""
    request, picture = for_others(result.request), result.pictures[index]
    loras = "".join(f" <lora:{use.name}:{use.weight:g}>" for use in request.loras)
    settings = {
        "Steps": request.steps,
        "Sampler": SAMPLERS[request.sampler or CONSISTENCY],  # nothing is left open in a request that was answered
        "CFG scale": f"{request.guidance or 1:g}",
        "Seed": result.seeds[index],
        "Size": f"{picture.width}x{picture.height}",
        "Model": _quoted(request.model),
    }
    if isinstance(request, EditRequest):
        settings["Denoising strength"] = f"{request.strength:g}"
    if isinstance(request, TranslateRequest):
        settings["Translator"] = _quoted(" ".join(filter(None, (request.translator, request.direction))))
        settings["Translation strength"] = f"{request.strength:g}"
    if request.one_step != 1:
        settings["One-step weight"] = f"{request.one_step:g}"
    if request.control is not None:
        settings["ControlNet 0"] = _quoted(_control_text(request.control))
    if result.runtime:
        settings["Runtime"] = _quoted(result.runtime)
    seed = result.seeds[index]  # which made the choices
    lines = [choose(request.prompt, seed) + loras]
    if request.negative:
        lines.append(f"{NEGATIVE} {choose(request.negative, seed)}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def _control_text(use: ControlUse) -> str:
    named = {"Model": use.network} if use.network else {}
    acts = {"Weight": f"{use.strength:g}", "Guidance Start": f"{use.start:g}", "Guidance End": f"{use.end:g}"}
    return ", ".join(f"{name}: {value}" for name, value in ({"Module": use.annotator} | named | acts).items())


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search('[,:"\n]', value) else value


def read_parameters(text: str, model: str = DEFAULT_MODEL, loras: Collection[str] = ()) -> Restored:
    """As much of a ``parameters`` text as can be asked for here.

    Args:
        text: as AUTOMATIC1111's web UI writes it, and many after it.
        model: what is to draw, because theirs are named by file names.
        loras: those that may be taken over, by id.

    Raises:
        RequestError: it is too long, or no text.
    """
    return _as_asked_here(read_lines(check_text("The text of the settings", text, PARAMETERS_LIMIT)), model, loras)


def _as_asked_here(found: Found, model: str, loras: Collection[str]) -> Restored:
    """What another program was asked, as far as it can be asked here, and what was left out or changed."""
    notes = [f"made by {found.program}{f': {found.partly}' if found.partly else ''}"] if found.program else []
    offered = _by_file_names(loras)
    uses = _take_loras([*tags_of(found.prompt), *found.loras], offered, notes)
    negative = _cut("negative prompt", found.negative, notes)
    steps, guidance = _take_steps(found, notes)
    sampler, rest = _take_sampler(found.rest, steps)
    if negative.strip() and guidance == 1:
        notes.append("the negative prompt acts above guidance 1 alone")
    request = GenerateRequest(
        prompt=_cut("prompt", without_tags(found.prompt), notes),
        negative=negative,
        seed=_take_seed(found.seed, notes),
        steps=steps,
        guidance=guidance if guidance > 1 else None,
        model=model,
        loras=uses,
        sampler=sampler,
    )
    left = [f"{name} {value:.40}" for name, value in rest.items()]
    if left:
        notes.append(f"not taken over: {_listed(left)}")
    return Restored(request, tuple(notes))


def _by_file_names(ids: Iterable[str]) -> dict[str, str]:
    """Ids of LoRAs by what other programs may call them: they hold where a file is from, and its name."""
    found: dict[str, str] = {}
    for name in ids:
        public = public_name(name)
        for each in (name, public, re.sub(r"^(upload|folder|hub|run)-", "", public)):
            found.setdefault(called(each), name)
    return found


def _take_loras(tags: Iterable[Tag], offered: Mapping[str, str], notes: list[str]) -> tuple[LoraUse, ...]:
    low, high = LORA_WEIGHT_RANGE
    uses: dict[str, LoraUse] = {}
    left: dict[str, None] = {}  # a set that keeps its order
    changed: list[str] = []
    for tag in tags:
        name = offered.get(called(tag.name)) if tag.kind in LORA_KINDS else None
        if name is None or (name not in uses and len(uses) == LORA_LIMIT):
            left[tag.name] = None
            continue
        if name in uses:
            continue
        weight = 1.0 if tag.weight is None else min(max(tag.weight, low), high)
        if weight != tag.weight:
            told = "without a weight that can be read" if tag.weight is None else f"at {tag.weight:g}"
            changed.append(f"LoRA {tag.name:.40} {told}: set to {weight:g}")
        uses[name] = LoraUse(name, weight)
    if left:
        notes.append(f"without the LoRAs {_listed([f'{name:.40}' for name in left])}")
    notes += changed
    return tuple(uses.values())


def _take_seed(told: Any, notes: list[str]) -> int:
    text = "" if told is None else str(told).strip()
    if not re.fullmatch(r"-?\d{1,40}", text):
        notes.append("no seed in it: set to 0")
        return 0
    seed = int(text) % (SEED_LIMIT + 1)
    if seed != int(text):
        notes.append(f"seed {text}: set to {seed}")
    return seed


def _take_steps(found: Found, notes: list[str]) -> tuple[int, float]:
    """Steps and guidance, which come down together: what many steps at guidance 7 draw, few steps burn."""
    steps, asked = _number(found.steps), _number(found.guidance)
    few = steps in STEPS
    wanted = min(max(asked or 1.0, 1.0), FEW_STEPS_STAND) if few else 1.0
    guidance = round(1 + round((wanted - 1) / GUIDANCE_STEP) * GUIDANCE_STEP, 2)
    if not few:
        at = "" if found.guidance is None else f" at guidance {_said(found.guidance)}"
        notes.append(f"{_said(found.steps)} steps{at}: set to 1 step at guidance 1, as a one-step model stands")
    elif guidance != asked:
        notes.append(f"guidance {_said(found.guidance)}: set to {guidance:g}, as so few steps stand")
    return int(steps) if few else 1, guidance


def _take_sampler(rest: Mapping[str, str], steps: int) -> tuple[str | None, dict[str, str]]:
    """The sampler that is named, if it is one of ours and fits the steps, and what else was said."""
    for key, value in rest.items():
        if key.lower() in SAMPLER_KEYS:
            # A1111 wrote its spacing of timesteps behind the name before it became a setting of its own.
            named = re.sub(r"[\s_]+", " ", value.lower()).replace("dpmpp", "dpm++").strip().removesuffix(" karras")
            sampler = next((name for name, title in SAMPLERS.items() if title.lower() == named), None)
            if sampler in FEW_STEP_SAMPLERS or (sampler and steps > 1):
                return sampler, {name: each for name, each in rest.items() if name != key}
    return None, dict(rest)


def _said(value: Any) -> str:
    """A number as people write it; of whatever else stands there the beginning, on one line."""
    number = number_in(str(value))
    return f"{value!r:.20}" if number is None else f"{number:g}"


def _number(value: Any) -> float | None:
    """A finite number, be it as text; 1 where nothing is told, None for everything else."""
    if value is None or value == "":
        return 1.0
    return number_in(str(value)) if isinstance(value, (str, int, float)) else None


def _cut(name: str, text: str, notes: list[str]) -> str:
    text = re.sub("[\x00\ud800-\udfff]", "", text)  # what is no text
    if len(text) > PROMPT_LIMIT:
        notes.append(f"{name}: only its first {PROMPT_LIMIT:,} characters")
    return text[:PROMPT_LIMIT]


def _listed(things: list[str]) -> str:
    more = len(things) - LISTED
    return ", ".join(things[:LISTED]) + (f" and {more} more" if more > 0 else "")


def png_info(result: Result, index: int) -> PngInfo:
    info = PngInfo()
    info.add_itxt("parameters", parameters_text(result, index))
    info.add_itxt("yoso", json.dumps(to_json(for_others(request_of(result, index))), ensure_ascii=False))
    return info


def save_png(result: Result, index: int, path: Path) -> None:
    """Write one picture of a result with its metadata."""
    result.pictures[index].save(path, "PNG", pnginfo=png_info(result, index))


def read_request(
    source: Path | BinaryIO | Image.Image, model: str = DEFAULT_MODEL, loras: Collection[str] = ()
) -> Restored:
    """The request that a picture was made from: of ours all of it, of other programs what can be asked for here.

    Args:
        source: a PNG, or a JPEG or WebP of another program.
        model: as for `read_parameters`, as is
        loras: those that may be taken over from another program's.

    Raises:
        RequestError: the picture carries none, or one that is not valid.
    """
    texts = texts_of(source)
    if "yoso" in texts:
        return Restored(from_json(_parse(texts["yoso"], JSON_LIMIT)))
    return _as_asked_here(read_foreign(texts), model, loras)


def texts_of(source: Path | BinaryIO | Image.Image) -> dict[str, str]:
    """The texts in a picture, by the keywords of a PNG or the names of EXIF tags; its pixels are not read.

    Raises:
        PictureFileError: it is no picture that can be read.
    """
    with opened(source) as found:
        return found.texts() | exif_texts(found.picture)
