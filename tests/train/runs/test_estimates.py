"""What a run takes, measured: once for all runs alike, remembered, and nothing left behind."""

import os
import sys
import tempfile
import threading
import time
from dataclasses import fields, replace

import pytest

from train.__main__ import RUNS
from train.runs import estimates as module
from train.runs.estimates import INDIFFERENT, Estimate, Estimates, measure
from train.tasks.diffusion import DiffusionConfig
from train.tasks.translate_config import TranslateConfig

CONFIG = DiffusionConfig(adapter="lora", rank=2)
FOUND = Estimate(step=0.5, startup=3.0, memory=10**9)


def wait(get):
    """What is there in the end."""
    until = time.monotonic() + 30
    while (found := get()) is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    return found


class Measured(list):
    """What was measured, in the place of the measurement; it takes until `go` is set."""

    def __init__(self):
        super().__init__()
        self.go, self.result = threading.Event(), FOUND
        self.go.set()

    def __call__(self, task, config):
        self.append((task, config))
        assert self.go.wait(30)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def measured(monkeypatch):
    measured = Measured()
    monkeypatch.setattr(module, "measure", measured)
    return measured


@pytest.fixture
def path(tmp_path):
    return tmp_path / "not there yet" / "estimates.json"


def test_who_asks_again_is_told_what_was_measured_once(measured, path):
    estimates = Estimates(path)
    measured.go.clear()
    assert [estimates.get("teacher", CONFIG) for _ in range(5)] == [None] * 5
    measured.go.set()
    assert wait(lambda: estimates.get("teacher", CONFIG)) == FOUND
    assert Estimates(path).get("teacher", CONFIG) == FOUND  # whoever starts anew
    assert measured == [("teacher", CONFIG)]
    assert FOUND.seconds(10) == 8.0


def test_one_run_is_measured_at_a_time(measured, path):
    estimates, other = Estimates(path), replace(CONFIG, batch=3)
    measured.go.clear()
    assert estimates.get("teacher", CONFIG) is None
    assert [estimates.get("teacher", other) for _ in range(3)] == [None] * 3
    measured.go.set()
    wait(lambda: estimates.get("teacher", CONFIG))
    assert measured == [("teacher", CONFIG)]
    assert wait(lambda: estimates.get("teacher", other)) == FOUND and len(measured) == 2


def test_a_failure_is_told_and_forgotten_with_the_process(measured, path):
    estimates, measured.result = Estimates(path), Estimate(reason="It does not start here.")
    for _ in range(3):
        assert wait(lambda: estimates.get("teacher", CONFIG)).reason == "It does not start here."
    assert len(measured) == 1 and not path.exists()
    measured.result = FOUND
    anew = Estimates(path)
    assert wait(lambda: anew.get("teacher", CONFIG)) == FOUND


def test_a_full_disk_is_told_and_not_tried_again_and_again(measured, path):
    estimates, measured.result = Estimates(path), OSError(28, "No space left on device")
    for _ in range(3):
        assert "No space left" in wait(lambda: estimates.get("teacher", CONFIG)).reason
    assert len(measured) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"KEY": {"another": 1}}', '{"KEY": 3}'])
def test_a_file_of_another_version_is_measured_anew(measured, path, content):
    path.parent.mkdir()
    path.write_text(content.replace("KEY", module._key("teacher", CONFIG)))
    assert wait(lambda: Estimates(path).get("teacher", CONFIG)) == FOUND


OTHER = {"tracker": "tensorboard", "ema": 0.5, "cooldown": 0.5}  # where one more is no value


@pytest.mark.parametrize("name", sorted({one.name for one in fields(CONFIG)} & INDIFFERENT))
def test_what_costs_nothing_is_measured_together(measured, path, name):
    estimates, value = Estimates(path), getattr(CONFIG, name)
    wait(lambda: estimates.get("teacher", CONFIG))
    more = {str: "x", tuple: ("x",)}.get(type(value))
    assert estimates.get("teacher", replace(CONFIG, **{name: OTHER.get(name, more or value + 1)})) == FOUND


@pytest.mark.parametrize(
    "change",
    [
        *({"model": "sd-turbo"}, {"adapter": "full"}, {"rank": 3}, {"batch": 65}, {"accumulation": 2}),
        *({"precision": "fp32"}, {"compile": True}, {"checkpointing": True}, {"on_one_step": True}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_costs_is_measured_apart(measured, path, change):
    estimates = Estimates(path)
    wait(lambda: estimates.get("teacher", CONFIG))
    assert estimates.get("teacher", replace(CONFIG, **change)) is None
    wait(lambda: estimates.get("teacher", replace(CONFIG, **change)))
    assert len(measured) == 2


def test_tasks_are_measured_apart(measured, path):
    estimates = Estimates(path)
    wait(lambda: estimates.get("teacher", CONFIG))
    assert estimates.get("yoso", CONFIG) is None
    wait(lambda: estimates.get("yoso", CONFIG))


def test_settings_that_cost_nothing_are_settings():
    assert {one.name for config, *_ in RUNS.values() for one in fields(config)} >= INDIFFERENT


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """The processes that are begun, with a folder of their own for what is thrown away."""
    processes, original = [], module.subprocess.Popen

    def begin(*arguments, **options):
        processes.append(original(*arguments, **options))
        return processes[-1]

    (tmp_path / "thrown").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "thrown"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "thrown"))
    monkeypatch.setattr(module.subprocess, "Popen", begin)
    yield processes
    assert list((tmp_path / "thrown").iterdir()) == []
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


def test_a_run_is_measured_and_nothing_of_it_stays(tiny_model, begun):
    config = DiffusionConfig(model=str(tiny_model), adapter="lora", rank=2, batch=2, steps=10**6, precision="fp32")
    found = measure("teacher", config)
    assert found.reason == "" and 0 < found.step < 60 and found.startup > 0 and 10**8 < found.memory < 10**11
    assert len(begun) == 1


@pytest.mark.parametrize("domains", [(), ("inked", "line art")], ids=["pairs", "two looks"])
def test_a_translator_is_measured_on_pictures_of_its_kind(tiny_model, forks, begun, domains):
    tiny = {"model": str(tiny_model), "rank": 2, "batch": 2, "precision": "fp32", "perceptual": "evaluator"}
    found = measure("translate", TranslateConfig(**tiny, domains=domains, data="/nowhere" if domains else ""))
    assert found.reason == "" and found.step > 0


def test_other_words_for_two_looks_cost_the_same(measured, path):
    estimates, config = Estimates(path), TranslateConfig(domains=("flat", "3d"))
    wait(lambda: estimates.get("translate", config))
    other = replace(config, domains=("a", "b"), prompts=("x", "y"))
    assert estimates.get("translate", other) == FOUND and len(measured) == 1
    assert estimates.get("translate", replace(config, domains=(), prompts=())) is None
    wait(lambda: estimates.get("translate", replace(config, domains=())))


@pytest.mark.parametrize(
    ("said", "reason"),
    [("a long story\nerror: there is no such model\n", "there is no such model"), ("\n", "It does not start here.")],
)
def test_a_run_that_does_not_start_says_why(begun, monkeypatch, tmp_path, said, reason):
    failing = tmp_path / "python"
    failing.write_text(f"#!/bin/sh\nprintf '{said}' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    assert measure("teacher", CONFIG) == Estimate(reason=reason) and len(begun) == 1


def test_a_run_that_takes_too_long_is_ended(begun, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    assert "long" in measure("teacher", CONFIG).reason and len(begun) == 1
