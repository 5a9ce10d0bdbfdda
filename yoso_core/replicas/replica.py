"""One replica: an engine in a process of its own, which Ray Serve starts, watches and replaces."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from ray import serve
from ray.serve._private import replica as serving

from yoso_core.conditioning import ControlSpec
from yoso_core.drawing import PictureError, Result
from yoso_core.engine import MODELS_IN_MEMORY, Engine
from yoso_core.models import ModelSpec
from yoso_core.replicas.jobs import Answer, Job
from yoso_core.requests import RequestError
from yoso_core.service import Report, unheard
from yoso_core.translate import TranslatorSpec


def stay_at_home() -> None:
    """Let this replica listen at the loopback address alone. Ray has one server, for calls between applications, that
    listens everywhere whatever it is told; it asks for the token, but nobody beyond this machine has to be asked.
    """
    listen = serving.add_port_to_grpc_server
    serving.add_port_to_grpc_server = lambda server, address: listen(server, "127.0.0.1:0")


class Replica:
    """Takes jobs while it works on one, so that requests that are alike share passes, as in any engine.

    Args:
        models, device, controls, translators, runtime: as an `Engine`'s.
        alone: whether all replicas are on this machine.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        device: str | None,
        controls: Mapping[str, ControlSpec],
        translators: Mapping[str, TranslatorSpec],
        runtime: str,
        alone: bool,
    ) -> None:
        if alone:
            stay_at_home()
        self.marks: dict[tuple[str, str], str] = {}
        self.refusal: RequestError | PictureError | None = None
        try:
            self.engine = Engine(models, device, controls=controls, translators=translators, runtime=runtime)
            self.engine.load(self.engine.first)
        except (RequestError, PictureError) as error:  # which is for who asks to read
            self.refusal = error

    async def work(self, job: Job, report: Report = unheard) -> Answer:
        if self.refusal is not None:
            return Answer(error=self.refusal)
        if job.model:
            await self.holds(job.model)
        try:
            return Answer(await asyncio.to_thread(self._work, job, report))
        except (RequestError, PictureError) as error:
            return Answer(error=error)

    async def tell(self, job: Job) -> AsyncIterator[str | Answer]:
        """What is reported meanwhile, and then the answer."""
        loop, said = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        task = asyncio.ensure_future(
            self.work(job, lambda message: loop.call_soon_threadsafe(said.put_nowait, message))
        )
        task.add_done_callback(lambda _: said.put_nowait(None))
        while (message := await said.get()) is not None:
            yield message
        yield await task

    @serve.multiplexed(max_num_models_per_replica=MODELS_IN_MEMORY)
    async def holds(self, model: str) -> str:
        """Note that the engine has this model, as it has the last few, so that requests for it come here."""
        return model

    def _work(self, job: Job, report: Report) -> Any:
        self._learn(job)
        if job.ask == "check_lora":
            return self.engine.check_lora(*job.arguments)
        made = getattr(self.engine, job.ask)(*job.arguments, report)
        if isinstance(made, Result):
            return replace(made, request=None)  # whoever asks has it, pictures and all
        return None if job.ask == "load" else made

    def _learn(self, job: Job) -> None:
        if job.spec is not None and self.engine.models.get(job.model) != job.spec:
            self.engine.models[job.model] = job.spec
            self.engine.forget_model(job.model)
        kinds = (
            ("lora", job.loras, self.engine.add_lora),
            ("control", job.controls, self.engine.add_control),
            ("translator", job.translators, self.engine.add_translator),
        )
        for kind, named, add in kinds:
            for name, (mark, content) in named.items():
                if self.marks.get((kind, name)) != mark:
                    add(name, content)
                    self.marks[kind, name] = mark

    async def check_health(self) -> None:
        """A GPU that has failed once fails whatever comes after, so this process has to be replaced.

        An engine at work is left alone: what it records on the device must not be mixed with anything.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.engine.device.type == "cuda" and self.engine.lock.acquire(blocking=False):
            try:
                torch.zeros(1, device=self.engine.device).add_(1).item()
            finally:
                self.engine.lock.release()
