"""What several commands have in common: options, what they name, and what is written and said."""

import argparse
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from yoso_core.files.pictures import open_mask, open_picture
from yoso_core.prompts import LORA_KINDS, called, tags_of, take_loras
from yoso_core.requests import (
    AUTO,
    DEFAULT_MODEL,
    RUNTIME_HELP,
    RUNTIMES,
    SAMPLERS,
    STEPS,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    parse_size,
)

SHAPED = "or how they get the shape of --size: crop, fit or pad; default: keep"
KEEP_HELP = f"keep gives pictures back in their size; {SHAPED}"
FIT_HELP = f"keep draws in the shape of the picture; {SHAPED}"
CONTROL_OPTIONS = {"control_strength": "strength", "control_start": "start", "control_end": "end"}  # to fields

Commands = argparse._SubParsersAction  # what `ArgumentParser.add_subparsers` gives, for which it has no public name


def new_command(commands: Commands, name: str, help: str) -> argparse.ArgumentParser:
    """A command to add options to; those that are not given are absent from the options that it is run with."""
    return commands.add_parser(name, help=help, argument_default=argparse.SUPPRESS)


def say(message: str) -> None:
    print(message, file=sys.stderr)


def report(message: str) -> None:
    say(f"{message} ...")


class LoraFile(NamedTuple):
    name: str
    path: Path
    weight: float


def find_lora(text: str) -> LoraFile:
    """PATH, PATH:WEIGHT, or the same with the name of a bundled LoRA in place of a path.

    Raises:
        RequestError: there is neither such a file nor such a LoRA.
    """
    place, colon, weight = text.rpartition(":")
    try:
        place, weight = (place, float(weight)) if colon else (text, 1.0)
    except ValueError:
        place, weight = text, 1.0  # the colon belongs to the path
    if Path(place).is_file():
        return LoraFile(Path(place).stem, Path(place), weight)
    from yoso_core.lora.library import bundled, by_name

    entries = bundled()
    known = {entry.id: entry.path for entry in entries}
    name = place if place in known else by_name(entries).get(called(place))
    if name is None:
        raise RequestError(f"There is no LoRA {place!r:.200}: please name {' or '.join(['a file', *known])}.")
    return LoraFile(name, known[name], weight)


def find_loras(texts: list[str]) -> list[LoraFile]:
    """LoRAs of different names: files that are called the same go by their paths."""
    found = [find_lora(text) for text in texts]
    if len({lora.name for lora in found}) < len(found):
        return [lora._replace(name=str(lora.path)) for lora in found]
    return found


def take_tags(prompt: str, loras: list[LoraFile]) -> tuple[str, tuple[LoraUse, ...], list[LoraFile]]:
    """A prompt without the tags that name LoRAs, all LoRAs with their weights, and their files.

    Args:
        prompt: as it was typed; its tags name LoRAs as --lora does.
        loras: those of --lora.
    """
    files = {lora.name: lora for lora in loras}
    offered = {called(name): name for name in files}
    for tag in tags_of(prompt):
        if tag.kind in LORA_KINDS and called(tag.name) not in offered:
            with suppress(RequestError):  # one that is not there is told when the prompt is read
                found = find_lora(tag.name)
                files[found.name] = found
                offered[called(tag.name)] = found.name
    prompt, uses = take_loras(prompt, [LoraUse(lora.name, lora.weight) for lora in loras], offered)
    return prompt, uses, list(files.values())


def read_picture(path: Path) -> Image.Image:
    """A picture as RGB; what had to be done to it is said."""
    try:
        opened = open_picture(path)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    for note in opened.notes:
        say(f"{path}: {note}")
    return opened.picture


def read_mask(path: Path) -> Image.Image:
    try:
        return open_mask(path)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None


def given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of the options that were given; the others are left to the request's own defaults."""
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def control_of(options: argparse.Namespace, picture: Image.Image | None) -> ControlUse | None:
    """What is asked to be followed.

    Args:
        picture: what it is made of where no other is named.

    Raises:
        RequestError: no picture, one that can't be read, or options without --control.
    """
    settings = given(options, ("low", "high"))
    settings |= {CONTROL_OPTIONS[name]: value for name, value in given(options, CONTROL_OPTIONS).items()}
    if options.control is None:
        if settings or options.controlnet:
            raise RequestError(
                "The options of a ControlNet need --control ANNOTATOR=PICTURE; add it or leave them out."
            )
        return None
    annotator, equals, path = options.control.partition("=")
    if equals:
        picture = read_picture(Path(path))
    if picture is None:
        raise RequestError(f"--control needs a picture; write {annotator}=PICTURE.")
    settings |= given(options, ("fit",))
    return ControlUse(picture=picture, annotator=annotator, network=options.controlnet, **settings)


def find_base(options: argparse.Namespace):
    """Name and `ModelSpec` of the model that is to draw.

    Raises:
        RequestError: it is not there, or its weights are not.
    """
    from yoso_core.models import find_model, with_weights

    spec = with_weights(find_model(options.model), options.weights)
    return options.model if options.weights == "own" else f"{options.model} + {Path(options.weights).name}", spec


def prepare(options: argparse.Namespace):
    """An `Engine` with everything that is named, and the request: an edit if there is a picture.

    Raises:
        RequestError: something that is not there, or not possible.
    """
    loras = find_loras(options.lora)
    picture_path = getattr(options, "picture", None)
    edits = given(options, ("strength", "mask", "feather", "grow"))
    if edits and picture_path is None:
        raise RequestError(f"--{next(iter(edits))} belongs to an edit; name a picture with --in.")
    picture = read_picture(picture_path) if picture_path else None
    control = control_of(options, picture)
    if hasattr(options, "fit") and picture is None and control is None:
        raise RequestError("--fit needs a picture; name one with --control or leave it out.")
    from yoso_core.conditioning import CONTROLS, find_control  # torch takes seconds to import
    from yoso_core.engine import Engine

    model, spec = find_base(options)
    controls = {options.controlnet: find_control(options.controlnet, spec.family)} if options.controlnet else CONTROLS
    settings = given(options, (field.name for field in fields(GenerateRequest))) | {"model": model, "control": control}
    settings["prompt"], settings["loras"], loras = take_tags(options.prompt, loras)
    if picture is None:
        request = GenerateRequest(**settings)
    else:
        if "mask" in edits:
            edits["mask"] = read_mask(options.mask)
        request = EditRequest(**settings, **edits, **given(options, ("fit",)), picture=picture)
    engine = Engine({model: spec}, controls=controls, runtime=options.runtime)
    for lora in loras:
        engine.add_lora(lora.name, lora.path)
    return engine, request


def output_paths(out: Path, count: int) -> list[Path]:
    """One file: `out`; several: out-1, out-2, ...

    Raises:
        RequestError: its name is of another format, or the folder can't be written to.
    """
    if out.is_dir():
        raise RequestError(f"{out} is a folder; choose a file for --out.")
    if out.suffix.lower() != ".png":  # other formats hold no settings
        raise RequestError(f"Pictures are written as PNG; choose an --out that ends in .png, not {out.name!r:.80}.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out.parent / f".{out.name}.probe", "w"):
            pass
        (out.parent / f".{out.name}.probe").unlink()
    except OSError as error:
        raise RequestError(f"{out.parent} can't be written to ({error.strerror}); choose another --out.") from None
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{index + 1}") for index in range(count)]


def draw_pictures(engine, request: GenerateRequest, options: argparse.Namespace) -> None:
    """Run a request on an `Engine`, write its pictures and say what they took."""
    paths = output_paths(options.out, request.count)  # before the seconds of work, not after
    from yoso_core.files.metadata import save_png

    result = engine.run(request, report)
    for index, path in enumerate(paths):
        save_png(result, index, path)
    if result.cut:
        say(f"The model did not read the end of the prompt: {result.cut!r}")
    for note in result.notes:
        say(note)
    summary = summary_of(result, map(str, paths))
    if options.json:
        print(json.dumps(summary))
    else:
        times = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in result.seconds.items())
        said = f"{result.evaluations} network evaluation(s) a picture, {times}; {result.runtime}"
        print(f"{' '.join(summary['files'])}: {said}")


def summary_of(result, files: Iterable[str]) -> dict[str, Any]:
    return {
        "files": list(files),
        "seeds": result.seeds,
        "evaluations": result.evaluations,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "runtime": result.runtime,
    }


def draw_sheet(engine, sheet, out: Path) -> None:
    """Run a `Sheet` on an `Engine`, write its picture, and print a line for each of its cells."""
    output_paths(out, 1)
    from yoso_core.sheets import draw, run

    for note in sheet.notes:
        say(note)
    results = list(run(engine, sheet, report))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        say(note)
    draw(sheet, results).save(out, "PNG")
    for (row, column), result in zip(product(sheet.rows, sheet.columns), results, strict=True):
        name = ", ".join(filter(None, (row, column)))
        print(f"{name}: {result.evaluations} network evaluation(s), {result.seconds['total'] * 1000:.0f} ms")
    print(out)


def add_request_options(command: argparse.ArgumentParser, out: str) -> None:
    """What every command has in common that draws of words or edits."""
    command.add_argument("--out", type=Path, default=Path(out), help=f"PNG to write; default: {out}")
    command.add_argument(
        "--guidance",
        type=float,
        help="how strongly the prompt is followed, 1 to 8; default: the model's own, mostly 1, which is off",
    )
    command.add_argument("--negative", help="what to move away from, when guidance is above 1")
    add_model_options(command, "--model")
    command.add_argument(
        "--control", default=None, metavar="ANNOTATOR[=PICTURE]", help="follow a picture; default: the one to edit"
    )
    command.add_argument("--control-strength", type=float, metavar="STRENGTH", help="0 to 2; default: 1")
    command.add_argument(
        "--control-start", type=float, metavar="PART", help="of the way from noise, 0 to 1; default: 0"
    )
    command.add_argument("--control-end", type=float, metavar="PART", help="of the way from noise, 0 to 1; default: 1")
    command.add_argument(
        "--controlnet", default=None, metavar="NAME", help="a known one, a diffusers folder, or OWNER/NAME@COMMIT"
    )
    add_threshold_options(command)


def add_model_options(command: argparse.ArgumentParser, flag: str, fit_help: str = FIT_HELP) -> None:
    """What draws, with which weights; `flag` names the model."""
    command.add_argument("--seed", type=int, help="seed of the first picture; default: 0")
    command.add_argument(
        "--size",
        type=parse_size,
        metavar="SIDE or WxH",
        help="in pixels, such as 512 or 640x384; default: the model's own",
    )
    command.add_argument(
        flag,
        dest="model",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help=f"a known model, a diffusers folder, or OWNER/NAME@COMMIT; default: {DEFAULT_MODEL}",
    )
    command.add_argument(
        "--weights",
        default="own",
        help="one-step weights: own (the model's), none, a LoRA file, or the output folder of a training run",
    )
    command.add_argument("--one-step", type=float, metavar="WEIGHT", help="how strongly they act; 1 is as trained")
    command.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="LORA[:WEIGHT]",
        help="a file, or the name of a bundled one, on top; may be repeated",
    )
    command.add_argument("--fit", metavar="HOW", help=fit_help)
    command.add_argument("--runtime", choices=(AUTO, *RUNTIMES), default=AUTO, help=RUNTIME_HELP)


def add_threshold_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--low", type=int, help="lower threshold of canny; default: 100")
    command.add_argument("--high", type=int, help="upper threshold of canny; default: 200")


def add_edit_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--strength", type=float, help="0 gives the picture back, 1 is pure generation; default: 0.5")
    command.add_argument("--mask", type=Path, help="of the same size, white and opaque where to repaint")
    command.add_argument("--feather", type=float, help="soft rim of the mask, as a part of the side; default: 0.05")
    command.add_argument("--grow", type=float, help="widen the canvas on every side by this part of the picture")


def add_picture_options(command: argparse.ArgumentParser) -> None:
    add_steps_options(command)
    add_count_options(command)


def add_count_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--count", type=int, help="number of pictures, seeds counting up: OUT-1, OUT-2, ...")
    command.add_argument("--json", action="store_true", default=False, help="print files, seeds and timings as JSON")


def add_steps_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--steps", type=int, help=f"network evaluations, mostly {', '.join(map(str, STEPS))}; default: 1"
    )
    command.add_argument(
        "--sampler",
        choices=tuple(SAMPLERS),
        help="of several steps; ddim and dpm++ take 2 to 50; default: the model's own",
    )
