"""What files and folders are, whether they can be used, and why not."""

import argparse
from pathlib import Path

from yoso_core.commands.common import Commands, new_command, report
from yoso_core.requests import RequestError


def add_to(commands: Commands) -> None:
    command = new_command(commands, "check", "say what a LoRA, picture, zip or model folder is, and whether it is used")
    command.add_argument("paths", type=Path, nargs="+", metavar="FILE", help="files and folders")
    command.add_argument("--model", default=None, help="what LoRAs are to fit; default: the known one of their family")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """A line for each, with what else is worth knowing indented below.

    Raises:
        RequestError: one of them can't be used.
    """
    from yoso_core.checking import examine  # torch takes seconds to import
    from yoso_core.lora.reading import one_line

    unusable = 0
    for path in options.paths:
        verdict = examine(path, options.model, report)
        unusable += bool(verdict.problem)
        print(one_line(f"{path}: {verdict.what}, {'can not be used' if verdict.problem else 'can be used'}"))
        for line in filter(None, (verdict.problem, *verdict.notes)):
            print(f"  {one_line(line)}")
    if unusable:
        raise RequestError(f"{unusable} of {len(options.paths)} can't be used; the reasons stand above.")
