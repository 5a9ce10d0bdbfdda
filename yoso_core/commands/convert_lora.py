"""Pickled LoRAs as safetensors."""

import argparse
from pathlib import Path

from yoso_core.commands.common import Commands, new_command


def add_to(commands: Commands) -> None:
    command = new_command(commands, "convert-lora", "convert a pickled LoRA, weights only, to safetensors")
    command.add_argument("source", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument(
        "--moments",
        type=Path,
        default=None,
        metavar="FILE",
        help="of the latents that it was trained on, for the informative start: a LoRA that has them, or JSON with a "
        "mean and a deviation a channel",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from yoso_core import convert

    count, digest = convert.convert_lora(options.source, options.out, options.moments)
    print(f"{options.out}: {count} tensors, converted from sha256 {digest}")
