"""ZeroGPU: a Space whose GPU is lent for seconds, to a process that is forked for a call.

The process has the studio's memory as it was when it was forked, and serves later calls too, as long as the platform
lets it. What a call is given and what it answers travels as a pickle; whatever else it changes stays there. So a call
brings along whatever of the library its requests name, and nothing that it does is relied on by the next.

The platform checks a call's declared seconds against what its visitor has left of a day's quota, and ends a call that
takes longer. What it refuses it says in a ``gr.Error``; here that becomes a `PictureError`, which every tab, endpoint
and tool tells in its own way.
"""

import dataclasses
import html
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import space
from app.server.visitors import VISITOR
from yoso_core.conditioning import ControlSpec
from yoso_core.drawing import PictureError, Result
from yoso_core.engine import Engine
from yoso_core.models import ModelSpec
from yoso_core.requests import GenerateRequest, RequestError, sides_of
from yoso_core.service import Report, unheard
from yoso_core.translate import TranslatorSpec

DAY = 24 * 3600.0  # seconds
PLACES = 8  # calls at the same time; the platform has its own line
LEAST, MOST = 5, 60  # seconds that a call declares
STARTING = 4.0  # seconds until a new process has the weights on its GPU
PER_EVALUATION, PER_MEGAPIXEL = 0.05, 0.3  # seconds of a network, with a wide margin
QUOTA = "A day's quota is 2 minutes for visitors, 5 for free accounts and 40 for PRO ones, over all Spaces."
TAKEN_BACK = "The GPU was taken back before this was done; ask for fewer or smaller pictures, or fewer steps."
FAILED = "Something went wrong on the GPU that the Space's log tells of; please try again."


def on_gpu(function: Callable[..., Iterator[Any]], duration: Callable[..., int]) -> Callable[..., Iterator[Any]]:
    """A generator function that runs where a GPU is lent to it, and as it is everywhere else.

    Args:
        function: runs in another process; what it takes and yields must be picklable.
        duration: seconds that a call with these arguments declares.
    """
    if not space.lends_gpu():
        return function
    import spaces  # the platform's own; nothing else has it

    return spaces.GPU(function, duration=duration)


@dataclass(frozen=True)
class Call:
    """What travels to the process that has the GPU.

    Attributes:
        requests: of one model.
        loras: of those that the requests name, file and when it was written.
        controls, translators: those that can be asked for; some may have been trained since the process was forked.
    """

    requests: tuple[GenerateRequest, ...]
    loras: Mapping[str, tuple[Path, int]]
    controls: Mapping[str, ControlSpec]
    translators: Mapping[str, TranslatorSpec]


class LentEngine(Engine):
    """An engine that answers where a GPU is lent to it. Its models are all loaded before the first request: the
    platform's stand-in for CUDA, by which that works without a GPU, is known to the main thread alone.

    Args:
        models: what can be asked for, by name.
        proposed: whether the page itself proposes a request; such a picture is drawn for the first who asks, and costs
            nobody after that anything.
        options: of `Engine`.
    """

    rest = 0.8

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        proposed: Callable[[GenerateRequest], bool] = lambda request: False,
        **options: Any,
    ) -> None:
        super().__init__(models, runtime="torch", waits=False, **options)
        self.room, self.places = len(models), PLACES
        self.free = lambda: math.inf  # of a GPU that is not here yet nothing can be asked
        self.proposed, self.used = proposed, Used()
        self._results: dict[GenerateRequest, Result] = {}  # of what is proposed
        self._brought: dict[str, tuple[Path, int]] = {}  # to the process that has the GPU
        self._there = on_gpu(self._answer_call, lambda call: seconds_of(call.requests, self.models))
        # A process that is forked while another thread holds the lock would wait for it for good.
        os.register_at_fork(before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self.lock.renew)

    def answer(self, request: GenerateRequest, report: Report = unheard) -> Result:
        (result,) = self._answers([request], report)
        return result

    def run_each(self, requests: Sequence[GenerateRequest], report: Report = unheard) -> Iterator[Result]:
        """All in one call, which is begun and paid for once."""
        yield from self._answers([self._settled(request, report) for request in requests], report)

    def _answers(self, requests: Sequence[GenerateRequest], report: Report) -> Iterator[Result]:
        kept = [self._results[request] for request in requests if self.proposed(request) and request in self._results]
        if len(kept) == len(requests):
            yield from kept
            return
        call = self._call(requests)
        report("Waiting for the GPU")
        with in_sentences(), closing(self._there(call)) as answers:
            for number, (answer, seconds) in enumerate(answers, 1):
                if isinstance(answer, Exception):
                    raise answer
                report(f"{number} of {len(requests)}")
                yield self._told(answer, seconds)

    def _told(self, result: Result, seconds: float) -> Result:
        """The result with what it has cost, and kept if it was proposed."""
        if self.proposed(result.request):
            self._results[result.request] = result
        total = self.used.add(VISITOR.get(), seconds)
        cost = f"{seconds:.1f} s of the GPU, {total:.0f} s of it for you within a day."
        return dataclasses.replace(result, notes=(*result.notes, cost))

    def _call(self, requests: Sequence[GenerateRequest]) -> Call:
        """The requests with what they name.

        Raises:
            RequestError: a model or a LoRA is not here, which is told before it costs anything.
        """
        with self.lock:
            files, controls, translators = dict(self._lora_files), dict(self.controls), dict(self.translators)
        for request in requests:
            self.missing(request.model)
        named = {use.name for request in requests for use in request.loras} & files.keys()
        loras = {name: (files[name], files[name].stat().st_mtime_ns) for name in named}
        return Call(tuple(requests), loras, controls, translators)

    def _answer_call(self, call: Call) -> Iterator[tuple[Result | Exception, float]]:
        """In the process that has the GPU: answers, with the seconds that each took.

        Errors that say something to whoever asked are answers too, because the platform would lose their words; nothing
        comes after one.
        """
        for name, file in call.loras.items():
            if self._brought.get(name) != file:
                self.add_lora(name, file[0])
                self._brought[name] = file
        for name, control in call.controls.items():
            if self.controls.get(name) != control:
                self.add_control(name, control)
        for name, translator in call.translators.items():
            if self.translators.get(name) != translator:
                self.add_translator(name, translator)
        for request in call.requests:
            since = time.perf_counter()
            try:
                answer: Result | Exception = super().answer(request)
            except (RequestError, PictureError) as error:
                answer = error
            yield answer, time.perf_counter() - since
            if isinstance(answer, Exception):
                return


def seconds_of(requests: Sequence[GenerateRequest], models: Mapping[str, ModelSpec]) -> int:
    """What a call declares: as little as is safe, because who declares less comes first, and pays when it is wrong."""
    seconds = STARTING
    for request in requests:
        width, height = sides_of(request.size or models[request.model].resolution)
        evaluations = request.steps * request.count * (2 if (request.guidance or 1) > 1 else 1)
        seconds += evaluations * (PER_EVALUATION + PER_MEGAPIXEL * width * height / 1e6)
    return min(MOST, max(LEAST, math.ceil(seconds)))


@contextmanager
def in_sentences() -> Iterator[None]:
    """Whatever the platform refuses as a `PictureError`."""
    try:
        yield
    except gr.Error as error:
        said = html.unescape(re.sub(r"<[^>]+>", "", str(error.message))).strip()
        if error.title == "ZeroGPU worker error":
            said = TAKEN_BACK if said == "GPU task aborted" else FAILED
        elif "quota" in error.title.lower():
            said = f"{said} {QUOTA}"
        raise PictureError(said) from None


class Used:
    """Seconds of a GPU that each visitor has had within a day."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self._lock = clock, threading.Lock()
        self._spent: dict[str, deque[tuple[float, float]]] = {}

    def add(self, visitor: str, seconds: float) -> float:
        """Count some more; all of the last day."""
        with self._lock:
            now = self.clock()
            self._spent.setdefault(visitor, deque()).append((now, seconds))
            for name, spent in list(self._spent.items()):
                while spent and now - spent[0][0] > DAY:
                    spent.popleft()
                if not spent:
                    del self._spent[name]
            return sum(each for _, each in self._spent[visitor])
