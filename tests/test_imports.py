"""The architecture, read off the syntax trees: who may import whom, and that importing has no effect."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for package in ("yoso_core", "train", "app") for path in (ROOT / package).rglob("*.py"))
FORBIDDEN = {"yoso_core": {"gradio", "train", "app"}, "train": {"gradio", "app"}, "app": set()}
TORCH_ALONE = {"yoso_core/schedule.py", "yoso_core/sampling.py", "train/tasks/losses.py"}
DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
STANDARD = {"collections", "dataclasses", "typing"}


def imported(tree):
    """(top-level name, whole name) of every import in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module.split(".")[0], node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_directions(path):
    name = str(path.relative_to(ROOT))
    tree = ast.parse(path.read_text())
    tops = {top for top, _ in imported(tree)}
    assert not tops & FORBIDDEN[name.split("/")[0]]
    if name in TORCH_ALONE:
        own = {whole for top, whole in imported(tree) if top == "yoso_core"}
        assert tops <= {"torch", "yoso_core"} | STANDARD
        assert own <= {"yoso_core.schedule", "yoso_core.condition", "yoso_core.denoiser"}
    if (
        path.name != "__main__.py"
        and not name.startswith(("train/recipes", "yoso_core/commands"))
        and name not in {"train/loop/config.py", "train/handover/manifest.py", "train/measure/lpips_weights.py"}
    ):
        assert "argparse" not in tops


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_importing_only_defines(path):
    """Module level holds imports, definitions, constants and the main guard; no bare calls, no loops."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "__name__ == '__main__'"
        else:
            assert isinstance(node, (*DEFINING, ast.Assign, ast.AnnAssign)) or (
                isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            )
