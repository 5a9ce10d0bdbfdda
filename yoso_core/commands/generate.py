"""Pictures from a prompt."""

import argparse

from yoso_core.commands.common import (
    Commands,
    add_picture_options,
    add_request_options,
    draw_pictures,
    new_command,
    prepare,
)


def add_to(commands: Commands) -> None:
    command = new_command(commands, "generate", "make pictures from a prompt")
    command.add_argument("prompt")
    add_request_options(command, "picture.png")
    add_picture_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    draw_pictures(*prepare(options), options)
