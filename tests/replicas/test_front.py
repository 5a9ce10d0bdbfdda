"""Replicas: the same answers as one engine's, whoever of them dies. Only the last test needs Ray."""

import ast
import importlib.util
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tests.tiny_translate import write_translator
from yoso_core.engine import Engine
from yoso_core.replicas.front import TRIES, Replicas, _share, replicas
from yoso_core.requests import (
    DEFAULT_MODEL,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
    TranslateRequest,
)

ROOT = Path(__file__).resolve().parents[2]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.mark.parametrize(
    ("gpus", "cpus", "count", "each"),
    [
        ([], [8], 2, {"num_cpus": 4, "num_gpus": 0}),
        ([], [2], 4, {"num_cpus": 1, "num_gpus": 0}),
        ([], [8, 8, 0], 3, {"num_cpus": 4, "num_gpus": 0}),
        ([8, 4], [64, 64], 12, {"num_cpus": 0, "num_gpus": 1.0}),
        ([8], [64], 3, {"num_cpus": 0, "num_gpus": 1.0}),
        ([1], [16], 4, {"num_cpus": 0, "num_gpus": 0.25}),
    ],
)
def test_machines_are_shared_out(gpus, cpus, count, each):
    assert _share(gpus, cpus, count) == each


def test_one_process_imports_no_ray():
    """Only what runs in a replica, and functions, import it."""
    for path in (ROOT / "app.py", *(ROOT / "yoso_core").rglob("*.py"), *(ROOT / "app").rglob("*.py")):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = " ".join(map(ast.unparse, top))
        assert path.name == "replica.py" or not re.search(r"\b(ray|yoso_core\.replicas\.replica)\b", names), path


class Gone(Exception):
    pass


class Dying:
    """A handle whose replicas die."""

    def __init__(self) -> None:
        self.asked = 0
        self.work, self.remote = self, lambda job: self

    def options(self, **_):
        return self

    def result(self):
        self.asked += 1
        raise Gone


def test_a_request_that_kills_whoever_works_on_it_is_given_up(tiny_spec):
    front = Replicas({DEFAULT_MODEL: tiny_spec}, {}, {}, True, torch.device("cpu"), 2, (Gone,))
    front.handle = Dying()
    with pytest.raises(RuntimeError, match="replicas were lost over this"):
        front.run(GenerateRequest("a"))
    assert front.handle.asked == TRIES


def ours(name: str) -> dict[int, str]:
    """Processes that this one's Ray has started, by number, whose command holds `name`."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found[process.pid] = " ".join(process.cmdline())
    return {number: command for number, command in found.items() if name in command}


def listening_beyond_loopback() -> set[int]:
    """Ports of TCP sockets that listen at other addresses than the loopback's."""
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and not address.endswith("0100007F") and not address.endswith("01000000"):
                ports.add(int(port, 16))
    return ports


def levels(result) -> list[np.ndarray]:
    return [np.asarray(picture) for picture in result.pictures]


def assert_equal(one, other):
    assert (one.request, one.seeds, one.cut, one.notes) == (other.request, other.seeds, other.cut, other.notes)
    assert one.runtime == other.runtime and one.evaluations == other.evaluations
    for mine, its in zip(levels(one), levels(other), strict=True):
        assert np.array_equal(mine, its)


@needs_ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into /proc")
def test_two_replicas_answer_as_one_engine_and_a_killed_one_loses_no_request(
    tiny_spec, tiny_control, tiny_lora, tmp_path
):
    models, controls = {DEFAULT_MODEL: replace(tiny_spec, family="tiny")}, {"tiny": tiny_control}
    engine = Engine(models, "cpu", controls=controls, translators={})
    before = listening_beyond_loopback()
    with replicas((2, 2), None, models, "cpu", controls, {}, "torch") as front:
        assert len(ours("ServeReplica")) == 2 and front.places == 4
        assert listening_beyond_loopback() == before

        lines = write_translator(tmp_path / "lines", engine.load(DEFAULT_MODEL), input="lines")
        for one in (engine, front):
            one.add_lora(tiny_lora.id, tiny_lora.path)
            one.add_translator("lines", lines)
        picture = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB")
        use = ControlUse(picture=picture)
        for request in (
            GenerateRequest("a red heart", seed=7, count=2, steps=2),
            GenerateRequest(f"{{a|b}} <lora:{tiny_lora.id}:0.7>", count=3, guidance=2.0),
            GenerateRequest("a house", loras=(LoraUse(tiny_lora.id, 0.5),), control=use),
            EditRequest("a cat", picture=picture, strength=0.6, loras=(LoraUse(tiny_lora.id, -1.0),)),
            TranslateRequest("a cat", picture=picture, translator="lines"),
        ):
            assert_equal(front.run(request), engine.run(request))
        assert front.control_map(use, 64).tobytes() == engine.control_map(use, 64).tobytes()
        assert front.check_lora(tiny_lora.id, DEFAULT_MODEL) == engine.check_lora(tiny_lora.id, DEFAULT_MODEL)

        engine.models["late"] = front.models["late"] = replace(models[DEFAULT_MODEL], title="Late")
        assert_equal(front.run(GenerateRequest("a", model="late")), engine.run(GenerateRequest("a", model="late")))

        # What goes is gone, what is wrong is a sentence, and both go on.
        front.remove_lora(tiny_lora.id)
        for wrong in (
            GenerateRequest("a", loras=(LoraUse(tiny_lora.id, 1.0),)),
            GenerateRequest("a", model="none"),
            GenerateRequest("a", size=1024),
        ):
            with pytest.raises(RequestError) as told:
                front.run(wrong)
            assert type(told.value) is RequestError and "\n" not in str(told.value)

        # A replica is killed while both have work.
        long = [GenerateRequest("a tree", seed=seed, count=3, steps=50, sampler="ddim") for seed in range(4)]
        begun = threading.Event()
        with ThreadPoolExecutor(len(long)) as pool:
            answers = [pool.submit(front.run, request, lambda message: begun.set()) for request in long]
            assert begun.wait(60)
            time.sleep(0.1)
            victim = min(ours("ServeReplica"))
            os.kill(victim, signal.SIGKILL)
            assert not all(answer.done() for answer in answers)
            for request, answer in zip(long, answers, strict=True):
                assert_equal(answer.result(120), engine.run(request))
        assert victim not in ours("ServeReplica")
    assert not ours("ray::")
