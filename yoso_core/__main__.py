"""The command line.

python -m yoso_core generate "a red heart, 3d" --seed 7 --steps 1 --out heart.png
python -m yoso_core edit heart.png --prompt "a green apple, 3d" --strength 0.7 --out apple.png
python -m yoso_core check something.safetensors picture.jpg many.zip folder
python -m yoso_core translate sketch.png --model edges --prompt "a cat, 3d" --annotator scribble --out cat.png
"""

import argparse
import os
import sys

from yoso_core.commands import (
    check,
    convert_lora,
    convert_translator,
    edit,
    export_web,
    generate,
    grid,
    ladder,
    map,
    merge_resolution,
    translate,
)
from yoso_core.requests import RequestError

COMMANDS = (
    generate,
    edit,
    translate,
    ladder,
    grid,
    map,
    check,
    convert_lora,
    convert_translator,
    export_web,
    merge_resolution,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m yoso_core", description="One prompt, one network evaluation, one picture."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave their core to neighbours
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except (RequestError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
