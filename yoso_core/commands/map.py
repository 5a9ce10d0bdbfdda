"""What a ControlNet would follow."""

import argparse
from pathlib import Path

from yoso_core.commands.common import (
    FIT_HELP,
    Commands,
    add_threshold_options,
    given,
    new_command,
    output_paths,
    read_picture,
    report,
)
from yoso_core.requests import SIZE_RANGE, ControlUse, check_whole

MAP_SIZE = 512


def add_to(commands: Commands) -> None:
    command = new_command(commands, "map", "draw what a ControlNet would follow")
    command.add_argument("picture", type=Path, metavar="IN")
    command.add_argument("--annotator", help="canny (default), scribble, depth, pose, ...")
    command.add_argument("--fit", metavar="HOW", help=FIT_HELP)
    command.add_argument("--size", type=int, default=MAP_SIZE, help=f"side in pixels; default: {MAP_SIZE}")
    command.add_argument("--out", type=Path, default=Path("map.png"), help="PNG to write; default: map.png")
    add_threshold_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """What a ControlNet would follow."""
    output_paths(options.out, 1)
    settings = given(options, ("annotator", "low", "high", "fit"))
    use = ControlUse(picture=read_picture(options.picture), **settings)
    size = check_whole("The size", options.size, *SIZE_RANGE)
    from yoso_core.engine import Engine

    Engine({}).control_map(use, size, report).save(options.out, "PNG")
    print(options.out)
