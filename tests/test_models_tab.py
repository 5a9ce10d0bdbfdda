"""The Models tab without a browser, at a stand-in hub, for somebody in a hurry: one sentence, and nothing lost."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from app.models_tab import ModelsTab
from tests.stand_in import COMMIT, Repository
from tests.test_hub import children
from yoso_core.cached import held
from yoso_core.checkpoints import NEWEST, Source
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, RequestError
from yoso_core.shelf import Shelf

ID = "model:far"


@pytest.fixture
def far(hub, tiny_spec, tmp_path):
    spec = replace(tiny_spec, title="Far", source=Source("some/model", COMMIT), licence="mit")
    return replace(spec, lora=tmp_path / "lora.safetensors", lora_source=Source("some/lora", NEWEST))


@pytest.fixture
def open_studio(far, tiny_spec, tmp_path):
    """Several of them share the hub's cache."""

    def open_one(name="one"):
        engine = Engine({DEFAULT_MODEL: tiny_spec, "far": far}, "cpu", controls={}, translators={}, waits=False)
        return ModelsTab(Shelf(engine, tmp_path / name), SimpleNamespace(), True)

    return open_one


@pytest.fixture
def tab(open_studio):
    return open_studio()


def press(tab, do, id=ID, model=DEFAULT_MODEL, **more):
    """What the page shows after a click: the sentence above the cards, and whether it is a problem."""
    event = SimpleNamespace(_data={"do": do, "id": id, **more})
    value, _ = tab.act(model, event)
    said = value["told"]
    assert "\n" not in said and (not said or said.endswith(".")), said
    return said, value["problem"]


def card(tab, id=ID):
    return next(each for each in tab.value()["cards"] if each["id"] == id)


@pytest.mark.parametrize("shared", [False, True])
def test_who_has_a_shell_is_told_of_the_page_without_a_server(tiny_spec, tmp_path, shared):
    engine = Engine({DEFAULT_MODEL: tiny_spec}, "cpu", controls={}, translators={}, waits=False)
    with gr.Blocks() as page:
        ModelsTab(Shelf(engine, tmp_path, shared), SimpleNamespace(), True).build()
    told = next(block for block in page.blocks.values() if block.elem_id == "elsewhere")
    assert "make web" in told.value and told.visible is not shared


def until(told, seconds=30):
    began = time.monotonic()
    while not told():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def settled(tab):
    """The card once nothing comes any more."""
    until(lambda: all(each.state in ("failed", "paused") for each in tab.shelf.service.fetches.status().values()))
    return card(tab)


def test_pressing_everything_twice_and_removing_what_draws(tab, hub):
    """All that is being drawn comes; what is asked for afterwards is told what is missing, and other models go on."""
    assert press(tab, "cancel") == ("Far is not on its way; there is nothing to cancel.", True)
    assert press(tab, "remove") == ("Far is not on this machine; there is nothing to remove.", True)
    hub.pace = 200_000
    press(tab, "get"), press(tab, "get")
    until(lambda: hub.sent > 50_000)
    press(tab, "pause"), press(tab, "pause")
    assert card(tab)["state"] == "paused"
    assert press(tab, "cancel")[0].startswith("Far is cancelled; ") and press(tab, "cancel")[1]
    assert card(tab)["state"] == "absent" and held(tab.shelf.item(ID).needs[0]) == 0
    hub.pace = None
    press(tab, "get")
    assert settled(tab)["state"] == "here"
    assert press(tab, "cancel")[1] and press(tab, "get") == ("", False)
    press(tab, "pause")
    assert card(tab)["state"] == "here"
    service, made = tab.shelf.service, []
    request = GenerateRequest("a cat", model="far", steps=50, sampler="ddim", count=4)
    drawer = threading.Thread(target=lambda: made.append(service.run(request)))
    drawer.start()
    until(lambda: service.is_loaded("far"))
    assert press(tab, "remove", model="far")[0].startswith("This page draws with Far")
    assert press(tab, "remove") == ("Far is drawing just now; remove it when its pictures are there.", True)
    drawer.join()
    assert len(made[0].pictures) == 4
    assert press(tab, "remove")[0].startswith("Far is removed; ") and press(tab, "remove")[1]
    with pytest.raises(RequestError, match=r"Far is not on this machine; it can be had on the Models tab\.$"):
        service.run(GenerateRequest("a cat", model="far"))
    assert service.run(GenerateRequest("a cat")).pictures


def test_what_goes_wrong_on_the_way_is_told_and_gone_on_from(tab, open_studio, hub, monkeypatch):
    """No room on the disk, no hub, and a kill; then all is well, and what had come does not come again."""
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000_000))
        tab.shelf.learn(ID)
        assert card(tab)["fit"]["words"].startswith("Does not fit: ")
        press(tab, "get")
        failed = settled(tab)
        assert failed["state"] == "failed" and "the disk has no room" in failed["why"] and failed["why"].endswith(".")
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        press(tab, "get")
        failed = settled(tab)
        assert failed["state"] == "failed" and "(the hub can't be reached from here)" in failed["why"]
        assert press_add(tab, "some/model") == (
            "some/model can't be added (the hub can't be reached from here).",
            True,
        )
    hub.pace = 200_000
    press(tab, "get")
    until(lambda: hub.sent > 80_000)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    assert settled(tab)["state"] == "failed"
    again = open_studio()  # of the same folder
    assert card(again)["state"] == "paused" and card(again)["figures"].endswith("have come")
    had, hub.pace, hub.sent = sum(held(need) for need in again.shelf.item(ID).needs), None, 0
    press(again, "get")
    assert settled(again)["state"] == "here"
    sizes = [len(data) for each in hub.repositories.values() for data in each.files.values()]
    assert had > 50_000 and hub.sent <= sum(sizes) - had + 100_000


def test_two_studios_on_one_cache(open_studio, hub):
    one, other = open_studio(), open_studio("other")
    hub.pace = 300_000
    press(one, "get")
    until(lambda: hub.sent > 50_000)
    press(other, "get")
    until(lambda: "another studio" in card(other)["figures"])
    assert press(other, "cancel") == ("Far is cancelled.", False)  # the first one's goes on
    said, problem = press(other, "remove")
    assert problem and said == "Far is not on this machine; there is nothing to remove."
    hub.pace = None
    press(other, "get")
    assert settled(one)["state"] == settled(other)["state"] == "here"
    sizes = [len(data) for each in hub.repositories.values() for data in each.files.values()]
    assert hub.sent < 1.2 * sum(sizes)  # once
    assert other.shelf.service.run(GenerateRequest("a cat", model="far")).pictures
    press(one, "remove")
    assert other.shelf.service.run(GenerateRequest("a dog", model="far")).pictures  # it is in memory
    assert card(other)["state"] == "absent"


def test_what_is_gated_without_a_login(tab, hub):
    hub.repositories["some/model"].terms = True
    press(tab, "get")
    why = settled(tab)["why"]
    assert "agree on its page at the hub, some/model, and log in on this machine" in why and why.endswith(".")
    said, problem = press_add(tab, "some/model")
    assert problem and "agree on its page" in said


def press_add(tab, place):
    value, _, left = tab.add(place)
    assert "\n" not in value["told"] and value["told"].endswith(".") and (left == "") is not value["problem"]
    return value["told"], value["problem"]


def test_adding_what_is_no_model(tab, hub, tmp_path):
    (tmp_path / "pictures").mkdir()
    hub.repositories["some/pictures"] = Repository({"README.md": b"# Pictures", "data/a.parquet": b"x"})
    before = [each["id"] for each in tab.value()["cards"]]
    for place, told in {
        str(tmp_path / "pictures"): "is not a whole diffusers model",
        str(tmp_path / "pickle"): "no model of a hub",
        "some/pictures": "no model in diffusers' layout",
        "a/dataset": "no such repository",
        "https://huggingface.co/datasets/some/pictures": "no model of a hub",
        "some/model@main": "no model of a hub",
    }.items():
        said, problem = press_add(tab, place)
        assert problem and told in said, said
    assert [each["id"] for each in tab.value()["cards"]] == before
