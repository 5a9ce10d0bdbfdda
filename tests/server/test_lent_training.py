"""Training in a process that is forked for a call, as on ZeroGPU: followed, paused, gone on with, ended by force."""

import re
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

import train.runs.assemble  # noqa: F401  # takes seconds, which each process would need anew
from app.server.lent_training import LentTraining
from app.train_mode import MODES
from app.train_tab import TrainTab, waits_for_gpu
from tests.trained import PATIENCE, scene
from tests.zerogpu import Spaces
from train.runs.jobs import Job, Runs
from train.tasks.diffusion import DiffusionConfig
from yoso_core.drawing import PictureError
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL

SHORT = {
    "batch": 2,
    "warmup": 1,
    "checkpoint_every": 2,
    "preview_every": 2,
    "precision": "fp32",
    "rank": 2,
    "adapter": "lora",
}


@pytest.fixture
def spaces(monkeypatch):
    module = Spaces(left=1000)
    monkeypatch.setitem(sys.modules, "spaces", module)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr("app.server.lent_training.EVERY", 0.05)
    yield module
    module.end()


@pytest.fixture
def lent(spaces) -> LentTraining:
    return LentTraining()


def begun(root, model, steps: int) -> Job:
    runs = Runs(root, private=True)
    draft = runs.draft("somebody")
    for index in range(2):
        scene(offset=index).save(draft.data / f"a ball {index}.png")
    config = DiffusionConfig(model=str(model), steps=steps, **SHORT)
    return runs.begin(draft, "teacher", "quick", "Balls", asdict(config), start=waits_for_gpu)


def test_a_run_is_trained_where_the_gpu_is_and_leaves_what_it_learned(lent, spaces, tiny_model, tmp_path):
    job = begun(tmp_path, tiny_model, steps=2)
    assert job.state == "paused" and not job.alive
    states = {job.state for _ in lent.run(job)}
    assert "running" in states and job.state == "finished" and not job.alive
    assert (job.folder / "output" / "pytorch_lora_weights.safetensors").is_file()
    assert len(list((job.folder / "previews").iterdir())) == 2
    assert "done: 2 steps" in job.log() and spaces.declared == [100]


def test_who_leaves_pauses_it_and_it_goes_on(lent, tiny_model, tmp_path):
    job = begun(tmp_path, tiny_model, steps=10_000)
    until = time.monotonic() + PATIENCE
    with closing(lent.run(job)) as looks:
        for _ in looks:
            if job.has_checkpoint or time.monotonic() > until:
                break
    assert job.state == "paused" and job.has_checkpoint and not job.stopping
    with closing(lent.run(job)) as looks:
        for _ in looks:
            if len(starts := re.findall(r"from step (\d+) to", job.log())) == 2 or time.monotonic() > until:
                break
    assert starts[0] == "0" and int(starts[1]) >= 2


def test_a_gpu_that_is_taken_back_leaves_it_interrupted(lent, spaces, tiny_model, tmp_path):
    job = begun(tmp_path, tiny_model, steps=10_000)
    with pytest.raises(PictureError, match="taken back"):
        for _ in lent.run(job):
            if job.has_checkpoint:
                spaces.end()
    assert job.state == "interrupted" and not job.alive


def test_a_quota_that_does_not_do_begins_nothing(lent, spaces, tiny_model, tmp_path):
    spaces.left, job = 60, begun(tmp_path, tiny_model, steps=2)
    with pytest.raises(PictureError, match=r"100s requested vs\. 60s left"):
        list(lent.run(job))
    assert job.state == "paused"


def test_the_page_offers_what_fits_into_a_call(lent, tiny_spec, tmp_path):
    engine = Engine({DEFAULT_MODEL: tiny_spec}, device="cpu")
    tab = TrainTab(engine, SimpleNamespace(), tmp_path / "runs", MODES["tiny"], lent)
    config = tab.new.config("quick", DEFAULT_MODEL)
    assert config.minutes == lent.minutes and config.steps <= MODES["tiny"].steps
    assert "ends after" in tab.new.price("quick", DEFAULT_MODEL, {})[0]
    assert list(tab.train_here("somebody", "")) == [""]
    assert "no such run" in "".join(tab.train_here("somebody", "gone"))
    assert replace(MODES["tiny"], minutes=1.0) == tab.mode
