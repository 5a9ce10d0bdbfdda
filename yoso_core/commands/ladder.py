"""1, 2 and 4 steps beside the teacher."""

import argparse

from yoso_core.commands.common import Commands, add_request_options, draw_sheet, given, new_command, prepare, report


def add_to(commands: Commands) -> None:
    command = new_command(commands, "ladder", "lay 1, 2 and 4 steps beside the teacher")
    command.add_argument("prompt")
    command.add_argument("--teacher-steps", type=int, metavar="STEPS", help="of DDIM; default: 25")
    command.add_argument("--teacher-guidance", type=float, metavar="GUIDANCE", help="default: 2")
    add_request_options(command, "ladder.png")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    engine, request = prepare(options)
    from yoso_core.sheets import ladder

    teacher = given(options, ("teacher_steps", "teacher_guidance"))
    draw_sheet(engine, ladder(engine, request, report=report, **teacher), options.out)
