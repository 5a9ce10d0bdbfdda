"""Requests that are answered in a forked process, as on ZeroGPU: the same pictures, and every refusal in a sentence."""

import re
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app.server import zero
from app.server.visitors import VISITOR
from app.server.zero import LentEngine, Used, seconds_of
from tests.zerogpu import Spaces
from yoso_core.engine import Engine, PictureError
from yoso_core.requests import (
    DEFAULT_MODEL,
    ControlUse,
    EditRequest,
    GenerateRequest,
    LoraUse,
    RequestError,
)
from yoso_core.sheets import Axis, grid, run


@pytest.fixture
def spaces(monkeypatch):
    module = Spaces()
    monkeypatch.setitem(sys.modules, "spaces", module)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    yield module
    module.end()


@pytest.fixture
def lent(spaces, tiny_spec, tiny_control) -> LentEngine:
    models = {DEFAULT_MODEL: replace(tiny_spec, family="tiny")}
    engine = LentEngine(models, device="cpu", controls={"tiny": tiny_control}, translators={})
    engine.load(DEFAULT_MODEL)
    return engine


@pytest.fixture
def plain(tiny_spec, tiny_control) -> Engine:
    return Engine({DEFAULT_MODEL: replace(tiny_spec, family="tiny")}, device="cpu", controls={"tiny": tiny_control})


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def pixels(result) -> list[bytes]:
    return [made.tobytes() for made in result.pictures]


def test_it_is_the_function_itself_where_no_gpu_is_lent(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert zero.on_gpu(print, lambda: 5) is print


def test_every_kind_of_request_is_answered_as_by_an_engine_of_ones_own(lent, plain, spaces, tiny_lora):
    """The LoRA comes to the library after the process was forked, and twice under one name."""
    lent.run(GenerateRequest("first"))
    for engine in (lent, plain):
        engine.add_lora("waves", tiny_lora.path)
    control = ControlUse(picture=picture(1))
    requests = [
        GenerateRequest("a cat", seed=3, count=2, steps=2, guidance=2.0, negative="a dog"),
        GenerateRequest("a cat <lora:waves:0.7>", seed=3),
        GenerateRequest("a cat", loras=(LoraUse("waves", 0.3),), control=control),
        EditRequest("a cat", picture=picture(2), mask=picture(3).convert("L"), strength=0.4),
    ]
    for request in requests:
        here, there = plain.run(request), lent.run(request)
        assert pixels(there) == pixels(here) and there.request == here.request
        assert there.seeds == here.seeds and there.evaluations == here.evaluations
    assert spaces.forked == 1 and len(spaces.declared) == 5


def test_a_file_that_was_written_anew_is_read_anew(lent, tmp_path, tiny_lora):
    path = tmp_path / "own.safetensors"
    path.write_bytes(tiny_lora.path.read_bytes())
    lent.add_lora("own", path)
    asked = GenerateRequest("a cat", loras=(LoraUse("own", 1.0),))
    before = pixels(lent.run(asked))
    path.write_bytes(b"nothing that can be read")
    with pytest.raises(RequestError):
        lent.run(asked)
    path.write_bytes(tiny_lora.path.read_bytes())
    assert pixels(lent.run(asked)) == before


def test_a_sheet_is_one_call(lent, plain, spaces):
    sheet = grid(GenerateRequest("a cat"), Axis("seed", (0, 1, 2)))
    assert [pixels(one) for one in run(lent, sheet)] == [pixels(one) for one in run(plain, sheet)]
    assert len(spaces.declared) == 1
    next(run(lent, sheet))  # who leaves midway holds up nobody
    assert lent.run(GenerateRequest("a cat")).pictures


def test_what_is_not_here_is_told_and_costs_nothing(lent, spaces):
    for request in (GenerateRequest("a", model="none"), GenerateRequest("a", control=ControlUse(picture=picture(1)))):
        lent.controls = {}
        with pytest.raises(RequestError, match=r"There is no model|ControlNet"):
            lent.run(request)
    with pytest.raises(RequestError, match="There is no LoRA 'gone'"):
        lent.run(GenerateRequest("a", loras=(LoraUse("gone"),)))


def test_a_quota_that_is_used_up_is_told_with_what_is_left(lent, spaces):
    spaces.left = 7
    lent.run(GenerateRequest("a cat"))
    with pytest.raises(PictureError, match=r"5s requested vs. 2s left\).*day's quota is 2 minutes for visitors"):
        lent.run(GenerateRequest("a dog"))
    spaces.left = 100
    assert lent.run(GenerateRequest("a dog")).pictures


def test_a_call_that_takes_too_long_loses_its_process_and_no_more(lent, spaces, monkeypatch):
    monkeypatch.setattr(Engine, "answer", lambda *_: time.sleep(60))
    spaces.factor = 50
    with pytest.raises(PictureError, match="taken back"):
        lent.run(GenerateRequest("a cat"))
    monkeypatch.undo()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    spaces.factor = 1
    assert lent.run(GenerateRequest("a cat")).pictures and spaces.forked == 2


def test_what_nobody_foresaw_is_a_sentence_too(lent, monkeypatch):
    monkeypatch.setattr(Engine, "answer", lambda *_: 1 / 0)
    with pytest.raises(PictureError, match="Space's log"):
        lent.run(GenerateRequest("a cat"))


def test_a_lock_that_is_held_elsewhere_is_free_in_the_process(lent):
    """The fork waits until whoever holds it is through."""
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lent.lock:
            holding.set()
            release.wait(10)

    threading.Thread(target=hold).start()
    holding.wait()
    threading.Timer(0.2, release.set).start()
    assert lent.run(GenerateRequest("a cat")).pictures


def test_what_the_page_proposes_is_drawn_once_for_all(lent, spaces):
    lent.proposed = lambda request: request.prompt == "an example"
    first = lent.run(GenerateRequest("an example"))
    assert "of the GPU" in first.notes[-1]
    for _ in range(2):
        again = lent.run(GenerateRequest("an example"))
        assert pixels(again) == pixels(first) and again.notes == first.notes[:-1]
    lent.run(GenerateRequest("something else"))
    assert len(spaces.declared) == 2


def test_a_call_declares_what_it_may_take(tiny_spec):
    models = {"small": tiny_spec, "large": replace(tiny_spec, resolution=1024)}
    assert seconds_of([GenerateRequest("a", model="small")], models) == zero.LEAST
    nine = GenerateRequest("a", model="large", count=9, steps=4, guidance=2.0)
    assert zero.LEAST < seconds_of([nine], models) < zero.MOST
    assert seconds_of([nine] * 20, models) == zero.MOST


def test_what_visitors_have_had_is_forgotten_after_a_day():
    now = [0.0]
    used = Used(lambda: now[0])
    assert (used.add("a", 2.0), used.add("b", 1.0), used.add("a", 3.0)) == (2.0, 1.0, 5.0)
    now[0] = zero.DAY + 1
    assert used.add("a", 1.0) == 1.0 and list(used._spent) == ["a"]


def test_visitors_are_told_their_own_seconds(lent):
    VISITOR.set("192.0.2.1")
    lent.used.add("192.0.2.1", 40.0)
    assert re.search(r", 4\d s of it for you", lent.run(GenerateRequest("a cat")).notes[-1])
    VISITOR.set("")
