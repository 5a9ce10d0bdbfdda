"""Processes that do what ``python -m MODULE`` does, without the seconds that its imports take each time.

They fork from a clean process that has imported everything. Whatever is begun this way in one test is begun in
earnest in another one.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from typing import IO, Any

IMPORTED = ("train.runs.assemble", "train.loop.console", "torch._dynamo", "tests.train.loop.test_trainer")
BEGIN = subprocess.Popen


def clean(*more: str) -> ForkServerContext:
    """What begins processes of a clean one, which imports what runs need, and `more`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, *more])
    forkserver.ensure_running()  # beside what follows, and before a test has a folder of its own for temporary files
    return context


class Handed:
    """A descriptor on its way to another process, where it is a number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _number, (DupFd(self.number),)


def _number(copy: Any) -> int:
    return copy.detach()


class Forked:
    """What is used of `subprocess.Popen`.

    Args:
        command: of a module.
        stdout: file of all that it says.
        cwd: folder that it works in.
        pass_fds: descriptors that it gets; their numbers in the command become its own.
    """

    def __init__(self, command: Sequence[str], stdout: IO, cwd: os.PathLike, pass_fds: Sequence[int] = (), **_) -> None:
        handed = {str(number): Handed(number) for number in pass_fds}
        given = (command[2:], Handed(stdout.fileno()), handed, dict(os.environ), os.fspath(cwd))
        self.process = multiprocessing.get_context("forkserver").Process(target=_work, args=given)
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode


def _work(
    command: Sequence[str], said: int, handed: Mapping[str, int], environment: Mapping[str, str], folder: str
) -> None:
    os.setsid()
    for number in (1, 2):
        os.dup2(said, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # as the environment has it
    module, *arguments = command
    sys.argv = [module, *(str(handed.get(each, each)) for each in arguments)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def begin(command: Sequence[Any], **options: Any) -> Any:
    """In place of `subprocess.Popen`, which begins what is no module."""
    return (Forked if command[1:2] == ["-m"] else BEGIN)(command, **options)
