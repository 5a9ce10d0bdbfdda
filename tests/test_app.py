"""The page without a browser: handlers as functions, queue rules, the API."""

import json
import re
import threading
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from PIL import Image

from app.generate_tab import (
    GenerateTab,
    download_file,
    info_html,
    read_settings,
    saved_name,
    stage_html,
    with_style,
)
from app.ui import LISTENING, QUEUE_LIMIT, build_app, launch_options
from yoso_core.engine import Engine
from yoso_core.models import MODELS, ModelSpec, Source
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest, RequestError


@pytest.fixture(scope="module")
def engine(tiny_spec) -> Engine:
    broken = ModelSpec("Broken", Source("/nowhere"), "none", 64)
    return Engine({DEFAULT_MODEL: tiny_spec, "broken": broken}, device="cpu")


@pytest.fixture
def tab(engine) -> GenerateTab:
    with gr.Blocks():
        return GenerateTab(engine, LISTENING)


@pytest.fixture(scope="module")
def url(engine):
    demo = build_app(engine)
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield address
    demo.close()


@pytest.fixture(scope="module")
def client(url) -> Client:
    return Client(url, verbose=False)


def values_of(tab: GenerateTab, **changes) -> dict:
    """What Gradio hands to `draw` when the controls hold their first values, `changes` apart."""
    names = "prompt style negative seed steps guidance count size model live order drawn shown".split()
    return {getattr(tab, name): changes.get(name, getattr(tab, name).value) for name in names}


def test_style_is_the_last_words_of_the_prompt():
    styles = ("3d", "flat")
    assert with_style(" a cat ", "3d", styles) == "a cat, 3d"
    assert with_style("a cat", "any", styles) == "a cat"
    assert with_style("", "flat", styles) == "flat"
    assert with_style("a Flat cat", "3d", styles) == "a Flat cat"


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.title)
def test_sizes_are_valid_requests(spec):
    assert spec.resolution in spec.sizes
    for side in spec.sizes:
        GenerateRequest("a", size=side)


def test_draw_shows_the_picture_and_what_it_took(tab):
    stage, info, shown, drawn = tab.draw(values_of(tab, prompt="a <b>cat</b>", style="3d", seed=7, order=1))
    assert 'alt="a &lt;b&gt;cat&lt;/b&gt;, 3d, seed 7"' in stage and "<b>" not in stage
    text = re.sub("<[^>]+>", "", info)
    assert re.fullmatch(
        r"1 network evaluation · text \d+ ms · network \d+ ms · decode \d+ ms · total \d+ ms · seed 7", text
    )
    assert shown == GenerateRequest("a <b>cat</b>, 3d", seed=7, size=64) and drawn == 1


def test_draw_waits_for_generate_when_not_live(tab):
    stage, info, *_ = tab.draw(values_of(tab, prompt="a dog", live=False))
    assert stage == gr.skip() and "Press Generate" in info
    stage, _, shown, _ = tab.draw(values_of(tab, prompt="a dog", live=False, order=1))
    assert "a dog" in stage
    again = tab.draw(values_of(tab, prompt="a dog", live=False, order=1, drawn=1, shown=shown))
    assert again == (gr.skip(),) * 4


@pytest.mark.parametrize("bad", [{"seed": None}, {"steps": 3}, {"prompt": "a" * 100_000}, {"guidance": float("nan")}])
def test_draw_tells_problems_in_place_of_the_picture(tab, bad):
    stage, info, shown, _ = tab.draw(values_of(tab, **bad))
    assert "<img" not in stage and 'role="alert"' in info and shown is None


def test_cut_prompts_and_empty_prompts_are_told(engine):
    long = engine.run(GenerateRequest("red heart " * 60))
    assert long.cut and "did not read" in info_html(long)
    assert "Without a prompt" in info_html(engine.run(GenerateRequest("")))


def test_several_pictures_can_be_picked(engine, tab):
    stage = stage_html(engine.run(GenerateRequest("a cat", seed=3, count=4)))
    assert re.findall(r'data-seed="(\d+)"', stage) == ["3", "4", "5", "6"]
    event = gr.EventData(None, {"seed": 5})
    assert tab.pick(8, event) == (5, True, 1, 9)


def test_saved_png_holds_its_request(engine, tmp_path):
    request = GenerateRequest("a Crown, 3d!", seed=2, steps=2)
    path = download_file(engine.run(request), str(tmp_path))
    assert Path(path).name == saved_name(request, 2) == "a-crown-3d-2.png"
    assert read_settings(path) == request
    assert download_file(engine.run(GenerateRequest("a", count=2)), str(tmp_path)).endswith(".zip")


def test_restore_sets_the_controls(engine, tab, tmp_path):
    path = download_file(engine.run(GenerateRequest("a crown", negative="red", seed=2, steps=4)), str(tmp_path))
    prompt, _, negative, seed, keep, steps, *_ = tab.restore(path, 0)
    assert (prompt, negative, seed, keep, steps) == ("a crown", "red", 2, True, 4)


def test_files_that_are_no_saved_picture_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("plain.png", "text.png"):
        with pytest.raises(RequestError):
            read_settings(str(tmp_path / name))


def test_a_model_that_fails_gives_way_to_the_bundled_one(tab, monkeypatch):
    warnings = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    picker, *_, order = tab.choose_model("broken", 4, progress=lambda *_, **__: None)
    assert picker["value"] == DEFAULT_MODEL and order == 5
    assert warnings == ["Broken is not at /nowhere; please check the folder's path."]


def test_all_listeners_share_one_place_at_the_engine(engine):
    demo = build_app(engine)
    python = [fn for fn in demo.fns.values() if fn.fn is not None]
    assert len(python) >= 6
    assert {fn.concurrency_id for fn in python} == {"engine"}
    assert {fn.concurrency_limit for fn in python} == {1}
    assert [fn.api_name for fn in python if fn.api_visibility == "public"] == ["generate"]
    assert not demo.api_open and demo._queue.max_size == QUEUE_LIMIT
    assert [fn.trigger_mode for fn in python if fn.name == "draw"] == ["always_last"]


def test_api_with_a_prompt_alone(client):
    files, about = client.predict(prompt="a red heart", seed=7, api_name="/generate")
    assert about["seeds"] == [7] and about["evaluations"] == 1
    with Image.open(files[0]) as picture:
        assert json.loads(picture.text["yoso"])["prompt"] == "a red heart"


BAD = [
    {"seed": -1},
    {"seed": True},
    {"seed": "NaN"},
    {"steps": 3},
    {"guidance": 1e9},
    {"count": 10},
    {"model": "none"},
    {"size": 65},
    {"prompt": "a" * 100_000},
    {"prompt": 5},
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: next(iter(bad)))
def test_api_refuses_in_one_sentence_and_goes_on(client, bad):
    with pytest.raises(Exception, match=r"^[A-Z][^\n]*\.$"):
        client.predict(api_name="/generate", **({"prompt": "a"} | bad))
    assert client.predict(prompt="a", api_name="/generate")[1]["seeds"] == [0]


def test_api_refuses_a_bare_nan(url, client):
    body = b'{"data": ["a", "", NaN, 1, 1, 1, "yoso-emoji", null]}'
    headers = {"content-type": "application/json"}
    event = httpx.post(f"{url}gradio_api/call/generate", content=body, headers=headers).json()["event_id"]
    answer = httpx.get(f"{url}gradio_api/call/generate/{event}", timeout=30).text
    assert "event: error" in answer and "The seed must be a number" in answer


def test_a_full_queue_says_so_and_recovers(engine, url, client, monkeypatch):
    """50 at once: never two on the device, the surplus told, and then business as before."""
    run, busy, alone = engine.run, threading.Lock(), []

    def slow_run(request):
        alone.append(busy.acquire(blocking=False))
        time.sleep(0.1)
        busy.release()
        return run(request)

    monkeypatch.setattr(engine, "run", slow_run)
    body = {"data": ["a", "", 0, 1, 1, 1, DEFAULT_MODEL, None]}
    answers = []
    with httpx.Client(timeout=60) as http:
        call = lambda: answers.append(http.post(f"{url}gradio_api/call/generate", json=body))  # noqa: E731
        threads = [threading.Thread(target=call) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused and all("Queue is full" in answer.text for answer in refused)
    deadline = time.monotonic() + 60
    while len(alone) < 50 - len(refused) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(alone) == 50 - len(refused) and all(alone)
    assert client.predict(prompt="a", api_name="/generate")[1]["seeds"] == [0]
