"""What a LoRA does to one weight: the kinds of change, each a product of small matrices.

All of them are written as a matrix of the weight, (out, in) or (out, kh kw in), in float32. That of a convolution has
its inputs last, as channels_last keeps them in memory, where sums run twice as fast.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Place = tuple[str, str]  # part of the pipeline, name of the parameter


def rows_last(weight: Tensor) -> Tensor:
    """(out, kh, kw, in) of a convolution's weight (out, in, kh, kw); any other as it is."""
    return weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight


def as_rows(weight: Tensor) -> Tensor:
    """The matrix (out, kh kw in) of a convolution, (out, in) of a linear layer, (out, 1) of a vector."""
    return rows_last(weight).flatten(1) if weight.ndim > 1 else weight.unsqueeze(1)


class Change(Protocol):
    """The change of one weight at strength 1."""

    def rows(self, base: Tensor) -> Tensor:
        """What is added to `as_rows(base)`, in float32, on the device of `base`, which is W_0."""


@dataclass(frozen=True)
class LowRank:
    """A LoRA, or a LoCon of a convolution: (alpha / r) B A.

    Attributes:
        down: A, (r, in) or (r, in, kh, kw).
        up: B, (out, r) or (out, r, 1, 1).
        scale: alpha / r.
    """

    down: Tensor
    up: Tensor
    scale: float

    def rows(self, base: Tensor) -> Tensor:
        up, down = side_by_side([(self, 1.0)], base.device)
        return up @ down


@dataclass(frozen=True)
class Hadamard:
    """A LoHa (arXiv 2108.06098): two low-rank products, multiplied number by number, times alpha / r."""

    first: LowRank
    second: LowRank
    scale: float

    def rows(self, base: Tensor) -> Tensor:
        return self.scale * self.first.rows(base) * self.second.rows(base)


@dataclass(frozen=True)
class Kronecker:
    """A LoKr: the Kronecker product of two matrices, times alpha / r.

    Attributes:
        left: (a, b).
        right: (c, d) or (c, d, kh, kw), where out = a c and in = b d.
        scale: alpha / r; 1 where neither matrix is itself a low-rank product.
    """

    left: Tensor
    right: Tensor
    scale: float

    def rows(self, base: Tensor) -> Tensor:
        left, right = (matrix.to(base.device).float() for matrix in (self.left, self.right))
        return as_rows(self.scale * torch.kron(left.view(*left.shape, *[1] * (right.ndim - 2)), right))


@dataclass(frozen=True)
class Whole:
    """The difference of the weight itself, of any shape that a parameter has."""

    difference: Tensor

    def rows(self, base: Tensor) -> Tensor:
        return as_rows(self.difference.to(base.device).float())


@dataclass(frozen=True)
class Decomposed:
    """DoRA (arXiv 2402.09353): W = m (W_0 + D) / |W_0 + D|, the norm taken of each row, and D another change.

    At another strength than 1 the whole difference to W_0 is scaled, so that 0 is W_0.

    Attributes:
        change: D.
        magnitude: m, (out,) or (in,).
        axis: what a row is: all that writes one output, or all that reads one input.
    """

    change: Change
    magnitude: Tensor
    axis: Literal["output", "input"]

    def rows(self, base: Tensor) -> Tensor:
        start = as_rows(base).float()
        moved = start + self.change.rows(base)
        groups = moved.view(len(moved), -1, len(self.magnitude)) if self.axis == "input" else moved
        norm = torch.linalg.vector_norm(groups, dim=(0, 1) if self.axis == "input" else 1)
        gain = self.magnitude.to(base.device).float() / norm.clamp_min(torch.finfo(torch.float32).tiny)
        turned = (groups * gain) if self.axis == "input" else groups * gain.unsqueeze(1)
        return turned.reshape(start.shape) - start


class Lora(dict[Place, Change]):
    """The changes that one file makes, by place.

    Attributes:
        notes: what the file holds beside them and is left out, in words.
    """

    notes: tuple[str, ...] = ()


def side_by_side(changes: Iterable[tuple[LowRank, float]], device: torch.device) -> tuple[Tensor, Tensor]:
    """B (out, r) and A (r, in) of several changes of one weight as one product; their strengths are in B."""
    changes = list(changes)
    up = torch.cat([change.up.flatten(1) for change, _ in changes], 1)
    down = torch.cat([as_rows(change.down) for change, _ in changes])
    strengths = [factor * change.scale for change, factor in changes for _ in range(len(change.down))]
    return up.to(device).float() * torch.tensor(strengths, device=device), down.to(device).float()
