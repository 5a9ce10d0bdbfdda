"""Pictures of different settings beside one another."""

import argparse
from pathlib import Path

from yoso_core.commands.common import (
    Commands,
    add_edit_options,
    add_request_options,
    add_steps_options,
    draw_sheet,
    find_lora,
    new_command,
    prepare,
)


def add_to(commands: Commands) -> None:
    command = new_command(commands, "grid", "lay pictures of different settings beside one another")
    command.add_argument("prompt")
    axis = "prompt=a cat|a dog, seed=0,1,2, strength=0:1:5 (five from 0 to 1), lora.NAME=0,1, adapter=none|NAME, ..."
    command.add_argument("--x", required=True, metavar="AXIS", help=f"what changes from left to right: {axis}")
    command.add_argument("--y", default=None, metavar="AXIS", help="what changes from top to bottom")
    command.add_argument("--in", type=Path, dest="picture", metavar="PICTURE", help="edit this one")
    add_edit_options(command)
    add_steps_options(command)
    add_request_options(command, "grid.png")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    engine, request = prepare(options)
    from yoso_core.sheets import grid, parse_axis

    axes = [parse_axis(text) for text in (options.x, options.y) if text is not None]
    for name in sorted({name for axis in axes for name in axis.loras} - {use.name for use in request.loras}):
        engine.add_lora(name, find_lora(name).path)
    draw_sheet(engine, grid(request, *axes), options.out)
