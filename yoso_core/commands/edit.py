"""Pictures from a picture and a prompt."""

from pathlib import Path

from yoso_core.commands import generate
from yoso_core.commands.common import Commands, add_edit_options, add_picture_options, add_request_options, new_command


def add_to(commands: Commands) -> None:
    command = new_command(commands, "edit", "make pictures from a picture and a prompt")
    command.add_argument("picture", type=Path, metavar="IN")
    command.add_argument("--prompt", default="", help="what to show")
    add_edit_options(command)
    add_request_options(command, "edited.png")
    add_picture_options(command)
    command.set_defaults(run=generate.run)  # a picture among its options makes it an edit
