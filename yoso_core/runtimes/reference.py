"""torch, as the networks are: the reference that every other runtime is held against."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from yoso_core.lora.changes import Lora
from yoso_core.lora.stack import State
from yoso_core.runtimes.parts import Part

SMALL = 1.5e9  # floating-point operations of a call that a second thread gains next to nothing of


@dataclass(frozen=True)
class Weights:
    """What a part is to compute with.

    Attributes:
        state: the LoRAs that change it, by identity and weight, for each part of the pipeline that it reads.
        held: all LoRAs in use, so that no other one can get their identity while this is remembered.
        put: writes them into the networks' own weights, where they are not yet.
        in_force: whether the networks' own weights are these.

    The latter two are called under the lock that the networks' weights are changed under.
    """

    state: tuple[State, ...] = ()
    held: tuple[Lora, ...] = field(default=(), repr=False, compare=False)
    put: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    in_force: Callable[[], bool] = field(default=lambda: True, repr=False, compare=False)


class Runtime(Protocol):
    """Executes parts. Called under the engine's lock, by one thread at a time.

    Attributes:
        batch: pictures of one size that it makes in one pass, where there are as many; 1 where that saves nothing.
        prepares: whether it does something in calls that say there is time for it.
        in_place: whether it always computes with the networks' own weights, which LoRAs are then written into at once.
        held: how often it has the weights of a network in memory beside torch's own.
        reference: who calls a network as it is, for what is not worth making ready.
    """

    batch: int
    prepares: bool
    in_place: bool
    held: int

    @property
    def reference(self) -> "Runtime": ...

    def run(
        self, part: Part, inputs: Sequence[Tensor], weights: Weights, prepare: bool
    ) -> tuple[tuple[Tensor, ...], str]:
        """What the part returns of these inputs, and who executed it, such as "torch float32".

        Args:
            weights: what it computes with; a runtime may have them in a form of its own.
            prepare: whether there is time now for what makes later calls of this kind fast.
        """
        ...

    def settle(self) -> None:
        """Wait until nothing is being made ready, for those who measure."""
        ...


class Torch:
    """Calls the network: on a CPU with one thread where a second gains nothing, and spins while a neighbour works."""

    batch, prepares, in_place, held = 1, False, True, 0

    def __init__(self) -> None:
        self._small: weakref.WeakKeyDictionary[Part, dict[tuple, bool]] = weakref.WeakKeyDictionary()

    @property
    def reference(self) -> "Torch":
        return self

    def run(
        self, part: Part, inputs: Sequence[Tensor], weights: Weights, prepare: bool
    ) -> tuple[tuple[Tensor, ...], str]:
        weights.put()
        who = f"torch {str(part.dtype).removeprefix('torch.')}"
        if inputs[0].device.type != "cpu":
            return part(*inputs), who
        known = self._small.setdefault(part, {})
        shapes = tuple(value.shape for value in inputs)
        if shapes not in known:
            with FlopCounterMode(display=False) as counted:
                outputs = part(*inputs)
            known[shapes] = counted.get_total_flops() < SMALL
            return outputs, who
        with threads(1 if known[shapes] else torch.get_num_threads()):
            return part(*inputs), who

    def settle(self) -> None:
        pass


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let this thread compute with so many."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
