"""Settings that other programs left in pictures, whatever they call things: one plain function a program.

A program writes its settings as text into a PNG, or into the EXIF of a JPEG or a WebP. What is documented is read; of
other programs the name is told, and the prompt taken where it can be found.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from yoso_core.prompts import Tag, number_in
from yoso_core.requests import RequestError

PARAMETERS_LIMIT = 50_000  # characters of A1111's text
TEXT_LIMIT = 20_000_000  # characters of any other; graphs of ComfyUI are long
NEGATIVE = "Negative prompt:"
SETTING = re.compile(r'([A-Za-z][\w /-]{0,60}):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
CODES = (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8))  # how a user comment says its encoding
PROMPT_KEYS = ("prompt", "positive_prompt", "positiveprompt", "positive", "full_prompt", "raw_prompt")
NEGATIVE_KEYS = ("negative_prompt", "negativeprompt", "negative", "uc")
SEED_KEYS, STEPS_KEYS = ("seed", "noise_seed"), ("steps", "num_inference_steps")
GUIDANCE_KEYS = ("cfg_scale", "cfgscale", "guidance_scale", "guidancescale", "cfg", "scale", "guidance")
GRAPH_LIMIT = 1000  # nodes that are looked at
NOVELAI_LIMIT = 4000  # characters of a prompt
UNKNOWN = "a program that does not say its name"


class NoSettingsError(RequestError):
    """A picture that says nothing of how it was made."""


@dataclass(frozen=True)
class Found:
    """What a picture says of how it was made.

    Attributes:
        program: what wrote it; "" for the many that write as A1111's web UI does.
        prompt, negative: as `yoso_core.prompts` reads them.
        seed, steps, guidance: as text or numbers, unchecked; None where it does not say.
        loras: those that it names beside its prompt.
        rest: what else it says, by name; it is told and not taken over.
        partly: what of it was not read, in words.
    """

    program: str
    prompt: str = ""
    negative: str = ""
    seed: Any = None
    steps: Any = None
    guidance: Any = None
    loras: tuple[Tag, ...] = ()
    rest: Mapping[str, str] = field(default_factory=dict)
    partly: str = ""


def exif_texts(picture: Image.Image) -> dict[str, str]:
    """The texts in the EXIF of a picture, and a JPEG's or GIF's comment, by the names of their tags."""
    found: dict[str, str] = {}
    try:
        exif = picture.getexif()
        for tags in (exif, exif.get_ifd(ExifTags.IFD.Exif)):
            for tag in (*ExifTags.Base,):
                if tag in tags and (text := _exif_text(tags[tag])):
                    found.setdefault(tag.name, text)
    except Exception:  # damaged EXIF raises anything
        pass
    for name in ("comment", "xmp"):
        if text := _exif_text(picture.info.get(name)):
            found.setdefault(name, text)
    return found


def _exif_text(value: Any) -> str:
    """Text of a tag, "" where it is none."""
    if isinstance(value, str):
        return value.strip("\0 ")
    if not isinstance(value, bytes):
        return ""
    code, body = value[:8], value[8:]
    if code == CODES[1]:  # UTF-16 of whatever byte order the writer's machine had
        readings = [body.decode(order, errors="replace") for order in ("utf-16-be", "utf-16-le")]
        return max(readings, key=lambda text: sum(one < "\u0250" for one in text)).strip("\0\ufeff ")
    return (body if code in CODES else value).decode("utf-8", errors="replace").strip("\0 ")


def read_foreign(texts: Mapping[str, str]) -> Found:
    """What is said in the texts of a picture.

    Args:
        texts: by the keywords of a PNG, or the names of EXIF tags.

    Raises:
        NoSettingsError: there are none.
        RequestError: they can't be read.
    """
    for text in texts.values():
        if len(text) > TEXT_LIMIT:
            raise RequestError(f"The settings in this picture have {len(text):,} characters: at most {TEXT_LIMIT:,}.")
    for read in READERS:
        found = read(texts)
        if found is not None:
            return found
    software = _line(texts.get("Software", ""))
    told = f" that can be read (it was saved by {software})" if software else ""
    raise NoSettingsError(f"This picture has no settings in it{told}; please choose one as it was saved by the studio.")


def _invoke(texts: Mapping[str, str]) -> Found | None:
    """InvokeAI: ``invokeai_metadata`` since version 3, ``sd-metadata`` before, and a command line before that."""
    values = _object(texts.get("invokeai_metadata"))
    if values is not None:
        loras = tuple(_invoke_lora(each) for each in _list(values.get("loras")))
        found = _by_keys("InvokeAI", values, {"loras", "model", "app_version"})
        return _with(found, loras=loras)
    values = _object(texts.get("sd-metadata"))
    if values is not None:
        image = _object(values.get("image")) or {}
        prompt = image.get("prompt")
        if isinstance(prompt, list):
            prompt = " ".join(_text((_object(part) or {}).get("prompt")) for part in prompt)
        words, negative = _invoke_negative(_text(prompt))
        return _with(_by_keys("InvokeAI", image, {"prompt"}), prompt=words, negative=negative)
    dream = texts.get("Dream") or texts.get("dream")
    match = re.match(r'\s*"((?:[^"\\]|\\.)*)"(.*)', dream or "", re.DOTALL)
    if not match:
        return None
    flags = dict(re.findall(r"-([sSCWHA])\s*(\S+)", match[2]))
    words, negative = _invoke_negative(re.sub(r"\\(.)", r"\1", match[1]))
    rest = {name: flags[flag] for flag, name in (("W", "width"), ("H", "height"), ("A", "sampler")) if flag in flags}
    return Found("InvokeAI", words, negative, flags.get("S"), flags.get("s"), flags.get("C"), rest=rest)


def _invoke_negative(prompt: str) -> tuple[str, str]:
    """Early versions had the negative prompt in square brackets within the prompt."""
    negative = ", ".join(re.findall(r"\[([^\[\]]*)\]", prompt))
    return re.sub(r"\s*\[[^\[\]]*\]", "", prompt).strip(), negative


def _invoke_lora(value: Any) -> Tag:
    use = _object(value) or {}
    model = _object(use.get("lora")) or _object(use.get("model")) or {}
    name = model.get("model_name") or model.get("name") or model.get("key")
    return Tag("lora", _text(name), number_in(_text(use.get("weight", 1))))


def _json_parameters(texts: Mapping[str, str]) -> Found | None:
    """JSON where A1111 has its text: SwarmUI, Fooocus and others."""
    values = next(filter(None, (_object(texts.get(name)) for name in PLACES)), None)
    if values is None or _is_graph(values):
        return None
    swarm = _object(values.get("sui_image_params"))
    if swarm is not None:
        loras = zip(_list(swarm.get("loras")), [*_list(swarm.get("loraweights")), *[1] * 99], strict=False)
        tags = tuple(Tag("lora", _text(name), number_in(_text(weight))) for name, weight in loras)
        found = _by_keys("SwarmUI", swarm, {"loras", "loraweights", "swarm_version"})
        return _with(found, loras=tags)
    if "fooocus_scheme" in texts or {"metadata_scheme", "base_model", "performance"} & {*values}:
        return _fooocus(values)
    program = _line(_text(values.get("software") or values.get("app") or texts.get("Software"))) or UNKNOWN
    return _other(program, values)


def _fooocus(values: dict[str, Any]) -> Found:
    tags = []
    for name, value in values.items():
        if re.fullmatch(r"lora_combined_\d+", name) and (pair := _text(value).rpartition(" : "))[0]:
            tags.append(Tag("lora", pair[0], number_in(pair[2])))
    for each in _list(values.get("loras")):
        if isinstance(each, list) and len(each) > 1:
            tags.append(Tag("lora", _text(each[0]), number_in(_text(each[1]))))
    known = {"loras", "full_prompt", "full_negative_prompt", "metadata_scheme", "version"}
    known |= {name for name in values if name.startswith("lora_combined")}
    return _with(_by_keys(_line(_text(values.get("version"))) or "Fooocus", values, known), loras=tuple(tags))


def _novelai(texts: Mapping[str, str]) -> Found | None:
    """NovelAI: JSON as a comment. Its brackets are curly and square; round ones mean nothing to it."""
    values = next((made for name in ("Comment", "comment", "UserComment") if (made := _object(texts.get(name)))), None)
    software = texts.get("Software", "")
    if values is None or not (software.startswith("NovelAI") or "uc" in values or "v4_prompt" in values):
        return None
    values = _object(values.get("Comment")) or values  # WebP wraps it once more

    def caption(key: str) -> str:
        told = _object((_object(values.get(key)) or {}).get("caption")) or {}
        people = [_text((_object(one) or {}).get("char_caption")) for one in _list(told.get("char_captions"))]
        return ", ".join(filter(None, [_text(told.get("base_caption")), *people]))

    prompt = caption("v4_prompt") or _text(values.get("prompt")) or texts.get("Description", "")
    negative = caption("v4_negative_prompt") or _text(values.get("uc"))
    known = {"v4_prompt", "v4_negative_prompt", "uc", "signed_hash"}
    found = _by_keys("NovelAI", values, known)
    return _with(found, prompt=from_novelai(prompt), negative=from_novelai(negative))


def from_novelai(text: str) -> str:
    """A prompt of NovelAI with its weights as A1111 writes them."""
    text = re.sub(r"([()])", r"\\\1", text[:NOVELAI_LIMIT])
    text = re.sub(r"(-?\d+(?:\.\d+)?)::(.*?)(?:::|$)", lambda found: f"({found[2]}:{found[1]})", text, flags=re.DOTALL)
    for opening, closing, factor in (("{", "}", 1.05), ("[", "]", 1 / 1.05)):
        inner = re.compile(rf"\{opening}([^\{opening}\{closing}]*)\{closing}")
        while inner.search(text):
            text = inner.sub(lambda found, factor=factor: f"({found[1]}:{factor:.4g})", text)
    return re.sub(r"[{}\[\]]", "", text)


def _comfy(texts: Mapping[str, str]) -> Found | None:
    """ComfyUI: a graph, which is followed from its sampler to its prompts; what else it does is not read."""
    written = dict(texts)
    for text in texts.values():  # a WebP has them behind other names
        name, _, body = text.partition(":")
        if name.lower() in ("prompt", "workflow"):
            written.setdefault(name.lower(), body)
    graph, drawn = _object(written.get("prompt")), _object(written.get("workflow"))
    if not _is_graph(graph) and (drawn is None or "nodes" not in drawn):
        return None
    nodes = {name: node for name, node in list((graph or {}).items())[:GRAPH_LIMIT] if isinstance(node, dict)}
    inputs = {name: _object(node.get("inputs")) or {} for name, node in nodes.items()}
    sampler = next((each for each in inputs.values() if "positive" in each and SEED_KEYS[0] in each), None)
    sampler = sampler or next((each for each in inputs.values() if "positive" in each), {})
    prompt, negative = (_words_behind(sampler.get(name), inputs) for name in ("positive", "negative"))
    if not prompt:
        prompt = max((_text(each.get("text")) for each in inputs.values()), key=len, default="") or _longest_text(drawn)
    if not prompt:
        raise RequestError("This picture was made by ComfyUI, and no prompt was found in its graph; please type it.")
    partly = f"its graph is not read here, but for its prompt{', seed, steps and guidance' * ('cfg' in sampler)}"
    seed = sampler.get("seed", sampler.get("noise_seed"))
    steps, guidance = sampler.get("steps"), sampler.get("cfg")
    plain = [value if isinstance(value, (int, float)) else None for value in (seed, steps, guidance)]
    tags = tuple(
        Tag("lora", name, number_in(_text(each.get("strength_model", 1))))
        for each in inputs.values()
        if (name := _text(each.get("lora_name")))
    )
    return Found("ComfyUI", prompt, negative, *plain, loras=tags, partly=partly)


def _words_behind(link: Any, inputs: Mapping[str, Mapping[str, Any]]) -> str:
    """The text that a link of a graph leads back to; "" where there is none."""
    waiting, seen = [link], set()
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, str) and link.strip():
            return link
        if not isinstance(link, list) or not link or str(link[0]) in seen:
            continue
        seen.add(str(link[0]))
        node = inputs.get(str(link[0]), {})
        first = [value for name, value in node.items() if re.match(r"(text|prompt|string|value|positive)", name)]
        waiting += first + [value for value in node.values() if isinstance(value, list)]
    return ""


def _longest_text(drawn: dict[str, Any] | None) -> str:
    """The longest text of a text encoder in a graph as it is drawn, which has no names of inputs."""
    found = [
        value
        for node in _list((drawn or {}).get("nodes"))[:GRAPH_LIMIT]
        if "Text" in _text((_object(node) or {}).get("type"))
        for value in _list((_object(node) or {}).get("widgets_values"))
        if isinstance(value, str)
    ]
    return max(found, key=len, default="")


def _easy(texts: Mapping[str, str]) -> Found | None:
    """Easy Diffusion: a text for each setting."""
    own = {"num_inference_steps", "guidance_scale", "use_stable_diffusion_model"}
    if "prompt" not in texts or not own & {*texts}:
        return None
    return _by_keys("Easy Diffusion", dict(texts), set())


def _draw_things(texts: Mapping[str, str]) -> Found | None:
    """Draw Things: JSON of short names, as a user comment or in XMP."""
    for name in ("UserComment", "xmp", "XML:com.adobe.xmp", "ImageDescription"):
        text = texts.get(name, "").replace("&quot;", '"')
        values = _object(text[text.find("{") : text.rfind("}") + 1])
        if values and isinstance(values.get("c"), str):
            return _with(_by_keys("Draw Things", values, {"c", "v2", "profile"}), prompt=values["c"])
    return None


def _mochi(texts: Mapping[str, str]) -> Found | None:
    """Mochi Diffusion: names and values with semicolons between them."""
    text = next((each for each in texts.values() if each.startswith("Include in Image:")), None)
    if text is None:
        return None
    parts = dict(re.findall(r"(?:^|;\s*)([A-Z][\w ]*):\s*((?:[^;]|;(?!\s*[A-Z][\w ]*:))*)", text))
    rest = {name: value for name, value in parts.items() if name not in MOCHI.values()}
    told = {key: parts.get(name) for key, name in MOCHI.items()}
    words = {key: told.pop(key) or "" for key in ("prompt", "negative")}
    return Found("Mochi Diffusion", **words, **told, rest=rest)


MOCHI = {
    "prompt": "Include in Image",
    "negative": "Exclude from Image",
    "seed": "Seed",
    "steps": "Steps",
    "guidance": "Guidance Scale",
}


def _midjourney(texts: Mapping[str, str]) -> Found | None:
    text = texts.get("Description") or texts.get("ImageDescription") or ""
    if "Job ID:" not in text:
        return None
    prompt, *flags = re.split(r"\s--(?=[a-z])", text.partition("Job ID:")[0])
    return Found("Midjourney", prompt.strip(), rest={"flags": _line(" ".join(flags))} if flags else {})


def _webui(texts: Mapping[str, str]) -> Found | None:
    """A1111's web UI, and the many that write as it does."""
    for name in PLACES:
        text = texts.get(name, "")
        if text and (name == "parameters" or re.search(r"\bSteps: \d+,|Negative prompt:", text)):
            return read_lines(text)
    return None


def read_lines(text: str) -> Found:
    """Prompt, negative prompt and settings as A1111's web UI writes them; each of the first two may have several lines.

    Raises:
        RequestError: it is too long.
    """
    if len(text) > PARAMETERS_LIMIT:
        raise RequestError(
            f"The text of the settings has {len(text):,} characters; at most {PARAMETERS_LIMIT:,} are read."
        )
    lines, settings = text.replace("\r\n", "\n").split("\n"), {}
    for last in reversed(range(len(lines))):
        found = SETTING.findall(lines[last])
        if len(found) > 1 and {"Steps", "Seed"} & {name for name, _ in found}:
            for name, value in found:
                settings.setdefault(name, _unquoted(value))
            lines = lines[:last]  # what follows are remarks of extensions
            break
    middle = next((index for index, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[middle:]).removeprefix(NEGATIVE)
    named = {"seed": "Seed", "steps": "Steps", "guidance": "CFG scale"}
    taken = {name: settings.pop(key, None) for name, key in named.items()}
    # Hashes and versions only tell which files and which program it was.
    rest = {name: value for name, value in settings.items() if not re.search("hash|[Vv]ersion", name)}
    return Found("", "\n".join(lines[:middle]).strip(), negative.strip(), **taken, rest=rest)


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    return re.sub(r"\\(.)", r"\1", value.removeprefix('"').removesuffix('"'))


def _named(texts: Mapping[str, str]) -> Found | None:
    """Programs that are not known, by whatever they call a prompt."""
    for name, text in texts.items():
        if name.lower() in PROMPT_KEYS and text.strip():
            program, values = _line(texts.get("Software", "")) or UNKNOWN, _object(text)
            return _other(program, values) if values else Found(program, text.strip())
    return None


def _other(program: str, values: dict[str, Any]) -> Found:
    """
    Raises:
        RequestError: there is no prompt in it.
    """
    found = _by_keys(program, values, set())
    if not found.prompt:
        raise RequestError(f"This picture was made by {program}, and no prompt was found in its settings; type it.")
    return found


def _is_graph(values: dict[str, Any] | None) -> bool:
    """Whether JSON is a graph of ComfyUI, by its nodes."""
    return any(isinstance(node, dict) and "class_type" in node for node in (values or {}).values())


PLACES = ("parameters", "UserComment", "ImageDescription", "comment", "Comment")
READERS: tuple[Callable[[Mapping[str, str]], Found | None], ...] = (
    _invoke,
    _draw_things,
    _novelai,
    _json_parameters,
    _webui,
    _comfy,
    _easy,
    _mochi,
    _midjourney,
    _named,
)


def _by_keys(program: str, values: Mapping[str, Any], known: set[str]) -> Found:
    """What JSON says under the names that such things go by.

    Args:
        program: what wrote it.
        values: by name.
        known: names of what is read elsewhere, or is of no use to anybody.
    """
    folded = {re.sub(r"\s", "_", name.lower()): value for name, value in values.items() if isinstance(name, str)}

    def first(keys: Iterable[str]) -> Any:
        return next((folded.pop(key) for key in keys if folded.get(key) not in (None, "", [])), None)

    prompt, negative = first(PROMPT_KEYS), first(NEGATIVE_KEYS)
    seed, steps, guidance = first(SEED_KEYS), first(STEPS_KEYS), first(GUIDANCE_KEYS)
    left = {
        name: _line(_text(value))
        for name, value in folded.items()
        if name not in known and name not in (*PROMPT_KEYS, *NEGATIVE_KEYS) and _text(value) and "hash" not in name
    }
    return Found(program, _joined(prompt), _joined(negative), seed, steps, guidance, rest=left)


def _with(found: Found, **changes: Any) -> Found:
    return Found(**{name: getattr(found, name) for name in found.__dataclass_fields__} | changes)


def _joined(value: Any) -> str:
    return "\n".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    """Text or a number as text; "" for everything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return value if isinstance(value, str) else f"{value:.10g}" if isinstance(value, float) else str(value)


def _line(text: str) -> str:
    """Words of strangers on one line."""
    return " ".join("".join(one if one.isprintable() else " " for one in text[:200]).split())


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any] | None:
    """A JSON object, be it as text; None where it is none."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None
