"""Fetching from a hub: a stand-in on the loopback that answers, stalls, breaks off or has nothing."""

import hashlib
import json
import os
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from yoso_core import hub
from yoso_core.engine import Engine
from yoso_core.hub import Fetches, HubError, Need, Progress, fetch, find, select
from yoso_core.models import ModelError, Source
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest

COMMIT = "0123456789" * 4
NEED = Need("A model", "some/model", COMMIT)


class StandIn(ThreadingHTTPServer):
    """A hub of one repository.

    Attributes:
        files: by name.
        stall: the end of a path that is not answered until `go` is set.
        cut: bytes after which the connection of a large file breaks off; None for never.
        asked: paths.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.stall, self.cut, self.asked, self.go = files, "", None, [], threading.Event()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        stand_in, path = self.server, self.path.partition("?")[0]
        stand_in.asked.append(f"{self.command} {path}")
        if stand_in.stall and path.endswith(stand_in.stall):
            stand_in.go.wait(60)
        if path == f"/api/models/some/model/revision/{COMMIT}":
            siblings = [{"rfilename": name, "size": len(data)} for name, data in stand_in.files.items()]
            return self.send(json.dumps({"id": "some/model", "sha": COMMIT, "siblings": siblings}).encode())
        name = path.removeprefix(f"/some/model/resolve/{COMMIT}/")
        if name not in stand_in.files:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self.send(stand_in.files[name], with_body, {"X-Repo-Commit": COMMIT})

    def send(self, content, with_body=True, more=()):
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        for key, value in dict(more).items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content[start : self.server.cut])
            if self.server.cut is not None and len(content) > self.server.cut:
                self.close_connection = True


@pytest.fixture
def stand_in(tiny_model, tmp_path, monkeypatch):
    """The tiny model on a hub; what is fetched of it lands in a folder of the test's own."""
    files = {path.relative_to(tiny_model).as_posix(): path.read_bytes() for path in tiny_model.rglob("*.*")}
    files |= {"unet/diffusion_pytorch_model.bin": b"a pickle", "safety_checker/a.json": b"{}"}
    files["whole.safetensors"] = b"x" * 1000
    server = StandIn(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.go.set()
    server.shutdown()


@pytest.fixture
def engine(tiny_spec, stand_in):
    """Its second model has to be fetched."""
    remote = replace(tiny_spec, title="Remote", source=Source("some/model", COMMIT), lora=None)
    return Engine({DEFAULT_MODEL: tiny_spec, "remote": remote}, device="cpu", waits=False)


WEIGHTS = "diffusion_pytorch_model"
NAMES = ["README.md", "config.json", "model_index.json", "v1.safetensors", "v1.ckpt", "unet/config.json"]
NAMES += [f"unet/{WEIGHTS}.{ending}" for ending in ("safetensors", "fp16.safetensors", "non_ema.safetensors", "bin")]
NAMES += [f"vae/{WEIGHTS}-0000{shard}-of-00002.safetensors" for shard in (1, 2)]
NAMES += [f"vae/{WEIGHTS}.safetensors.index.json", "text_encoder/model.safetensors", "safety_checker/model.safetensors"]
NAMES += ["tokenizer/merges.txt", "tokenizer/vocab.json", "onnx/model.onnx", "../x.json", "unet/run.py", "a/b/c.json"]


def test_only_what_a_model_is_loaded_from_is_fetched():
    plain = select(NAMES)
    assert {name for name in plain if "safetensors" in name and "index" not in name} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors",
    }
    assert {"README.md", "model_index.json", "tokenizer/merges.txt", "unet/config.json"} <= set(plain)
    assert not {"../x.json", "unet/run.py", "a/b/c.json", "v1.ckpt"} & set(plain)
    half = select(NAMES, "fp16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in half
    assert "unet/diffusion_pytorch_model.safetensors" not in half and "text_encoder/model.safetensors" in half


def test_a_model_is_fetched_once_and_then_found(stand_in, tmp_path):
    assert find(NEED) is None
    steps = list(fetch(NEED))
    assert steps[0] == Progress() and steps[-1].done == steps[-1].total > 100_000
    folder = find(NEED)
    assert folder is not None and folder.is_relative_to(tmp_path / "cache")
    assert not (folder / "whole.safetensors").exists() and not list(folder.rglob("*.bin"))
    for part in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json"):
        kept = (folder / part).resolve()
        (folder / part).unlink()
        assert find(NEED) is None, part
        (folder / part).symlink_to(kept)
    assert find(NEED) == folder and find(replace(NEED, revision="f" * 40)) is None


def test_a_network_of_another_place_is_one_file_and_the_base_is_fetched_without_its_own(stand_in):
    rest, network = replace(NEED, without=("unet",)), replace(NEED, file="whole.safetensors")
    list(fetch(rest))
    assert (find(rest) / "unet/config.json").exists() and not list(find(rest).glob("unet/*.safetensors"))
    assert find(NEED) is None and find(network) is None
    list(fetch(network))
    assert (find(network) / "whole.safetensors").is_file() and find(NEED) is None


def test_what_has_come_is_not_fetched_again(stand_in):
    stand_in.cut = 100_000
    with pytest.raises(HubError, match="can't be had"):
        list(fetch(NEED, silence=10))
    stand_in.cut = None
    stand_in.asked.clear()
    list(fetch(NEED))
    assert find(NEED) is not None
    assert f"GET /some/model/resolve/{COMMIT}/model_index.json" not in stand_in.asked


@pytest.mark.parametrize("stall", [COMMIT, "diffusion_pytorch_model.safetensors"], ids=["at once", "on the way"])
def test_a_hub_that_does_not_answer_is_given_up(stand_in, stall):
    stand_in.stall = stall
    began = time.monotonic()
    with pytest.raises(HubError, match=r"^A model is not on this machine and can't be had .*does not answer.*\.$"):
        list(fetch(NEED, silence=4))
    assert time.monotonic() - began < 30 and find(NEED) is None


@pytest.mark.parametrize("lacks", ["everything", "the hub", "safetensors"])
def test_what_a_hub_does_not_have_is_told(stand_in, monkeypatch, lacks):
    if lacks == "everything":
        need = replace(NEED, place="some/other")
    elif lacks == "the hub":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        need = NEED
    else:
        stand_in.files, need = {"unet/weights.bin": b"x", "README.md": b"x"}, NEED
    with pytest.raises(HubError, match="can't be had from the model hub") as told:
        list(fetch(need))
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_leaving_ends_the_download(stand_in):
    stand_in.stall = "diffusion_pytorch_model.safetensors"
    before = children()
    steps = fetch(NEED)
    while next(steps).total == 0:
        pass
    assert children() - before
    steps.close()
    assert not children() - before and find(NEED) is None


def children() -> set[str]:
    """Processes that ask a hub."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"yoso_core.hub" in file.read():
                    found.add(pid)
        except OSError:  # it has ended
            pass
    return found


def test_no_room_on_the_disk_is_told_before_anything_comes(stand_in, monkeypatch):
    monkeypatch.setattr("yoso_core.hub.shutil.disk_usage", lambda place: type("", (), {"free": 1000})())
    with pytest.raises(HubError, match="the disk has no room"):
        list(fetch(NEED))
    assert not any("resolve" in path for path in stand_in.asked)


# Beside requests


def until(told, seconds=60):
    began = time.monotonic()
    while not told():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)


def test_a_hub_that_does_not_answer_holds_up_nobody(engine, stand_in):
    """Whoever asks for what is not here is told at once, and everybody else draws on."""
    before = engine.run(GenerateRequest("a cat", seed=1)).pictures[0].tobytes()
    stand_in.stall = COMMIT
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(HubError, match="Remote is being fetched from the model hub"):
            engine.run(GenerateRequest("a cat", model="remote"))
    with pytest.raises(HubError, match="is being fetched"):
        engine.load("remote")
    assert engine.run(GenerateRequest("a cat", seed=1)).pictures[0].tobytes() == before
    assert time.monotonic() - began < 5 and not engine.lock.locked()
    assert list(engine._loaded) == [DEFAULT_MODEL]
    engine.fetches.stop()
    stand_in.go.set()


def test_what_was_fetched_beside_requests_is_used(engine, tiny_spec):
    told = []

    def drawn():
        try:
            return engine.run(GenerateRequest("a cat", model="remote"))
        except HubError as error:
            told.append(str(error))

    until(drawn)
    assert told and all("Remote is being fetched" in one for one in told)
    local = Engine({DEFAULT_MODEL: replace(tiny_spec, lora=None)}, device="cpu")
    same = local.run(GenerateRequest("a cat")).pictures[0]
    assert engine.run(GenerateRequest("a cat", model="remote")).pictures[0].tobytes() == same.tobytes()


def test_an_engine_that_waits_fetches_on_the_way(engine):
    engine.waits, told = True, []
    assert engine.run(GenerateRequest("a cat", model="remote"), report=told.append).pictures
    assert told[0] == "Fetching Remote: asking the hub"
    assert any(one.startswith("Fetched Remote: ") and "MB" in one for one in told)


def test_what_lacks_its_lora_is_not_fetched(engine, stand_in, tmp_path):
    engine.models["remote"] = replace(engine.models["remote"], lora=tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="needs its one-step LoRA"):
        engine.load("remote")
    assert stand_in.asked == []


# One after another, without a hub


class Slow:
    """In place of `fetch`: goes on when it is told to."""

    def __init__(self):
        self.go, self.begun, self.ended = threading.Event(), [], []

    def __call__(self, need):
        self.begun.append(need)
        try:
            yield Progress(1_000_000, 4_000_000)
            while not self.go.wait(0.02):
                yield Progress(2_000_000, 4_000_000)
            if need.place == "some/bad":
                raise HubError("It can't be had.")
        finally:
            self.ended.append(need)


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.go.set()


def test_one_thing_is_fetched_at_a_time(slow):
    fetches, other = Fetches(slow), replace(NEED, title="Another", place="some/other")
    assert "asking the hub" in fetches.begin(NEED) or "MB" in fetches.begin(NEED)
    until(lambda: "2 of 4 MB" in fetches.begin(NEED))
    assert "A model is on its way (2 of 4 MB)" in fetches.begin(other) and slow.begun == [NEED]
    slow.go.set()
    until(lambda: "Another is being fetched" in fetches.begin(other))


def test_what_failed_is_told_and_not_tried_again_at_once(slow, monkeypatch):
    fetches, bad = Fetches(slow), replace(NEED, place="some/bad")
    slow.go.set()
    until(lambda: fetches.begin(bad) == "It can't be had.")
    assert fetches.begin(bad) == "It can't be had." and slow.begun == [bad]
    monkeypatch.setattr(hub, "AGAIN", 0.0)
    assert "is being fetched" in fetches.begin(bad) and slow.begun == [bad, bad]


def test_who_follows_sees_it_come_and_may_leave(slow, monkeypatch):
    fetches = Fetches(slow)
    one, two = fetches.follow(NEED), fetches.follow(NEED)
    until(lambda: next(one).done == 2_000_000 and next(two).total == 4_000_000)
    one.close()
    time.sleep(0.2)
    assert slow.ended == []
    two.close()  # the last
    until(lambda: slow.ended == [NEED])
    bad = fetches.follow(replace(NEED, place="some/bad"))
    next(bad)
    slow.go.set()
    with pytest.raises(HubError, match=r"It can't be had\."):
        list(bad)
    monkeypatch.setattr(hub, "find", lambda need: "here")
    assert all(step.total in (0, 4_000_000) for step in fetches.follow(NEED))
