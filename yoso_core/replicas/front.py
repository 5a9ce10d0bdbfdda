"""Engines in processes of their own, on one machine or many, through Ray Serve: what the page sees of them."""

import hashlib
import importlib.util
import logging
import math
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from yoso_core.conditioning import CONTROLS, ControlSpec, choose_control
from yoso_core.devices import device_named
from yoso_core.drawing import PictureError, Result
from yoso_core.models import ModelSpec
from yoso_core.replicas.jobs import Answer, Job
from yoso_core.requests import AUTO, ControlUse, GenerateRequest, RequestError, TranslateRequest
from yoso_core.service import Report, Service, unheard
from yoso_core.translate import TranslatorSpec

NAME = "yoso-studio"
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}  # of a replica
TRIES = 3  # a request that was lost with its replica is given to others
BATCH = 8  # requests that one GPU gains by having at hand
SHARED_MEMORY = 256_000_000  # bytes, for pictures on their way
HEALTH_EVERY, HEALTH_TIMEOUT = 2.0, 30.0  # seconds


class Replicas(Service):
    """Hands requests to whichever replica is free and has the model; one that dies loses none.

    Args:
        models, controls, translators, waits, device: as a `Service`'s.
        places: requests that they gain by having at hand.
        lost: what Ray raises where a replica is gone.

    Attributes:
        handle: of the deployment of replicas, in Ray's words; theirs are given what is known here at their start.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        controls: Mapping[str, ControlSpec],
        translators: Mapping[str, TranslatorSpec] | None,
        waits: bool,
        device: torch.device,
        places: int,
        lost: tuple[type[Exception], ...],
    ) -> None:
        super().__init__(models, controls, translators, waits)
        self.device, self.places, self.handle = device, places, None
        self._lost = lost
        self._begun = dict(models)  # what the replicas were told when they began
        self._marks: dict[tuple[str, str], str] = {}  # of what was added since the replicas began
        self._seen: set[str] = set()  # models that a replica has, or had, in memory

    def answer(self, request: GenerateRequest, report: Report = unheard) -> Result:
        spec, named, control = self._spec(request.model), {}, request.control
        named["loras"] = self._marked("lora", {use.name: self._lora_file(use.name) for use in request.loras})
        sent = request
        if control is not None:
            chosen = choose_control(self.controls, control, spec.family)
            sent = replace(request, control=replace(control, network=chosen))
            named["controls"] = self._marked("control", {chosen: self.controls[chosen]})
        if isinstance(request, TranslateRequest):
            translator = self._translator_spec(request.translator)
            named["translators"] = self._marked("translator", {request.translator: translator})
        result = self._ask("answer", (sent,), report, request.model, **named)
        self._seen.add(request.model)
        return replace(result, request=request)

    def run_each(self, requests: Sequence[GenerateRequest], report: Report = unheard) -> Iterator[Result]:
        """As many at the same time as there is place for."""
        with ThreadPoolExecutor(self.places) as pool:
            answers = [pool.submit(self.run, request) for request in requests]
            try:
                for number, answer in enumerate(answers, 1):
                    report(f"{number} of {len(answers)}")
                    yield answer.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def load(self, name: str, report: Report = unheard) -> None:
        self._spec(name)
        self._bring(self._missing(name), report)
        self._ask("load", (name,), report, name)
        self._seen.add(name)

    def check_lora(self, name: str, model: str) -> tuple[str, ...]:
        self._spec(model)
        self._bring(self._missing(model), unheard)
        loras = self._marked("lora", {name: self._lora_file(name)})
        return self._ask("check_lora", (name, model), unheard, model, loras=loras)

    def control_map(self, use: ControlUse, size: int, report: Report = unheard) -> Image.Image:
        return self._ask("control_map", (use, size), report)

    def _forget_model(self, name: str) -> None:
        self._seen.discard(name)

    def _forget_model(self, name: str) -> None:
        self._seen.discard(name)  # what replicas have of it in memory goes when another takes its place

    def _forget_lora(self, name: str) -> None:
        self._marks["lora", name] = secrets.token_hex(8)

    def _forget_control(self, name: str) -> None:
        self._marks["control", name] = secrets.token_hex(8)

    def _forget_translator(self, name: str) -> None:
        self._marks["translator", name] = secrets.token_hex(8)

    def _is_loaded(self, name: str) -> bool:
        return name in self._seen

    def _marked(self, kind: str, contents: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
        """Those of a kind that replicas may not know."""
        marks = {name: self._marks.get((kind, name)) for name in contents}
        return {name: (mark, contents[name]) for name, mark in marks.items() if mark is not None}

    def _ask(self, ask: str, arguments: tuple[Any, ...], report: Report, model: str = "", **named: Any) -> Any:
        """What a replica says.

        Raises:
            RequestError, PictureError: what it raised, or one replica after another was lost.
        """
        spec = self.models.get(model)
        job = Job(ask, arguments, model, None if spec == self._begun.get(model) else spec, **named)
        handle = self.handle.options(multiplexed_model_id=model) if model else self.handle
        for _ in range(TRIES):
            try:
                if report is unheard:
                    answer = handle.work.remote(job).result()
                else:  # which takes some milliseconds more
                    for answer in handle.options(stream=True).tell.remote(job):
                        if not isinstance(answer, Answer):
                            report(answer)
            except self._lost:
                continue
            if answer.error is not None:
                raise answer.error
            return answer.value
        raise PictureError(f"{TRIES} replicas were lost over this, one after another; please ask for less.")


@contextmanager
def replicas(
    count: tuple[int, int] | None,
    address: str | None,
    models: Mapping[str, ModelSpec],
    device: str | None = None,
    controls: Mapping[str, ControlSpec] = CONTROLS,
    translators: Mapping[str, TranslatorSpec] | None = None,
    runtime: str = AUTO,
    waits: bool = True,
) -> Iterator[Replicas]:
    """Replicas, each with the default model in memory.

    Args:
        count: fewest and most; between them the load decides. None for one a GPU, or one a machine.
        address: of a Ray cluster. There they stay: who comes with the same settings and code uses them too, and who
            comes with others replaces them. None for a cluster of this machine alone, which ends with this.
        models, device, controls, translators, runtime, waits: as an `Engine`'s.

    Raises:
        RequestError: Ray is not installed, there is no cluster there, or the replicas don't start.
    """
    if importlib.util.find_spec("ray") is None:
        raise RequestError("Replicas need one more package: pip install -r requirements-ray.txt.")
    here = device_named(device if address is None else "cpu")
    with _connected(address, count) as ray:
        from ray import serve
        from ray.exceptions import RayActorError

        from yoso_core.replicas.replica import Replica

        logging.getLogger("ray.serve").setLevel("ERROR")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = [node["GPU"] for node in nodes if node.get("GPU")] if device in (None, "cuda") else []
        fewest, most = count or (int(sum(gpus)) or len(nodes),) * 2
        at_hand = BATCH if gpus else 2
        front = Replicas(models, controls, translators, waits, here, most * at_hand, (RayActorError,))
        number: dict[str, Any] = {"num_replicas": most}
        if fewest < most:
            wished = {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": max(1, at_hand // 2)}
            number = {"autoscaling_config": wished}
        deployment = serve.deployment(Replica).options(
            name="replica",
            ray_actor_options=_share(gpus, [node.get("CPU", 0) for node in nodes], most),
            max_ongoing_requests=at_hand,
            health_check_period_s=HEALTH_EVERY,
            health_check_timeout_s=HEALTH_TIMEOUT,
            **number,
        )
        given = (front.models, device, front.controls, front.translators, runtime, address is None)
        name = f"{NAME}-{_fingerprint(given, number)}"
        try:
            serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False})
            there = [one for one in serve.status().applications if one.startswith(NAME)]
            if name in there:
                front.handle = serve.get_app_handle(name)
            else:
                for one in there:
                    serve.delete(one)
                front.handle = serve.run(deployment.bind(*given), name=name, route_prefix=None)
        except RuntimeError as error:
            raise RequestError(f"The replicas don't start ({' '.join(str(error).split())[:200]}).") from None
        yield front


def _fingerprint(*settings: Any) -> str:
    """Another one for other settings, and for other code."""
    found = hashlib.blake2b(repr(settings).encode(), digest_size=6)
    for path in sorted((ROOT / "yoso_core").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _share(gpus: Sequence[float], cpus: Sequence[float], count: int) -> dict[str, float]:
    """What each of so many replicas gets of the machines: a GPU or a part of one, else its part of the processors.

    Args:
        gpus, cpus: of each machine; those without any are left out of the former.
    """
    if gpus:
        return {"num_cpus": 0, "num_gpus": min(1.0, 1 / math.ceil(count / sum(gpus)))}
    able = [number for number in cpus if number]
    return {"num_cpus": max(1, int(min(able) // math.ceil(count / len(able)))), "num_gpus": 0}


@contextmanager
def _connected(address: str | None, count: tuple[int, int] | None) -> Iterator[Any]:
    """Ray's module, connected. What Ray starts here listens at the loopback address, and takes orders only from who
    has this process' token: a Ray that takes them from anybody runs anybody's programs.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    options: dict[str, Any] = {"address": address, "runtime_env": {"env_vars": ENVIRONMENT}}
    folder = None
    if address is None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # this machine is 127.0.0.1
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once
        # Where names are short: those of sockets may have about a hundred letters.
        folder = tempfile.mkdtemp(prefix="yoso-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
        options |= {
            "address": "local",
            "num_cpus": max(os.cpu_count() or 1, count[1] if count else 1),
            "include_dashboard": False,
            "object_store_memory": SHARED_MEMORY,
            "_temp_dir": f"{folder}/ray",  # which Ray opens to every user; the folder around it is this one's alone
        }
    ended = signal.getsignal(signal.SIGTERM)
    import ray  # which reads the environment

    try:
        try:
            ray.init(logging_level="ERROR", namespace=NAME, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "Ray can't be started here" if address is None else f"There is no Ray cluster at {address!r:.80}"
            raise RequestError(f"{where} ({' '.join(str(error).split())[:160]}).") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended)  # Ray's would end this process without clearing up
        yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
