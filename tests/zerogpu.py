"""What the platform's package `spaces` does on ZeroGPU, without the platform: stands in for it in tests.

As there, a decorated function runs in a process that is forked for it and answers later calls too, what it takes and
yields is pickled, a call that takes longer than it declared loses its process, and whatever goes wrong comes back as a
``gr.Error`` with the platform's titles and words; of other errors it keeps the name alone.
"""

import inspect
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import gradio as gr
import torch

FORK = multiprocessing.get_context("fork")


class Spaces(ModuleType):
    """The module.

    Attributes:
        left: seconds of the visitor's quota; a call is charged what it declares.
        factor: by how much time runs faster than it does.
        declared: seconds of the calls so far.
        forked: number of processes so far.
    """

    def __init__(self, left: float = 120.0, factor: float = 1.0) -> None:
        super().__init__("spaces")
        self.left, self.factor = left, factor
        self.declared: list[int] = []
        self.forked = 0
        self._process: Any = None

    def GPU(self, function: Callable[..., Iterator[Any]], duration: Callable[..., int]) -> Callable[..., Iterator[Any]]:
        assert inspect.isgeneratorfunction(function)

        def handler(*given: Any) -> Iterator[Any]:
            seconds = duration(*given)
            self.declared.append(seconds)
            if seconds > self.left:
                told = f"You have exceeded your ZeroGPU quota ({seconds}s requested vs. {self.left:.0f}s left). "
                raise gr.Error(told + "Try again in 23:00:00. ", title="ZeroGPU quota exceeded")
            self.left -= seconds
            if self._process is None or not self._process.is_alive():
                self._fork(function)
            self._ours.send_bytes(pickle.dumps(given))
            yield from self._answers(seconds / self.factor)

        return handler

    def _fork(self, function: Callable[..., Iterator[Any]]) -> None:
        self._ours, theirs = FORK.Pipe()
        self._stop = FORK.Event()
        self._process = FORK.Process(target=_work, args=(function, theirs, self._stop), daemon=True)
        self._process.start()
        theirs.close()
        self.forked += 1

    def _answers(self, seconds: float) -> Iterator[Any]:
        while True:
            try:
                if not self._ours.poll(seconds):
                    self.end()
                kind, value = pickle.loads(self._ours.recv_bytes())
            except (EOFError, OSError):
                raise gr.Error("GPU task aborted", title="ZeroGPU worker error") from None
            if kind == "end":
                return
            if kind == "error":
                raise value if isinstance(value, gr.Error) else gr.Error(value, title="ZeroGPU worker error")
            try:
                yield value
            except GeneratorExit:  # the process ends with the value that it is at
                self._stop.set()
                while pickle.loads(self._ours.recv_bytes())[0] == "value":
                    pass
                raise

    def end(self) -> None:
        """Take the GPU back."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


def _work(function: Callable[..., Iterator[Any]], pipe: Any, stop: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # the platform's ends once it is through
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    while True:
        given = pickle.loads(pipe.recv_bytes())
        stop.clear()
        try:
            for value in function(*given):
                if stop.is_set():
                    break
                pipe.send_bytes(pickle.dumps(("value", value)))
            pipe.send_bytes(pickle.dumps(("end", None)))
        except Exception as error:
            pipe.send_bytes(pickle.dumps(("error", error if isinstance(error, gr.Error) else type(error).__name__)))
