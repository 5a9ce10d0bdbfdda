"""What README, docs and cards name exists: files, links, commands; and the map names every file."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "models").rglob("README.md")])
OWN = "app|benchmarks|docs|models|tests|train|yoso_core"
BROUGHT = {"models/captioner", "models/converted"}  # by whoever uses them
FILE = rf"(?<![\w/.-])(?:{OWN})/[\w./-]*\w"
MODULE = rf"(?<=-m )(?:{OWN})(?:\.\w+)*"


def named_in_map():
    """Every path in the map's first column; what follows another stands in the same folder."""
    for line in (ROOT / "docs" / "map.md").read_text().splitlines():
        if not (row := re.match(r"\| (`[^|]+`) \|", line)):
            continue
        folder = Path()
        for name in re.findall(r"`([^`]+)`", row[1]):
            path = folder / name if "/" not in name else Path(name)
            folder = path.parent
            yield str(path) + ("/" if name.endswith("/") else "")


@pytest.fixture(scope="module")
def tracked():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this copy has no history")
    return [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def test_the_map_names_only_what_exists():
    assert [name for name in named_in_map() if "*" not in name and not (ROOT / name).exists()] == []


def test_the_map_names_every_file(tracked):
    named = set(named_in_map()) | {"README.md", ".gitignore"}
    folders = tuple(name for name in named if name.endswith("/"))
    lacking = [name for name in tracked if name not in named and not name.startswith(folders)]
    assert [name for name in lacking if not name.endswith("__init__.py")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_what_exists(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []
    files = {name for name in re.findall(FILE, text) if not name.startswith(tuple(BROUGHT))}
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    assert [name for name in set(re.findall(MODULE, text)) if find_spec(name) is None] == []
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", text, re.MULTILINE)
    assert [target for target in commands if target not in targets] == []
