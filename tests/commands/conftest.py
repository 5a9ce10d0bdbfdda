"""What tests of commands need."""

import pytest


@pytest.fixture(autouse=True)
def reference(monkeypatch):
    """Commands that name no runtime take torch, so that nothing is compiled for pictures that no test looks at twice."""
    monkeypatch.setattr("yoso_core.commands.common.AUTO", "torch")
