"""OpenVINO, which executes networks several times faster than torch on CPUs, and minds busy neighbours less.

A part is traced once into a graph whose weights are inputs. The graph is small, holds nothing but the computation, and
is kept on disk by a hash of everything that it was made of. To compile it, the weights that are in force are written
into it, and shapes are fixed. So another set of LoRAs is another compilation of the same graph, which takes a fraction
of a second for small networks, and no file on disk can hold weights that are not the model's any more.

A compiled network holds its weights. What asks for another set of LoRAs, or another shape, is answered by torch; once
that has rested, or has been asked for again and again, it is compiled in a thread of its own, and answered by that from
then on. A compiled network answers only after it was compared with torch on the inputs of a request.
"""

import copy
import hashlib
import importlib.metadata
import logging
import os
import sys
import threading
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from yoso_core.runtimes.cache import cache_folder, check, put, scratch
from yoso_core.runtimes.parts import Part
from yoso_core.runtimes.reference import SMALL, Torch, Weights

NAME = "openvino"
GRAPH = "graph.xml"
FORMAT = 3  # of the graphs on disk; another number makes them anew
COMPRESSED = "decompression_0"  # marks a conversion of weights that must not be carried out ahead, in twice the memory
TIMES = 4096  # whole numbers whose sinusoids are in a table: timesteps, and sides of pictures
TOLERANCE = 0.1  # largest mean difference to torch, of the mean size of what torch returns; bfloat16 makes about 0.02
LOSS = 1.5  # a compiled network that takes longer than torch by this factor isn't used
REST = 0.5  # seconds without a call after which what torch answered last is compiled
OFTEN = 6  # calls after which it is compiled without rest
SWAPPED = 200e6  # bytes of weights into which LoRAs are written for a compilation alone
ASKED = 64  # sets of LoRAs and shapes of one part that are counted
COMPILED = 8  # sets of LoRAs and shapes of one part in memory, at most,
SHARE = 0.25  # and at most this part of the machine's memory
SPARE = 2e9  # bytes of memory that stay free beside a large network
HELD = 2  # how often a compiled network has its weights in memory: as given, and in the order of its kernels

log = logging.getLogger("yoso_core.runtimes")

Shapes = tuple[tuple[int, ...], ...]
Key = tuple[Any, Shapes]


def is_here() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def load_library() -> ModuleType:
    """The library, without the package by which it tells its makers of every import: a studio is nobody's business.

    Raises:
        ImportError, OSError: it is not installed, or not for this processor.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@dataclass
class _Compiled:
    """A part with its weights and shapes written in.

    Attributes:
        request: OpenVINO's own handle to run it.
        library: the model behind it, which must live as long.
        weights: whose LoRAs are held as long as this is.
        trusted: it has been compared with torch.
    """

    request: Any
    library: Any
    weights: Weights
    trusted: bool = False

    def __call__(self, inputs: Sequence[Tensor]) -> list[Any]:
        arrays = [_plain(value).contiguous().numpy() for value in inputs]
        outputs = self.request.infer(arrays, share_inputs=True, share_outputs=False)
        return [outputs[index] for index in range(len(outputs))]


@dataclass
class _Shelf:
    """What is known of one part.

    Attributes:
        graphs: the computation without weights, by the number of inputs and `Part.is_apart`.
        ready: compiled ones, the last used at the end.
        refused: shapes that are left to torch, for good.
        asked: how often torch answered for lack of a compiled one.
    """

    graphs: dict[tuple[int, bool], Any] = field(default_factory=dict)
    ready: OrderedDict[Key, _Compiled] = field(default_factory=OrderedDict)
    refused: set[Shapes] = field(default_factory=set)
    asked: OrderedDict[Key, int] = field(default_factory=OrderedDict)


@dataclass
class _Wish:
    """Something to compile when it has rested, or at once where it is asked for often."""

    part: Part
    inputs: list[Tensor]
    weights: Weights
    often: bool


class OpenVINO:
    """Executes parts on the CPU by OpenVINO, and by torch where it can't.

    Args:
        guard: the lock under which the networks' weights are changed; it is held while they are copied, not while they
            are compiled.
        precision: "bf16" or "f32"; None for bfloat16 where the processor has it.
        cache: where graphs are kept.

    Raises:
        ImportError, OSError, RuntimeError: it is not installed, or finds no device that it can use.
    """

    batch, prepares, in_place, held = 1, True, False, HELD

    def __init__(self, guard: threading.Lock, precision: str | None = None, cache: Path | None = None) -> None:
        self.library = load_library()
        self.core = self.library.Core()
        able = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = precision or ("bf16" if "BF16" in able else "f32")
        self.cache = (cache_folder() if cache is None else cache) / "graphs"
        self.guard, self.reference = guard, Torch()
        self.said: set[str] = set()
        self._shelves: weakref.WeakKeyDictionary[Part, _Shelf] = weakref.WeakKeyDictionary()
        self._wishes: dict[tuple[int, Shapes], _Wish] = {}  # one of each part and shape: the newest
        self._change = threading.Condition()
        self._works = False  # whether a thread goes through the wishes
        self._used = time.monotonic()  # when a part was run last

    def run(
        self, part: Part, inputs: Sequence[Tensor], weights: Weights, prepare: bool
    ) -> tuple[tuple[Tensor, ...], str]:
        self._used = time.monotonic()
        shelf = self._shelves.setdefault(part, _Shelf())
        shapes = tuple(tuple(value.shape) for value in inputs)
        key = (weights.state, shapes)
        compiled = shelf.ready.get(key)
        if compiled is None and prepare and shapes not in shelf.refused:
            compiled = self._compile(part, inputs, weights, nullcontext())
        if compiled is not None:
            shelf.ready.move_to_end(key)
            try:
                if compiled.trusted:
                    return self._outputs(part, compiled(inputs)), f"{NAME} {self.precision}"
                started = time.perf_counter()
                answer, who = self.reference.run(part, inputs, weights, prepare)
                self._compare(compiled, inputs, answer, time.perf_counter() - started)
                return answer, who
            except Exception as error:  # whatever a driver raises
                self._refuse(part, shelf, shapes, error)
        answer, who = self.reference.run(part, inputs, weights, prepare)
        self._used = time.monotonic()
        if shapes not in shelf.refused:
            self._wish(part, shelf, key, inputs, weights)
        return answer, who

    def settle(self) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._works)

    def _outputs(self, part: Part, arrays: list[Any]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array).to(part.dtype) for array in arrays)

    def _compare(self, compiled: _Compiled, inputs: Sequence[Tensor], answer: Sequence[Tensor], seconds: float) -> None:
        """Trust a compiled network that returns what torch does, in no more time.

        Raises:
            RuntimeError: it doesn't.
        """
        took = []
        for _ in range(3):  # the first takes its memory, and any may meet a busy moment
            started = time.perf_counter()
            outputs = compiled(inputs)
            took.append(time.perf_counter() - started)
        for ours, theirs in zip(outputs, answer, strict=True):
            theirs = theirs.float()
            difference = (torch.from_numpy(ours).float() - theirs).abs().mean() / theirs.abs().mean().clamp_min(1e-6)
            if not difference <= TOLERANCE:  # NaN too
                raise RuntimeError(f"its results differ from torch's by {difference:.0%}")
        if min(took) > LOSS * seconds:
            raise RuntimeError(f"it takes {min(took) / seconds:.1f} times as long")
        compiled.trusted = True

    def _refuse(self, part: Part, shelf: _Shelf, shapes: Shapes, error: Exception) -> None:
        """Leave calls of this shape to torch, and say so once."""
        shelf.refused.add(shapes)
        for key in [key for key in shelf.ready if key[1] == shapes]:
            del shelf.ready[key]
        self._say(f"OpenVINO can't execute {type(part).__name__} here, torch does ({error!s:.120}).")

    def _say(self, line: str) -> None:
        line = " ".join(line.split())
        if line not in self.said:
            self.said.add(line)
            log.warning(line)

    # What is asked for, and compiled when it has rested.

    def _wish(self, part: Part, shelf: _Shelf, key: Key, inputs: Sequence[Tensor], weights: Weights) -> None:
        shelf.asked[key] = shelf.asked.pop(key, 0) + 1
        while len(shelf.asked) > ASKED:
            shelf.asked.popitem(last=False)
        with self._change:
            self._wishes[id(part), key[1]] = _Wish(part, list(inputs), weights, shelf.asked[key] >= OFTEN)
            self._change.notify_all()
            if not self._works:
                self._works = True
                # No daemon: one that is stopped inside a compiler takes the process with it.
                threading.Thread(target=self._work, name=NAME).start()

    def _work(self) -> None:
        """Compile what is wished for, when it has rested, until nothing is or the program ends."""
        while True:
            with self._change:
                if not self._wishes or not threading.main_thread().is_alive():
                    self._wishes.clear()
                    self._works = False
                    self._change.notify_all()
                    return
                often = [key for key, wish in self._wishes.items() if wish.often]
                rested = time.monotonic() - self._used >= REST
                if not often and not rested:
                    self._change.wait(REST / 4)
                    continue
                wish = self._wishes.pop(often[0] if often else next(iter(self._wishes)))
            self._compile(wish.part, wish.inputs, wish.weights, self.guard)
            del wish

    # Compiling.

    def _compile(
        self, part: Part, inputs: Sequence[Tensor], weights: Weights, guard: AbstractContextManager
    ) -> _Compiled | None:
        """A part with these weights and shapes, which is on its shelf from then on; None where it can't be.

        Args:
            guard: held while weights are read.
        """
        shelf = self._shelves.setdefault(part, _Shelf())
        shapes = tuple(tuple(value.shape) for value in inputs)
        try:
            size = sum(value.numel() * value.element_size() for value in part.parameters())
            free = psutil.virtual_memory().available
            if size > SWAPPED and HELD * size > free - SPARE:
                raise MemoryError(f"it would take {HELD * size / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free")
            with guard:
                if not weights.in_force():
                    if size > SWAPPED and guard is self.guard:
                        return None  # seconds, which a request would wait for; it is wished for again
                    weights.put()
                constants = [self._constant(value) for _, value in part.named_parameters(remove_duplicate=False)]
            branch = (len(inputs), part.is_apart(shapes[0]))  # what a tracer writes down for good
            if branch not in shelf.graphs:
                shelf.graphs[branch] = self._graph(part, inputs, branch)
            model = shelf.graphs[branch].clone()
            self._write(model, shapes, constants)
            threads = 1 if operations(model) < SMALL else cores()
            options = {
                "INFERENCE_PRECISION_HINT": self.precision,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # to a core that a neighbour may keep busy
            }
            compiled = self.core.compile_model(model, "CPU", options)
            made = _Compiled(compiled.create_infer_request(), compiled, weights)
        except Exception as error:  # whatever a tracer, a compiler or a full memory raises
            self._refuse(part, shelf, shapes, error)
            return None
        while len(shelf.ready) >= room(size):
            shelf.ready.popitem(last=False)
        shelf.ready[weights.state, shapes] = made
        return made

    def _write(self, model: Any, shapes: Shapes, constants: list[Any]) -> None:
        """Fix the shapes of a graph, and write weights into it."""
        parameters = model.get_parameters()
        for parameter, shape in zip(parameters, shapes, strict=False):
            parameter.set_partial_shape(self.library.PartialShape(list(shape)))
        for parameter, constant in zip(parameters[len(shapes) :], constants, strict=True):
            parameter.output(0).replace(constant.output(0))
            model.remove_parameter(parameter)
        model.validate_nodes_and_infer_types()

    def _constant(self, weight: Tensor) -> Any:
        """A copy of a weight as a node of float32, whatever it is stored in."""
        from openvino import opset13

        value = weight.detach().contiguous()
        if value.dtype == torch.bfloat16:  # which numpy has not
            given = self.library.Tensor(value.view(torch.int16).numpy(), list(value.shape), self.library.Type.bf16)
        else:
            given = value.numpy()
        node = opset13.constant(given, shared_memory=False)
        if value.dtype == torch.float32:
            return node
        wide = opset13.convert(node, "f32")
        wide.get_rt_info()[COMPRESSED] = ""
        return wide

    def _graph(self, part: Part, inputs: Sequence[Tensor], branch: tuple[int, bool]) -> Any:
        """The computation of a part without weights, from disk where it is there."""
        versions = [importlib.metadata.version(name) for name in ("openvino", "torch", "diffusers", "transformers")]
        made_of = repr((FORMAT, versions, branch, part.describe()))
        folder = self.cache / hashlib.sha256(made_of.encode()).hexdigest()[:32]
        try:
            check(folder)
            return self.core.read_model(folder / GRAPH)
        except (FileNotFoundError, NotADirectoryError):  # not there yet, or nothing can be
            pass
        except (OSError, RuntimeError) as error:
            self._say(f"A graph in {self.cache} is broken and made anew ({error!s:.60}).")
        graph = self._trace(part, inputs)
        try:
            files = scratch(folder)
            self.library.save_model(graph, files / GRAPH, compress_to_fp16=False)
            put(files, folder)
        except (OSError, RuntimeError) as error:
            self._say(f"Graphs can't be kept in {self.cache}, so they are made anew each time ({error!s:.60}).")
        return graph

    @torch.no_grad()
    def _trace(self, part: Part, inputs: Sequence[Tensor]) -> Any:
        stateless = _Stateless(part)
        examples = [_plain(value) for value in inputs]
        # A single zero each, seen in the shape of a weight: tracing takes no memory, however large the network is.
        examples += [torch.zeros(()).expand(weight.shape) for _, weight in stateless.places]
        with torch.inference_mode(False):
            examples = tuple(value.clone() if value.is_inference() else value for value in examples)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of checks of shapes, which are fixed anyway
                traced = torch.jit.trace(stateless, examples, check_trace=False)
        return self.library.convert_model(traced, example_input=examples)


class _Stateless(nn.Module):
    """A part whose weights are inputs too, behind its own; the part itself is left as it is."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        shared = {id(weight): weight for weight in (*part.parameters(), *part.buffers())}
        self.__dict__["part"] = twin = copy.deepcopy(part, shared)  # not a child: a tracer wants its weights to stay
        self.__dict__["places"] = places = []
        for module in twin.modules():
            module.__dict__["_parameters"] = dict(module._parameters)
        for path, weight in twin.named_parameters(remove_duplicate=False):
            module, _, name = path.rpartition(".")
            places.append(((twin.get_submodule(module), name), weight))
        for module in list(twin.modules()):
            for name, child in module.named_children():
                if type(child).__name__ == "Timesteps" and child.num_channels % 2 == 0:  # in all networks of diffusers
                    setattr(module, name, _Sinusoids(child))
        for (module, name), _ in places:
            module._parameters.pop(name, None)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        weights = tensors[len(tensors) - len(self.places) :]
        for ((module, name), _), weight in zip(self.places, weights, strict=True):
            module.__dict__[name] = weight
        return self.part(*tensors[: len(tensors) - len(self.places)])


class _Sinusoids(nn.Module):
    """What embeds a time, without products that bfloat16 has no room for: 999 is 1,000 there, and has another sine.

    Whole numbers are looked up in a table of float32, and what is left of others is an angle below one.
    """

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own, self.__dict__["table"] = own, own(torch.arange(TIMES))  # not a buffer, which would be an input

    def forward(self, times: Tensor) -> Tensor:
        """(N,) -> (N, D)."""
        if not times.is_floating_point():
            return self.table[times]
        whole = times.floor()
        fixed, rest = self.table[whole.long()], self.own(times - whole)
        (cos, sin), (cos_rest, sin_rest) = (each.chunk(2, dim=1) for each in (fixed, rest))
        if not self.own.flip_sin_to_cos:
            (sin, cos), (sin_rest, cos_rest) = (cos, sin), (cos_rest, sin_rest)
        found = (cos * cos_rest - sin * sin_rest, sin * cos_rest + cos * sin_rest)
        return torch.cat(found if self.own.flip_sin_to_cos else found[::-1], dim=1)


def _plain(value: Tensor) -> Tensor:
    """As OpenVINO takes it: whole numbers stay as they are, all others are float32."""
    return value.float() if value.is_floating_point() else value


def operations(model: Any) -> float:
    """Floating-point operations of one call, multiplications and additions: of convolutions and products alone."""
    total = 0.0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "MatMul") or node.output(0).partial_shape.is_dynamic:
            continue
        outputs = _product(node.get_output_shape(0))
        if kind == "Convolution":
            total += 2 * outputs * _product(list(node.get_input_shape(1))[1:])
        else:
            total += 2 * outputs * list(node.get_input_shape(0))[-1]
    return total


def _product(numbers: Sequence[int]) -> int:
    total = 1
    for number in numbers:
        total *= int(number)
    return total


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(size: int) -> int:
    """How many compiled networks of so many bytes may be in memory; always one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    return max(1, min(COMPILED, int(SHARE * memory) // max(HELD * size, 1)))
