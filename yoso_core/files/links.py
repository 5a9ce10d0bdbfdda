"""Settings as the text of a link: URL-safe, without what is as by default, with pictures where they are small."""

import base64
import io
import json
import re
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from PIL import Image

from yoso_core.files.metadata import KINDS, PNG_URL, Restored, for_others, from_json, to_json
from yoso_core.files.pictures import PictureFileError, open_picture
from yoso_core.requests import EditRequest, GenerateRequest, RequestError, TranslateRequest

LINK_LIMIT = 16_000  # characters, behind the # of an address, which no server sees
PICTURE_LIMIT = 7_000  # characters of one picture; a drawing in a few colours takes 2,000
TRIES = ((256, 100, True), (256, 80, False), (160, 75, False))  # longer side, quality, lossless
KEPT_BACK = {"picture": "the picture that it began with", "mask": "the mask", "control": "the control picture"}


@dataclass(frozen=True)
class Link:
    """A request as text.

    Attributes:
        text: URL-safe.
        without: what stays behind, in words.
    """

    text: str
    without: tuple[str, ...] = ()


def link_text(request: GenerateRequest) -> Link:
    """A request for others. Pictures that are too large for a link stay behind, and with them what is done to them.

    Raises:
        RequestError: the words alone are too long for a link.
    """
    request = for_others(request)
    small, lacking = _with_small_pictures(request)
    kind = type(small)
    values = {name: value for name, value in to_json(small).items() if name != "kind"}
    defaults = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    values = {name: value for name, value in values.items() if value != _jsonable(defaults.get(name, MISSING))}
    for name in ("picture", "mask"):
        if values.get(name):
            values[name] = _packed(getattr(small, name))
    if small.control is not None:
        same = getattr(small, "picture", None) == small.control.picture
        values["control"]["picture"] = "" if same else _packed(small.control.picture)
    if kind is not GenerateRequest:
        values["kind"] = next(name for name, made in KINDS.items() if made is kind)
    if lacking:
        values["without"] = lacking
    compact = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    text = base64.urlsafe_b64encode(compact.encode()).decode().rstrip("=")
    if len(text) > LINK_LIMIT:
        raise RequestError("These settings are too long for a link; please shorten the prompt.")
    return Link(text, tuple(KEPT_BACK[name] for name in lacking))


def from_link(text: Any) -> Restored:
    """What `link_text` wrote.

    Raises:
        RequestError: it is no such text, or its settings are not valid.
    """
    broken = RequestError("This link can't be read, part of it may be missing; please copy the whole link.")
    # The decoder would skip what does not belong.
    if not isinstance(text, str) or len(text) > LINK_LIMIT or not re.fullmatch(r"[\w-]+=*", text, re.ASCII):
        raise broken
    try:
        decoded = base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)).decode()
        values = json.loads(decoded)
    except (ValueError, RecursionError):
        raise broken from None
    if not isinstance(values, dict):
        raise broken
    lacking = values.pop("without", [])
    if not isinstance(lacking, list) or not all(isinstance(name, str) and name in KEPT_BACK for name in lacking):
        raise broken
    try:
        for name in ("picture", "mask"):
            if values.get(name) is not None:
                values[name] = _unpacked(values[name])
        if isinstance(control := values.get("control"), dict):
            same = control.get("picture") == ""
            control["picture"] = values.get("picture") if same else _unpacked(control.get("picture"))
    except (PictureFileError, ValueError):
        raise broken from None
    notes = [f"{KEPT_BACK[name]} did not travel in the link: choose it again" for name in dict.fromkeys(lacking)]
    return Restored(from_json(values), tuple(notes))


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _with_small_pictures(request: GenerateRequest) -> tuple[GenerateRequest, list[str]]:
    """The request with as much of its pictures as a link holds, and the names of the others."""
    lacking = []
    if isinstance(request, EditRequest | TranslateRequest) and _packed(request.picture) is None:
        common = {field.name: getattr(request, field.name) for field in fields(GenerateRequest)}
        lacking += ["picture"] + ["mask"] * (getattr(request, "mask", None) is not None)
        request = GenerateRequest(**common)
    elif isinstance(request, EditRequest) and request.mask is not None and _packed(request.mask) is None:
        lacking, request = ["mask"], replace(request, mask=None)
    if request.control is not None and _packed(request.control.picture) is None:
        lacking, request = [*lacking, "control"], replace(request, control=None)
    return request, lacking


def _packed(picture: Image.Image) -> str | None:
    """A picture as text, smaller where it has to be; None where it takes too much all the same."""
    for side, quality, lossless in TRIES:
        small = picture.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality, lossless=lossless, method=6)
        text = base64.urlsafe_b64encode(buffer.getvalue()).decode().rstrip("=")
        if len(text) <= PICTURE_LIMIT:
            return text
    return None


def _unpacked(text: Any) -> str:
    """The picture as `from_json` reads it."""
    if not isinstance(text, str) or len(text) > PICTURE_LIMIT:
        raise ValueError("no picture of a link")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    buffer = io.BytesIO()
    open_picture(io.BytesIO(data)).picture.save(buffer, "PNG")
    return PNG_URL + base64.b64encode(buffer.getvalue()).decode()
