"""Pictures of pictures, their structure kept."""

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from yoso_core.commands.common import (
    KEEP_HELP,
    Commands,
    add_count_options,
    add_model_options,
    add_threshold_options,
    draw_pictures,
    find_base,
    find_loras,
    given,
    new_command,
    output_paths,
    read_picture,
    say,
    summary_of,
    take_tags,
)
from yoso_core.files.pictures import SUFFIXES
from yoso_core.requests import RequestError, TranslateRequest


def add_to(commands: Commands) -> None:
    command = new_command(commands, "translate", "make a picture of a picture, its structure kept")
    command.add_argument("given", type=Path, nargs="+", metavar="IN", help="a picture; several, folders, zips of them")
    command.add_argument(
        "--model", dest="translator", required=True, metavar="TRANSLATOR", help="its name, or a folder with one"
    )
    command.add_argument("--direction", help="which way it goes; default: its first")
    command.add_argument("--prompt", default="", help="what to show, where the direction does not say it")
    command.add_argument("--strength", type=float, help="1, the default, is as trained; below it each seed differs")
    command.add_argument("--annotator", help="how lines are found, if it wants lines: canny (default), scribble, map")
    command.add_argument("--out", type=Path, default=None, help="PNG to write; of several pictures a folder")
    add_threshold_options(command)
    add_model_options(command, "--base", KEEP_HELP)
    add_count_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """One picture to a file; several, folders and zips of them to a folder."""
    loras = find_loras(options.lora)
    from yoso_core.engine import Engine  # torch takes seconds to import
    from yoso_core.translate import find_translator

    model, spec = find_base(options)
    settings = given(options, (field.name for field in fields(TranslateRequest))) | {"model": model}
    settings["prompt"], settings["loras"], loras = take_tags(options.prompt, loras)
    engine = Engine(
        {model: spec}, translators={options.translator: find_translator(options.translator)}, runtime=options.runtime
    )
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
    from yoso_core.lora.reading import one_line

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
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.name.startswith(".") and not path.is_dir())
