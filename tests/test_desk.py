"""What a browser kept comes back, as far as it is here; whatever else it sends is left alone."""

import gradio as gr
import pytest

from app.desk import Desk, fits
from app.lora_picker import OWN
from app.ui import build_app
from yoso_core.engine import Engine
from yoso_core.files.links import link_text
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest


@pytest.fixture(scope="module")
def desk(tiny_spec, tiny_lora) -> Desk:
    demo = build_app(Engine({DEFAULT_MODEL: tiny_spec}, device="cpu"), [tiny_lora])
    return next(fn.fn.__self__ for fn in demo.fns.values() if fn.name == "open")


@pytest.fixture(autouse=True)
def toasts(monkeypatch):
    told = []
    for kind in ("Info", "Warning"):
        monkeypatch.setattr(gr, kind, lambda message, **_: told.append(message))
    return told


def opened(desk, saved=None, link=None):
    """What the controls say after the page has opened, by name."""
    updates = desk.open({"saved": saved, "link": link}, 3)
    assert updates[desk.settings.order] == 4
    values = desk.values(updates)
    return {name: values[control] for name, control in desk.controls.items()}


def test_a_browser_that_kept_nothing_sees_the_page_as_it_is(desk, toasts):
    assert opened(desk) == {name: control.value for name, control in desk.controls.items()}
    assert not toasts


def test_everything_comes_back(desk, toasts):
    saved = {"prompt": "a boat", "style": "any", "seed": 7, "steps": 4, "keep": True, "live": False, "tab": "edit"}
    saved |= {"edit.strength": 0.2, "edit.invert": True, "translate.count": 3, "compare.x_values": "5, 6"}
    saved |= {"loras": {OWN: 0.5, "waves": -0.5}, "generate.count": 4, "model": DEFAULT_MODEL}
    first = {name: control.value for name, control in desk.controls.items()}
    assert opened(desk, saved) == first | saved
    updates = desk.open({"saved": saved}, 0)
    assert updates[desk.drawing.selected].selected == "edit"
    assert not toasts


def test_what_can_not_be_is_left_as_it_is(desk, toasts):
    bad = {"prompt": 3, "style": "gone", "seed": "x", "steps": 3, "keep": 1, "tab": "nowhere", "model": "nowhere"}
    bad |= {"edit.strength": 9, "loras": {"waves": 99, "gone": 1.0, OWN: "x"}, "own": ["waves", 5], "no": "such"}
    assert opened(desk, bad) == {name: control.value for name, control in desk.controls.items()}
    assert len(toasts) == 2 and "nowhere" in toasts[0] and "not here any more" in toasts[1]
    for nonsense in (5, "x", [], {"loras": 5, "own": 5}):
        opened(desk, nonsense)
    assert desk.open(None, 3)[desk.settings.order] == 4


def test_a_link_is_laid_over_what_was_kept(desk, toasts):
    link = link_text(GenerateRequest("a crown, flat", seed=5, steps=2)).text
    values = opened(desk, {"prompt": "a boat", "tab": "edit", "seed": 1, "edit.strength": 0.3}, link)
    assert (values["prompt"], values["style"], values["seed"], values["steps"]) == ("a crown", "flat", 5, 2)
    assert values["tab"] == "generate" and values["edit.strength"] == 0.3
    values = opened(desk, {"prompt": "a boat"}, "%%%")
    assert values["prompt"] == "a boat" and "copy the whole link" in toasts[-1]


def test_choices_are_those_of_the_moment():
    radio = gr.Radio([("A", "a"), ("B", "b")], render=False)
    assert fits(radio, {}, "a") and not fits(radio, {}, "A") and not fits(radio, {}, ["a"])
    assert not fits(radio, gr.update(choices=["c"]), "a") and fits(radio, gr.update(choices=["c"]), "c")
    assert not fits(gr.Checkbox(render=False), {}, "yes") and not fits(gr.Slider(0, 1, render=False), {}, float("nan"))
