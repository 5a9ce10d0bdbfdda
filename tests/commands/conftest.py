"""What the tests of several commands need."""

from types import SimpleNamespace

import pytest
from PIL import Image

from tests.tiny_control import write_tiny_control


@pytest.fixture(scope="module")
def tiny_control(tmp_path_factory):
    return write_tiny_control(tmp_path_factory.mktemp("controls") / "tiny")


@pytest.fixture
def drawing(tmp_path):
    """A picture that is neither square nor large, and a mask of a part of it."""
    picture = Image.linear_gradient("L").resize((80, 60)).convert("RGB")
    picture.paste("red", (20, 10, 60, 30))
    mask, nearly = Image.new("L", picture.size), Image.new("L", picture.size, 9)
    mask.paste(255, (20, 20, 60, 50))
    nearly.paste(240, (20, 20, 60, 50))
    picture.save(tmp_path / "in.png")
    nearly.save(tmp_path / "mask.png")
    return SimpleNamespace(
        path=str(tmp_path / "in.png"), mask_path=str(tmp_path / "mask.png"), picture=picture, mask=mask
    )


@pytest.fixture(autouse=True)
def reference(monkeypatch):
    """Commands that name no runtime take torch: nothing is compiled for pictures that no test looks at twice."""
    monkeypatch.setattr("yoso_core.commands.common.AUTO", "torch")
