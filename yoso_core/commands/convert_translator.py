"""Checkpoints of pix2pix-turbo and CycleGAN-Turbo as folders that are read here."""

import argparse
from pathlib import Path

from yoso_core.commands.common import Commands, given, new_command
from yoso_core.requests import TRANSLATION_INPUTS


def add_to(commands: Commands) -> None:
    command = new_command(
        commands, "convert-translator", "convert a checkpoint of pix2pix-turbo or CycleGAN-Turbo, weights only"
    )
    command.add_argument("source", type=Path)
    command.add_argument(
        "out", type=Path, nargs="?", default=None, help="folder to make; default: one in models/converted/translators"
    )
    command.add_argument("--title", help="what people read; default: known of published files, else the file's name")
    command.add_argument("--prompt", help="the caption it was trained with; default: known of published files")
    command.add_argument("--direction", help="a2b or b2a; default: what the file was published for")
    command.add_argument("--input", help=f"what it begins with: {', '.join(TRANSLATION_INPUTS)}")
    command.add_argument("--ink", help="what its lines are drawn with: white (default) or black")
    command.add_argument("--licence", help="of the weights")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from yoso_core import convert

    settings = given(options, ("title", "prompt", "direction", "input", "ink", "licence"))
    spec, digest = convert.convert_translator(options.source, options.out, **settings)
    print(f"{spec.folder}: {spec.title}, for {spec.family}, converted from sha256 {digest}")
