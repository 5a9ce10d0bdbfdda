"""What several test files need."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import write_tiny_model
from yoso_core.engine import Engine
from yoso_core.models import ModelSpec, local_model
from yoso_core.requests import DEFAULT_MODEL


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of the tiny model; read only."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_spec(tiny_model) -> ModelSpec:
    """The tiny model in place of the bundled one."""
    styles = ("3d", "flat", "noto", "twemoji")
    return replace(
        local_model(str(tiny_model)), title="Tiny", resolution=64, sizes=(64, 96), dtype="float32", styles=styles
    )


@pytest.fixture
def engine(tiny_spec) -> Engine:
    return Engine({DEFAULT_MODEL: tiny_spec}, device="cpu")
