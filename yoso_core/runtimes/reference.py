"""torch, as the networks are: the reference that every other runtime is held against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from yoso_core.lora.changes import Lora
from yoso_core.lora.stack import State
from yoso_core.runtimes.parts import Part


@dataclass(frozen=True)
class Weights:
    """What a part computes with at the moment.

    Attributes:
        state: the LoRAs in force that change it, by identity and weight, for each part of the pipeline that it reads.
        held: those LoRAs, so that no other one can get their identity while this is remembered.
        in_force: whether it still is so; asked under the lock that the networks' weights are changed under.
    """

    state: tuple[State, ...] | None = ()
    held: tuple[Lora, ...] = field(default=(), repr=False, compare=False)
    in_force: Callable[[], bool] = field(default=lambda: True, repr=False, compare=False)


class Runtime(Protocol):
    """Executes parts. Called under the engine's lock, by one thread at a time.

    Attributes:
        batch: pictures of one size that it makes in one pass, where there are as many; 1 where that saves nothing.
        prepares: whether it does something in calls that say there is time for it.
    """

    batch: int
    prepares: bool

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
    """Calls the network."""

    batch, prepares = 1, False

    def run(
        self, part: Part, inputs: Sequence[Tensor], weights: Weights, prepare: bool
    ) -> tuple[tuple[Tensor, ...], str]:
        return part(*inputs), f"torch {str(part.dtype).removeprefix('torch.')}"

    def settle(self) -> None:
        pass
