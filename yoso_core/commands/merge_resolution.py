"""One step at another resolution, by arithmetic on weights."""

import argparse
from pathlib import Path

from yoso_core.commands.common import Commands, new_command


def add_to(commands: Commands) -> None:
    command = new_command(
        commands, "merge-resolution", "HIGH + (YOSO - LOW): a one-step network at another resolution, without training"
    )
    command.add_argument("high", type=Path, help="folder of the network, or its pipeline, at the high resolution")
    command.add_argument("yoso", type=Path, help="of the one-step network at the low resolution")
    command.add_argument("low", type=Path, help="of what that was trained from")
    command.add_argument("--out", type=Path, required=True, help="new folder")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from yoso_core.merging import merge_resolution

    own = merge_resolution(
        options.high, options.yoso, options.low, options.out, lambda message: print(message, flush=True)
    )
    told = f"; {own} weights that the others have not are those of {options.high}" if own else ""
    print(f"{options.out} is whole{told}")
