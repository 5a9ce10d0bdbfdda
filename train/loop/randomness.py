"""Randomness as a function of (seed, step) alone: resume is exact, and how a batch is split changes nothing."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Use(IntEnum):
    """What random numbers are for: each use of a seed has a stream of its own."""

    ORDER = 0  # of samples
    STEP = 1  # a training step
    PREVIEW = 2
    PICTURE = 3  # noise of a picture that is measured
    POOLS = 4  # captions to choose from in retrieval
    BATCHES = 5  # for statistics over the training set
    SUBSETS = 6  # of the kernel distance
    PROMPTS = 7  # which pictures of a corpus are measured


def generator_for(seed: int, *path: int) -> torch.Generator:
    """A CPU generator that depends on the numbers given, a `Use` first, and on nothing else."""
    state = np.random.SeedSequence([seed, *path]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def batch_indices(count: int, batch: int, seed: int, step: int, repeats: Tensor | None = None) -> Tensor:
    """Which of `count` samples step number `step` sees: (batch,) int64.

    Every sample is seen once an epoch, or as often as `repeats`, (count,) int64, says; where these have a common
    divisor, an epoch is so many shorter ones.
    """
    seen = torch.arange(count)
    if repeats is not None:
        seen = seen.repeat_interleave(repeats // int(np.gcd.reduce(repeats.numpy())))
    position = step * batch
    taken: list[Tensor] = []
    while sum(map(len, taken)) < batch:
        epoch, offset = divmod(position, len(seen))
        order = seen[torch.randperm(len(seen), generator=generator_for(seed, Use.ORDER, epoch))]
        part = order[offset : offset + batch - sum(map(len, taken))]
        taken.append(part)
        position += len(part)
    return torch.cat(taken)


@dataclass
class Draws:
    """The random numbers of one step, for some rows of its batch.

    Whoever computes a part of a batch (a process, a round of gradient accumulation) draws the numbers of the whole
    batch in the same order and keeps its own rows. So a run takes the same noise on one device as on eight.

    Attributes:
        seed: of the run.
        step: steps done before this one.
        batch: rows of the whole batch.
        rows: the rows wanted.
        device: where the numbers go. They are drawn on the CPU; noise for a GPU is drawn there, because a batch of
            thousands would keep it waiting. So a run takes the same noise on any CPU, and on GPUs of one kind.
    """

    seed: int
    step: int
    batch: int
    rows: slice
    device: torch.device | str = "cpu"
    generator: torch.Generator = field(init=False, repr=False)
    _on_device: torch.Generator | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self.generator = generator_for(self.seed, Use.STEP, self.step)
        if torch.device(self.device).type == "cuda":
            seed = int(generator_for(self.seed, Use.STEP, self.step).initial_seed())
            self._on_device = torch.Generator(self.device).manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (rows, *shape)."""
        generator = self._on_device or self.generator
        return self._own(torch.randn(self.batch, *shape, generator=generator, device=generator.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (rows, *shape)."""
        return self._own(torch.rand(self.batch, *shape, generator=self.generator))

    def stratified(self) -> Tensor:
        """Uniform numbers in [0, 1), (rows,): one in each batch-th part of the range, which evens a loss over t out."""
        places = torch.randperm(self.batch, generator=self.generator)
        return self._own((places + torch.rand(self.batch, generator=self.generator)) / self.batch)

    def _own(self, whole: Tensor) -> Tensor:
        return whole[self.rows].to(self.device)
