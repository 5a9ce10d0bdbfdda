"""What `make run` installs is told to the last file, and is what the two files of requirements ask for."""

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ASKED = ("requirements.txt", "requirements-page.txt")
ENTRY = re.compile(r"(?P<asked>[^\\\n]+?)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)")


def asked_in(*names: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for name in names for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def pinned() -> dict[str, set[str]]:
    """The versions of each package, by name: one, unless another Python or system gets another."""
    found: dict[str, set[str]] = {}
    for match in ENTRY.finditer((ROOT / "constraints.txt").read_text()):
        one = Requirement(match["asked"])
        found.setdefault(canonicalize_name(one.name), set()).add(str(one.specifier))
    return found


def test_every_line_is_a_version_with_its_hashes():
    text = (ROOT / "constraints.txt").read_text()
    assert ENTRY.sub("", text).strip() == "" and "://" not in text
    versions = [version for one in pinned().values() for version in one]
    assert versions and all(re.fullmatch(r"==[\w.!+]+", version) for version in versions)


@pytest.mark.parametrize("one", asked_in(*ASKED), ids=lambda one: one.name)
def test_what_is_asked_for_is_what_is_pinned(one):
    assert pinned()[canonicalize_name(one.name)] == {str(one.specifier)}


def test_nothing_is_left_to_float():
    """Whatever the packages that are installed here ask for in turn has its line."""
    known, waiting, seen = pinned(), [(one.name, one.extras) for one in asked_in(*ASKED)], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        assert canonicalize_name(name) in known, name
        try:
            wanted = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # of another system
            continue
        for one in wanted:
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((one.name, one.extras))
