"""What a file or a folder is, whether it can be used and why not: told by the code that the studio reads it with."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoso_core.batch import OWN_FOLDER_FILES, gathered, read_file
from yoso_core.conditioning import find_control, load_control
from yoso_core.engine import Engine, PictureError
from yoso_core.files.archives import UnreadableError, amount
from yoso_core.files.foreign import NoSettingsError
from yoso_core.files.metadata import read_request
from yoso_core.files.pictures import PictureFileError, open_picture, opened
from yoso_core.loading import load_model, parameter_shapes
from yoso_core.lora.library import OWN_FOLDER, WIDTHS, misfits, uploaded
from yoso_core.models import MODELS, ModelSpec, find_model, local_model
from yoso_core.requests import RequestError
from yoso_core.translate import CONFIG, read_translator

TOKEN = "checked-here"  # the library wants one of every file that was handed over
SAFETENSORS = b"{"  # the ninth byte
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
CAPTIONS = (".txt", ".caption", ".json", ".jsonl", ".csv")
NAMED = 8  # files of a zip or a folder that are told by name
UNTRIED = "whether it fits can be told beside a model; name one with --model"
SETTINGS_LIMIT = 100_000  # bytes of a config
INPUTS = {"picture": "a picture", "lines": "lines"}
NOTHING = "nothing that is read here"


@dataclass(frozen=True)
class Verdict:
    """What is said of a file or a folder.

    Attributes:
        path: which.
        what: it is, in a few words.
        problem: why it can't be used, in a sentence; "" if it can.
        notes: what else is worth knowing, in words.
    """

    path: Path
    what: str
    problem: str = ""
    notes: tuple[str, ...] = ()


def examine(path: Path, model: str | None = None, report: Callable[[str], None] = lambda message: None) -> Verdict:
    """Look at a file or a folder; nothing of it is run or changed.

    Args:
        path: of it.
        model: what LoRAs are to fit; None for the one of their family that comes along.
        report: told in a few words what takes time.
    """
    if path.is_dir():
        return _folder(path, model, report)
    if not path.is_file():
        return Verdict(path, "nothing", "There is no such file.")
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        return Verdict(path, "a file", f"It can't be opened ({error.strerror}).")
    if start[8:9] == SAFETENSORS or path.suffix.lower() == ".safetensors":
        return _lora(path, model, report)
    if start.startswith(ZIP):
        return _zip(path)
    if start[:1] == PICKLE:
        return _pickle(path)
    if path.suffix.lower() in CAPTIONS:
        return Verdict(path, "text", notes=("captions are read together with their pictures",))
    return _picture(path)


def _picture(path: Path) -> Verdict:
    try:
        with opened(path) as found:
            kind = {"MPO": "JPEG"}.get(found.picture.format, found.picture.format)
            width, height = found.picture.size
        made = open_picture(path)
    except PictureFileError as error:
        return Verdict(path, NOTHING, str(error))
    notes = list(made.notes)
    try:
        restored = read_request(path)
        words = f"“{restored.request.prompt:.60}”" if restored.request.prompt else "no prompt"
        notes.append("; ".join([f"its settings can be taken over: {words}", *restored.notes]))
    except NoSettingsError:
        pass
    except RequestError as error:
        notes.append(f"its settings can't be taken over: {error}")
    return Verdict(path, f"a {kind} picture of {width} x {height} pixels", notes=tuple(notes))


def _zip(path: Path) -> Verdict:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # half a dozen unrelated types
        return Verdict(path, "a zip", "This is no zip that can be read, it may be damaged.")
    if any(name.endswith("data.pkl") for name in names):
        return _pickle(path)
    if path.suffix.lower() != ".zip":
        return Verdict(path, "a zip", "Files are taken for zips by their names: call it .zip.")
    return _pictures(path, "a zip", [path])


def _pictures(path: Path, kind: str, paths: list[Path]) -> Verdict:
    """A zip or a folder of pictures, each of which is read."""
    good, problems, texts = 0, [], 0
    with gathered(paths) as (files, left):
        problems += [f"{one.name}: {one.problem}" for one in left]
        for file in files:
            if Path(file.name).suffix.lower() in CAPTIONS:
                texts += 1
                continue
            try:
                read_file(file)
                good += 1
            except (UnreadableError, PictureFileError) as error:
                problems.append(f"{file.name}: {error}")
    notes = [f"{texts} file{'s' * (texts > 1)} of text beside them"] if texts else []
    notes += problems[:NAMED]
    if len(problems) > NAMED:
        notes.append(f"and {len(problems) - NAMED} more that can't be read")
    what = f"{kind} of {good} picture{'s' * (good != 1)}"
    return Verdict(path, what, "" if good else "There is no picture in it that can be read.", tuple(notes))


def _pickle(path: Path) -> Verdict:
    hint = f"convert it to safetensors, weights only: python -m yoso_core convert-lora {path.name} OUT.safetensors"
    return Verdict(path, "a pickle", f"Pickles can run whatever they like and are never opened; {hint}.")


def _lora(path: Path, model: str | None, report: Callable[[str], None]) -> Verdict:
    try:
        entry = uploaded(path, TOKEN)
    except RequestError as error:
        return Verdict(path, "a safetensors file", str(error))
    family = entry.family or "a model that it does not name"
    what = f"a LoRA for {family}, rank {entry.rank}, {amount(entry.bytes)}"
    notes = [f"made to draw in one step, for --weights {path}"] if entry.one_step else []
    notes += [f"its trigger is “{entry.trigger}”"] if entry.trigger else []
    name = model or _known(entry.family)
    if entry.problem or name is None:
        return Verdict(path, what, entry.problem, (*notes, *([] if entry.problem else [UNTRIED])))
    spec = find_model(name)
    if reason := misfits([entry], spec).get(entry.id):
        return Verdict(path, what, reason, tuple(notes))
    if not _is_here(spec):
        return Verdict(path, what, notes=(*notes, f"its kind fits {spec.title}, which is not on this machine"))
    engine = Engine({name: spec}, device="cpu", controls={}, translators={})
    engine.add_lora(entry.id, path)
    try:
        report(f"Trying it on {spec.title}")
        notes += engine.check_lora(entry.id, name)  # reads the numbers, too
    except (RequestError, PictureError) as error:
        return Verdict(path, what, str(error), tuple(notes))
    return Verdict(path, what, notes=(*notes, f"it fits {spec.title}"))


def _is_here(spec: ModelSpec) -> bool:
    return bool(parameter_shapes(spec))


def _known(family: str) -> str | None:
    """The first known model of a family."""
    return next((name for name, spec in MODELS.items() if family and spec.family == family), None)


def _controlnet(path: Path, family: str, model: str | None, report: Callable[[str], None]) -> Verdict:
    what, name = f"a ControlNet for {family or 'a model that is not known'}", model or _known(family)
    if name is None or not _is_here(find_model(name)):
        return Verdict(path, what, notes=(UNTRIED,))

    def look() -> tuple[str, ...]:
        loaded = load_model(find_model(name), "cpu", report=report)
        load_control(find_control(str(path), family), loaded, report)
        return (f"it fits {loaded.spec.title}",)

    return _of(path, what, look)


def _folder(path: Path, model: str | None, report: Callable[[str], None]) -> Verdict:
    if (path / "model_index.json").is_file():
        return _model(path, report)
    settings = _settings(path / CONFIG)
    if "directions" in settings:
        return _of(path, "a translator", lambda: _translator(path))
    if settings.get("_class_name") == "ControlNetModel":
        return _controlnet(path, WIDTHS.get(settings.get("cross_attention_dim"), ""), model, report)
    if part := settings.get("_class_name") or settings.get("model_type"):
        return Verdict(path, f"a part of a model, {part!s:.60}", "Name the folder that holds model_index.json.")
    for name in (*OWN_FOLDER, f"output/{OWN_FOLDER[0]}"):
        if (path / name).is_file():
            verdict = _lora(path / name, model, report)
            return Verdict(path, f"a folder with {verdict.what}", verdict.problem, verdict.notes)
    files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
    loras = [each for each in files if each.suffix.lower() == ".safetensors"]
    if loras:
        verdicts = [_lora(each, model, report) for each in loras[:OWN_FOLDER_FILES]]
        told = tuple(f"{one.path.relative_to(path)}: {one.problem or one.what}" for one in verdicts)
        good = sum(not one.problem for one in verdicts)
        problem = "" if good else "None of its LoRAs can be used."
        return Verdict(path, f"a folder of {good} LoRA{'s' * (good != 1)}", problem, told)
    if not files:
        return Verdict(path, "an empty folder", "There is nothing in it.")
    return _pictures(path, "a folder", files[:OWN_FOLDER_FILES])


def _model(path: Path, report: Callable[[str], None]) -> Verdict:
    def look() -> tuple[str, ...]:
        spec = local_model(str(path))
        loaded = load_model(spec, "cpu", report=report)
        own = "with a one-step LoRA of its own" if spec.lora is not None else "without a one-step LoRA"
        family = spec.family or "no family that is known"
        return (f"of {family}, for {spec.resolution} pixels, predicts {loaded.prediction}, {own}",)

    return _of(path, "a model", look)


def _translator(path: Path) -> tuple[str, ...]:
    spec = read_translator(path)
    ways = ", ".join(f"{name} ({way.title})" for name, way in spec.directions.items())
    return (f"{spec.title}, for {spec.family}, given {INPUTS[spec.input]}: {ways}",)


def _of(path: Path, what: str, look: Callable[[], tuple[str, ...]]) -> Verdict:
    try:
        return Verdict(path, what, notes=look())
    except RequestError as error:
        return Verdict(path, what, str(error))


def _settings(path: Path) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = json.loads(file.read(SETTINGS_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
