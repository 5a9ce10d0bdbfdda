"""The Compare tab: what is typed on an axis, as the engine knows it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.compare_tab import EXAMPLES, CompareTab
from app.lora_picker import LoraPicker
from yoso_core.requests import DEFAULT_MODEL, RequestError
from yoso_core.sheets import AXES, parse_axis
from yoso_core.words import Words

SECRET = "upload-Zx81_-abcdefghij-ink"


@pytest.fixture
def tab(tiny_lora):
    """With a LoRA for all, and one that a session opened."""
    picker = LoraPicker(SimpleNamespace(add_lora=lambda name, path: None), [tiny_lora], Path())
    picker.remember(replace(tiny_lora, id=SECRET, title="Ink, step 200"))
    tabs = [SimpleNamespace(name="generate"), SimpleNamespace(name="edit")]
    words = Words(styles={"ink": ""}, examples=("a fox", "a hen"))
    engine = SimpleNamespace(models={DEFAULT_MODEL: SimpleNamespace(words=words)})
    return CompareTab(engine, SimpleNamespace(picker=picker), tabs)


def test_every_kind_of_axis_has_an_example(tab):
    assert set(EXAMPLES) == set(AXES)
    for kind, values in EXAMPLES.items():
        assert parse_axis(f"{kind}{'.x' if kind == 'lora' else ''}={values}").labels
    assert ("LoRA", "adapter") in tab.kinds([]) and ("Waves weight", "lora.waves") in tab.kinds([])


def test_examples_are_of_the_words_of_the_model(tab):
    told = [tab.example(kind, DEFAULT_MODEL) for kind in ("prompt", "style", "lora.waves")]
    assert told == ["a fox | a hen", "ink", "0:1:3"]


def test_loras_go_by_titles_and_public_names(tab):
    assert tab.axis("adapter", "None | Waves | waves", []).values == ("none", "waves", "waves")
    for written in ("upload-ink", "ink, Step 200", SECRET):
        assert tab.axis("adapter", written, [SECRET]).values == (SECRET,)
    assert tab.axis("adapter", SECRET, [SECRET]).labels == ("upload-ink",)
    assert tab.axis("prompt", "Waves", []).values == ("Waves",)


def test_what_others_opened_has_no_name_here(tab):
    assert tab.axis("adapter", "upload-ink", []).values == ("upload-ink",)  # which the engine does not know
    with pytest.raises(RequestError, match="no name"):
        tab.axis("adapter", "waves | ", [])
