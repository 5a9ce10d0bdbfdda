"""Model cards as strangers write them."""

import shutil
import signal
from contextlib import contextmanager

import pytest

from yoso_core.files.cards import CARD_LIMIT, FRONT_LIMIT, read_card
from yoso_core.models import local_model


@contextmanager
def within(seconds: int):
    """What takes longer fails instead of hanging."""

    def give_up(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def merge_keys(levels: int) -> str:
    """Each line merges the one before ten times over."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


def aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"license: *a{levels - 1}", f"license_name: *a{levels - 1}"])


@pytest.mark.parametrize(
    "front", [merge_keys(12), aliases(12), "[" * 1500, "a: " * 3000, "!!python/object:os.system x"]
)
def test_no_card_hangs_a_model(tiny_model, tmp_path, front):
    """553 characters of merge keys did."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "README.md").write_text(f"---\n{front}\nlicense_name: mine\n---\n# A model")
    with within(60):
        assert local_model(str(folder)).licence in ("mine", "unknown")


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: mit", "mit"),
        ("license: other\nlicense_name: my own", "my own"),
        ("license: null", "unknown"),
        ("license: [mit]", "unknown"),
        ("license: {a: b}", "unknown"),
        ("", "unknown"),
        ("license: " + "x" * 5000, "x" * 200),
    ],
)
def test_a_licence_is_what_the_card_says(tiny_model, tmp_path, front, licence):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    assert local_model(str(folder)).licence == licence


def test_cards_are_read_or_left(tmp_path):
    path = tmp_path / "README.md"
    assert read_card(path) == ({}, [])
    path.write_text("# No front")
    assert read_card(path) == ({}, ["# No front"])
    path.write_text("---\na: 1\nb: [x, {c: true}]\n---\n# Title\n")
    assert read_card(path) == ({"a": "1", "b": ["x", {"c": "true"}]}, ["# Title"])
    path.write_text("---\n- a\n---\n")
    assert read_card(path)[0] == {}
    path.write_text("---\na: " + "x" * FRONT_LIMIT + "\n---\n# Title")
    assert read_card(path) == ({}, ["# Title"])
    path.write_text("x" * (CARD_LIMIT + 1))
    assert read_card(path) == ({}, [])
