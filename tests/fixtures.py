"""What several test files need. It is loaded where tests run, see conftest.py."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.processes import begin, clean
from tests.stand_in import Repository, StandIn, files_of
from tests.tiny import random_lora, write_tiny_model
from tests.tiny_control import write_tiny_control
from train.runs.jobs import Standby
from yoso_core.checkpoints import Source
from yoso_core.conditioning import ControlSpec
from yoso_core.engine import Engine
from yoso_core.lora.library import LoraEntry, uploaded
from yoso_core.models import ModelSpec, local_model
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.words import FILE

CALL = Standby.call
EXAMPLES = ["a red heart", "grinning cat", "palm tree"]


@pytest.fixture
def call_standby():
    """`Standby.call` itself."""
    return CALL


@pytest.fixture(autouse=True)
def nobody_stands_by(monkeypatch):
    """A process that brings libraries into memory for a run that a test won't begin takes seconds from all others."""
    monkeypatch.setattr(Standby, "call", lambda self: None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of the tiny model; read only. It says the styles of the bundled one."""
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    styles = {style: f"as {style} has it" for style in ("3d", "flat", "noto", "twemoji")}
    (folder / FILE).write_text(json.dumps({"styles": styles, "examples": EXAMPLES}))
    return folder


@pytest.fixture(scope="session")
def tiny_spec(tiny_model) -> ModelSpec:
    """The tiny model in place of the bundled one."""
    return replace(local_model(str(tiny_model)), title="Tiny", resolution=64, sizes=(64, 96), dtype="float32")


@pytest.fixture(scope="session")
def tiny_control(tmp_path_factory) -> ControlSpec:
    """A ControlNet for models of the family "tiny"."""
    folder = write_tiny_control(tmp_path_factory.mktemp("controls") / "tiny")
    return ControlSpec("Tiny", Source(str(folder)), "none", "tiny", ("canny", "scribble", "map"))


@pytest.fixture(scope="session")
def tiny_lora(tmp_path_factory, tiny_model) -> LoraEntry:
    """A LoRA of random weights for the tiny model, as the library lists it."""
    path = tmp_path_factory.mktemp("loras") / "waves.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_file(random_lora(UNet2DConditionModel.from_pretrained(tiny_model / "unet"), 0.3), path)
    return replace(uploaded(path, "known-to-all"), id="waves", title="Waves", family="tiny", origin="folder")


@pytest.fixture
def hub(tiny_model, tiny_lora, tmp_path, monkeypatch):
    """It has the tiny model, and its one-step LoRA as a pickle that is called otherwise, as the published one is."""
    torch.save(load_file(tiny_lora.path), tmp_path / "pickle")
    pickle = (tmp_path / "pickle").read_bytes()
    repositories = {"some/model": Repository(files_of(tiny_model)), "some/lora": Repository({"a.safetensors": pickle})}
    server = StandIn(repositories)
    server.begin(monkeypatch, tmp_path / "cache")
    yield server
    server.end()


@pytest.fixture
def forks(monkeypatch):
    """Commands of modules are carried out by processes that have imported them, see `tests.processes`."""
    clean()
    monkeypatch.setattr(subprocess, "Popen", begin)


@pytest.fixture
def engine(tiny_spec) -> Engine:
    return Engine({DEFAULT_MODEL: tiny_spec}, device="cpu")
