"""app.py on the platform's own package `spaces`, as on ZeroGPU, without a GPU: python -m tests.heavy.zerogpu

The package's fork, pickles, queues and errors are the real ones, and so is its stand-in for CUDA, which lets models be
moved to "cuda" before there is one and refuses what mixes devices. Only what needs the card is replaced: in the forked
process the stand-in stays, so that "cuda" computes on the CPU.
"""

import functools
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import spaces
import torch
from spaces import zero
from spaces.zero import decorator, wrappers
from spaces.zero.torch import patching

ROOT = Path(__file__).resolve().parents[2]


class StandIn(patching.ZeroGPUFunctionMode):
    """The platform's stand-in for CUDA, which takes ``a.to(b)`` for a move to the CPU; where it ends, CUDA is real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        others = {torch.Tensor.to: args[1:], torch._C._nn._parse_to: args}.get(func)
        if others and isinstance(others[0], torch.Tensor):
            device = "cuda" if others[0] in patching.cuda_aliases else others[0].device
            args, kwargs = args[: -len(others)], {"device": device, "dtype": others[0].dtype}
        return super().__torch_function__(func, types, args, kwargs)


def on_stand_in(function: Callable[..., Iterator[Any]], **options: Any) -> Callable[..., Iterator[Any]]:
    """The platform's decorator; the process that works is another thread, for which the stand-in begins anew."""

    @functools.wraps(function)
    def work(*given: Any) -> Iterator[Any]:
        zero.torch.enter_mode()
        yield from function(*given)

    return decorator.GPU(work, **options)


def main() -> None:
    os.chdir(ROOT)
    for name, replacement in {
        "unpatch": lambda: None,
        "init": lambda uuid: None,
        "move": lambda callback=None: None,
        "pack": lambda: 0,
    }.items():
        setattr(zero.torch, name, replacement)
        assert hasattr(wrappers.torch, name)
    patching.function_mode = StandIn()
    spaces.GPU = on_stand_in
    sys.argv = ["app.py", *sys.argv[1:]]
    runpy.run_path("app.py", run_name="__main__")


if __name__ == "__main__":
    main()
