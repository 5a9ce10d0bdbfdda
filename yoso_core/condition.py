"""What a network is told beside the noisy latent and the time: the encoded prompt, and what else its family has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """The encoded prompts of a batch; tensors that a family has no use for are None.

    Attributes:
        context: (B, L, D), what the network attends to.
        mask: (B, L) bool, which of it is attended to; None is all of it.
        pooled: (B, P), a prompt as one vector.
        sizes: (B, S), the size of the picture, and whatever else a network is told of it in numbers.
    """

    context: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.context)

    def __getitem__(self, rows: Any) -> "Condition":
        """Some of the batch; `rows` is a slice or (B',) int64."""
        return self.each(lambda value: value[rows])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name, in the order of the attributes."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if value is not None}

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of a row; only conditions that have the same can be in one batch."""
        return tuple(tuple(value.shape[1:]) for value in self.tensors.values())

    def each(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """The same with every tensor changed."""
        return Condition(**{name: change(value) for name, value in self.tensors.items()})

    def expand(self, batch: int) -> "Condition":
        """One row as `batch` rows, without a copy; a batch of that many stays as it is."""
        return self.each(lambda value: value.expand(batch, *value.shape[1:]))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Condition":
        """On this device; what is a real number in this precision."""
        return self.each(lambda value: value.to(device=device, dtype=dtype if value.is_floating_point() else None))

    def float(self) -> "Condition":
        return self.to(dtype=torch.float32)


def cat(conditions: Sequence[Condition]) -> Condition:
    """Conditions of one family as one batch."""
    names = conditions[0].tensors
    return Condition(**{name: torch.cat([one.tensors[name] for one in conditions]) for name in names})


def where(which: Tensor, one: Condition, other: Condition) -> Condition:
    """Row by row one or the other.

    Args:
        which: (B,) bool, where to take `one`.
        one, other: of B rows, or of a single one.
    """
    theirs = other.tensors
    rows = {name: which.view(-1, *[1] * (value.ndim - 1)) for name, value in theirs.items()}
    return Condition(**{name: torch.where(rows[name], value, theirs[name]) for name, value in one.tensors.items()})
