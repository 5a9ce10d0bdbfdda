"""CUDA graphs: a network's kernels recorded once, and launched together.

One evaluation of a small batch takes a GPU less time than Python takes to launch its kernels one by one. A recorded
graph reads its weights where they are, so LoRAs that are written into them act at once; shapes are fixed, and each has
a graph.
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yoso_core.runtimes.parts import Part
from yoso_core.runtimes.reference import Torch, Weights

NAME = "cuda graphs"
BATCH = 8  # pictures a pass, a power of two: few enough for the memory of small cards
GRAPHS = 8  # shapes of one part, at most
WARM_UP = 3  # calls before one is recorded, in which libraries choose their kernels

log = logging.getLogger("yoso_core.runtimes")

Shapes = tuple[tuple[int, ...], ...]


@dataclass
class Recorded:
    """A graph with its places for inputs and outputs."""

    graph: Any
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        return tuple(value.clone() for value in self.outputs)  # the next replay writes over them


def record(part: Part, inputs: Sequence[Tensor]) -> Recorded:
    """Record a call on inputs of these shapes."""
    places = [value.clone() for value in inputs]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            part(*places)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = part(*places)
    return Recorded(graph, places, outputs)


class CudaGraphs:
    """Records each part at each shape when it is called with it for the second time, and replays it from then on.

    Args:
        recorder: records a call; `record`, but where there is no GPU to record on.
    """

    batch, prepares, in_place, held = BATCH, True, True, 0

    def __init__(self, recorder: Any = record) -> None:
        self.recorder, self.reference = recorder, Torch()
        self.said: set[str] = set()
        self._graphs: weakref.WeakKeyDictionary[Part, OrderedDict[Shapes, Recorded | None]] = (
            weakref.WeakKeyDictionary()
        )

    def run(
        self, part: Part, inputs: Sequence[Tensor], weights: Weights, prepare: bool
    ) -> tuple[tuple[Tensor, ...], str]:
        graphs = self._graphs.setdefault(part, OrderedDict())
        shapes = tuple(tuple(value.shape) for value in inputs)
        if shapes in graphs or prepare:
            graphs.setdefault(shapes, None)
            graphs.move_to_end(shapes)
            try:
                if graphs[shapes] is None:
                    while len(graphs) > GRAPHS:
                        graphs.popitem(last=False)
                    graphs[shapes] = self.recorder(part, inputs)
                return graphs[shapes](inputs), f"{NAME} {str(part.dtype).removeprefix('torch.')}"
            except RuntimeError as error:  # of CUDA, out of memory among them
                graphs.clear()
                torch.cuda.empty_cache()
                line = " ".join(
                    f"CUDA graphs can't execute {type(part).__name__} here, torch does ({error!s:.120}).".split()
                )
                if line not in self.said:
                    self.said.add(line)
                    log.warning(line)
        else:
            graphs[shapes] = None
        return self.reference.run(part, inputs, weights, prepare)

    def settle(self) -> None:
        pass
