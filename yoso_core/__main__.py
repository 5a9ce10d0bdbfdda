"""The command line.

python -m yoso_core generate "a red heart, 3d" --seed 7 --steps 1 --out heart.png
python -m yoso_core edit heart.png --prompt "a green apple, 3d" --strength 0.7 --out apple.png
python -m yoso_core translate sketch.png --model edges --prompt "a cat, 3d" --annotator scribble --out cat.png
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from yoso_core.files.pictures import open_picture
from yoso_core.requests import (
    DEFAULT_MODEL,
    FITS,
    SIZE_RANGE,
    STEPS,
    TRANSLATION_INPUTS,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
    check_whole,
)

MAP_SIZE = 512
KEEP_HELP = f"keep gives pictures back in their size; or how they become square: {', '.join(FITS)}; default: keep"
FIT_HELP = f"how a picture that is not square becomes so: {', '.join(FITS)}; default: {FITS[0]}"
CONTROL_OPTIONS = {"control_strength": "strength", "control_start": "start", "control_end": "end"}  # to fields


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
    from yoso_core.library import bundled

    known = {entry.id: entry.path for entry in bundled()}
    if place not in known:
        raise RequestError(f"There is no LoRA {place!r:.200}: please name {' or '.join(['a file', *known])}.")
    return LoraFile(place, known[place], weight)


def find_loras(texts: list[str]) -> list[LoraFile]:
    """LoRAs of different names: files that are called the same go by their paths."""
    found = [find_lora(text) for text in texts]
    if len({lora.name for lora in found}) < len(found):
        return [lora._replace(name=str(lora.path)) for lora in found]
    return found


def read_picture(path: Path) -> Image.Image:
    """A picture as RGB; what had to be done to it is said."""
    try:
        opened = open_picture(path)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    for note in opened.notes:
        say(f"{path}: {note}")
    return opened.picture


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
    settings = given(options, (field.name for field in fields(GenerateRequest))) | {
        "model": model,
        "loras": tuple(LoraUse(lora.name, lora.weight) for lora in loras),
        "control": control,
    }
    if picture is None:
        request = GenerateRequest(**settings)
    else:
        if "mask" in edits:
            grey = read_picture(options.mask).convert("L")
            edits["mask"] = grey.point(lambda value: 255 if value > 127 else 0)  # JPEG's black is not quite black
        request = EditRequest(**settings, **edits, **given(options, ("fit",)), picture=picture)
    engine = Engine({model: spec}, controls=controls)
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


def generate(options: argparse.Namespace) -> None:
    draw_pictures(*prepare(options), options)


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
        print(f"{' '.join(summary['files'])}: {result.evaluations} network evaluation(s) a picture, {times}")


def summary_of(result, files: Iterable[str]) -> dict[str, Any]:
    return {
        "files": list(files),
        "seeds": result.seeds,
        "evaluations": result.evaluations,
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
    }


def translate(options: argparse.Namespace) -> None:
    """One picture to a file; several, folders and zips of them to a folder."""
    loras = find_loras(options.lora)
    from yoso_core.engine import Engine  # torch takes seconds to import
    from yoso_core.translate import find_translator

    model, spec = find_base(options)
    settings = given(options, (field.name for field in fields(TranslateRequest))) | {
        "model": model,
        "loras": tuple(LoraUse(lora.name, lora.weight) for lora in loras),
    }
    engine = Engine({model: spec}, translators={options.translator: find_translator(options.translator)})
    for lora in loras:
        engine.add_lora(lora.name, lora.path)
    alone = len(options.given) == 1 and not options.given[0].is_dir() and options.given[0].suffix.lower() != ".zip"
    if not alone:
        translate_all(engine, settings, options)
        return
    options.out = options.out or Path("translated.png")
    request = TranslateRequest(**settings, picture=read_picture(options.given[0]))
    if request.strength == 1 and request.count > 1:
        say("Strength 1 has one answer; lower it for variations.")
        request = replace(request, count=1)
    if options.given[0].resolve() in (path.resolve() for path in output_paths(options.out, request.count)):
        raise RequestError(f"{options.out} is the picture that is given; choose another file for --out.")
    draw_pictures(engine, request, options)


def translate_all(engine, settings: dict[str, Any], options: argparse.Namespace) -> None:
    """Translate many files; one that can't be read is told, and the others go on.

    Raises:
        RequestError: something that concerns all of them, or that some of them could not be read.
    """
    from yoso_core.batch import gathered, into_folder, run_files
    from yoso_core.lora import one_line

    out = options.out or Path("translated")
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file; several pictures need a folder for --out.")
    paths = [path for each in options.given for path in (pictures_in(each) if each.is_dir() else [each])]
    if not paths:
        raise RequestError("There are no pictures in what is given; name files, zips or folders with some.")
    if any(out.resolve() in (path.resolve().parent, path.parent.resolve()) for path in paths):
        raise RequestError(f"{out} holds what is given, which would be written over; choose another folder for --out.")
    output_paths(out / "picture.png", 1)
    failed = 0
    with gathered(paths) as (files, left):
        made = run_files(engine.run, lambda picture: TranslateRequest(**settings, picture=picture), files)
        for one in (*left, *into_folder(made, out)):
            name = one_line(one.name)  # a zip may put anything in it, such as escape sequences
            if one.result is None:
                failed += 1
                say(f"{name}: {one_line(one.problem)}")
                continue
            written = [str(out / file) for file in one.files]
            for note in one.result.notes:
                say(f"{name}: {note}")
            if options.json:
                print(json.dumps({"in": name} | summary_of(one.result, written)))
            else:
                print(f"{name}: {' '.join(written)}")
    if failed:
        raise RequestError(f"{failed} of {len(files) + len(left)} could not be translated; the reasons stand above.")


def pictures_in(folder: Path) -> list[Path]:
    """The files in a folder that are called as pictures are, without hidden ones, in the order of their names."""
    from yoso_core.batch import PICTURE_SUFFIXES

    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    return sorted(path for path in found if not path.name.startswith(".") and not path.is_dir())


def draw_ladder(options: argparse.Namespace) -> None:
    engine, request = prepare(options)
    from yoso_core.sheets import ladder

    teacher = given(options, ("teacher_steps", "teacher_guidance"))
    draw_sheet(engine, ladder(engine, request, report=report, **teacher), options.out)


def draw_grid(options: argparse.Namespace) -> None:
    engine, request = prepare(options)
    from yoso_core.sheets import grid, parse_axis

    axes = [parse_axis(text) for text in (options.x, options.y) if text is not None]
    for name in sorted({name for axis in axes for name in axis.loras} - {use.name for use in request.loras}):
        engine.add_lora(name, find_lora(name).path)
    draw_sheet(engine, grid(request, *axes), options.out)


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


def draw_map(options: argparse.Namespace) -> None:
    """What a ControlNet would follow."""
    output_paths(options.out, 1)
    settings = given(options, ("annotator", "low", "high", "fit"))
    use = ControlUse(picture=read_picture(options.picture), **settings)
    size = check_whole("The size", options.size, *SIZE_RANGE)
    from yoso_core.engine import Engine

    Engine({}).control_map(use, size, report).save(options.out, "PNG")
    print(options.out)


def convert_lora(options: argparse.Namespace) -> None:
    from yoso_core import convert

    count, digest = convert.convert_lora(options.source, options.out)
    print(f"{options.out}: {count} tensors, converted from sha256 {digest}")


def convert_translator(options: argparse.Namespace) -> None:
    from yoso_core import convert

    settings = given(options, ("title", "prompt", "direction", "input", "ink", "licence"))
    spec, digest = convert.convert_translator(options.source, options.out, **settings)
    print(f"{spec.folder}: {spec.title}, for {spec.family}, converted from sha256 {digest}")


def add_request_options(command: argparse.ArgumentParser, out: str) -> None:
    """What every command has in common that draws of words or edits."""
    command.add_argument("--out", type=Path, default=Path(out), help=f"PNG to write; default: {out}")
    command.add_argument("--guidance", type=float, help="classifier-free guidance; 1, the default, is off")
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
    command.add_argument("--size", type=int, help="side in pixels; default: the model's own")
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


def add_threshold_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--low", type=int, help="lower threshold of canny; default: 100")
    command.add_argument("--high", type=int, help="upper threshold of canny; default: 200")


def add_edit_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--strength", type=float, help="0 gives the picture back, 1 is pure generation; default: 0.6")
    command.add_argument("--mask", type=Path, help="a picture of the same size, white where to repaint")
    command.add_argument("--feather", type=float, help="soft rim of the mask, as a part of the side; default: 0.05")
    command.add_argument("--grow", type=float, help="widen the canvas on every side by this part of the picture")


def add_picture_options(command: argparse.ArgumentParser) -> None:
    add_steps_option(command)
    add_count_options(command)
    command.set_defaults(run=generate)


def add_count_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--count", type=int, help="number of pictures, seeds counting up: OUT-1, OUT-2, ...")
    command.add_argument("--json", action="store_true", default=False, help="print files, seeds and timings as JSON")


def add_steps_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--steps", type=int, help=f"network evaluations: {', '.join(map(str, STEPS))}; default: 1")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m yoso_core", description="One prompt, one network evaluation, one picture."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, argument_default=argparse.SUPPRESS)

    make = add("generate", "make pictures from a prompt")
    make.add_argument("prompt")
    add_request_options(make, "picture.png")
    add_picture_options(make)

    edit = add("edit", "make pictures from a picture and a prompt")
    edit.add_argument("picture", type=Path, metavar="IN")
    edit.add_argument("--prompt", default="", help="what to show")
    add_edit_options(edit)
    add_request_options(edit, "edited.png")
    add_picture_options(edit)

    turn = add("translate", "make a picture of a picture, its structure kept")
    turn.add_argument("given", type=Path, nargs="+", metavar="IN", help="a picture; several, folders, zips of them")
    turn.add_argument(
        "--model", dest="translator", required=True, metavar="TRANSLATOR", help="its name, or a folder with one"
    )
    turn.add_argument("--direction", help="which way it goes; default: its first")
    turn.add_argument("--prompt", default="", help="what to show, where the direction does not say it")
    turn.add_argument("--strength", type=float, help="1, the default, is as trained; below it each seed differs")
    turn.add_argument("--annotator", help="how lines are found, if it wants lines: canny (default), scribble, map")
    turn.add_argument("--out", type=Path, default=None, help="PNG to write; of several pictures a folder")
    add_threshold_options(turn)
    add_model_options(turn, "--base", KEEP_HELP)
    add_count_options(turn)
    turn.set_defaults(run=translate)

    rungs = add("ladder", "lay 1, 2 and 4 steps beside the teacher")
    rungs.add_argument("prompt")
    rungs.add_argument("--teacher-steps", type=int, metavar="STEPS", help="of DDIM; default: 25")
    rungs.add_argument("--teacher-guidance", type=float, metavar="GUIDANCE", help="default: 2")
    add_request_options(rungs, "ladder.png")
    rungs.set_defaults(run=draw_ladder)

    cells = add("grid", "lay pictures of different settings beside one another")
    cells.add_argument("prompt")
    axis = "prompt=a cat|a dog, seed=0,1,2, strength=0:1:5 (five from 0 to 1), lora.NAME=0,1, adapter=none|NAME, ..."
    cells.add_argument("--x", required=True, metavar="AXIS", help=f"what changes from left to right: {axis}")
    cells.add_argument("--y", default=None, metavar="AXIS", help="what changes from top to bottom")
    cells.add_argument("--in", type=Path, dest="picture", metavar="PICTURE", help="edit this one")
    add_edit_options(cells)
    add_steps_option(cells)
    add_request_options(cells, "grid.png")
    cells.set_defaults(run=draw_grid)

    outline = add("map", "draw what a ControlNet would follow")
    outline.add_argument("picture", type=Path, metavar="IN")
    outline.add_argument("--annotator", help="canny (default), scribble, depth, pose, ...")
    outline.add_argument("--fit", metavar="HOW", help=FIT_HELP)
    outline.add_argument("--size", type=int, default=MAP_SIZE, help=f"side in pixels; default: {MAP_SIZE}")
    outline.add_argument("--out", type=Path, default=Path("map.png"), help="PNG to write; default: map.png")
    add_threshold_options(outline)
    outline.set_defaults(run=draw_map)

    convert = add("convert-lora", "convert a pickled LoRA, weights only, to safetensors")
    convert.add_argument("source", type=Path)
    convert.add_argument("out", type=Path)
    convert.set_defaults(run=convert_lora)

    published = add("convert-translator", "convert a checkpoint of pix2pix-turbo or CycleGAN-Turbo, weights only")
    published.add_argument("source", type=Path)
    published.add_argument(
        "out", type=Path, nargs="?", default=None, help="folder to make; default: one in models/converted/translators"
    )
    published.add_argument("--title", help="what people read; default: known of published files, else the file's name")
    published.add_argument("--prompt", help="the caption it was trained with; default: known of published files")
    published.add_argument("--direction", help="a2b or b2a; default: what the file was published for")
    published.add_argument("--input", help=f"what it begins with: {', '.join(TRANSLATION_INPUTS)}")
    published.add_argument("--ink", help="what its lines are drawn with: white (default) or black")
    published.add_argument("--licence", help="of the weights")
    published.set_defaults(run=convert_translator)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except (RequestError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
