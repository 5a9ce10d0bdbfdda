"""The repository as it is pushed, on ZeroGPU but for the card: the platform's packages, its API and its limits.

    make test-space

The Space is a process of an environment that has what the platform has; see tests/heavy/zerogpu.py for what stands in
for the card. The platform's API for lending it is a small server here, which charges a quota, and ends processes that
take longer than they declared.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.test_serving import free_port
from yoso_core.engine import Engine
from yoso_core.lora.library import bundled
from yoso_core.requests import EditRequest, GenerateRequest, LoraUse, TranslateRequest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("SPACE_PYTHON", sys.executable)  # of an environment as the platform makes it
STARTED = 240.0  # seconds
VISITOR = base64.urlsafe_b64encode(b"{}").decode()  # what the platform's proxy says of who asks


class Platform(BaseHTTPRequestHandler):
    """What lends GPUs. State is the class's: there is one visitor."""

    left = 1000
    declared: list[int] = []  # noqa: RUF012
    lent: dict[str, int] = {}  # noqa: RUF012  # seconds by token
    process = 0  # that was let at the GPU last
    hurry = 0.1  # how much faster its clock runs: a CPU takes longer

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        answer = getattr(self, url.path.strip("/").replace("-", "_"))(**asked)
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def startup_report(self) -> dict:
        return {}

    def schedule(self, durationSeconds: str, **_: str) -> object:
        cls, seconds = type(self), int(durationSeconds)
        cls.declared.append(seconds)
        if seconds > cls.left:
            return 429, {"left": cls.left, "wait": "PT23H"}
        cls.left -= seconds
        token = f"token-{len(cls.declared)}"
        cls.lent[token] = seconds

        def take_back() -> None:
            time.sleep(seconds / cls.hurry)
            if token in cls.lent and cls.process:
                os.kill(cls.process, signal.SIGKILL)

        threading.Thread(target=take_back, daemon=True).start()
        return {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": token}

    def allow(self, allowToken: str, pid: str) -> dict:
        type(self).process = int(pid)  # for this call, and for later ones as long as it lives
        return {}

    def release(self, allowToken: str, **_: str) -> object:
        return (200 if type(self).lent.pop(allowToken, None) else 404), {}

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def space(folder: Path, read_only: bool = False, **variables: str):
    """The Space as a process; yields its address and the file of its log."""
    api = ThreadingHTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    port, log = free_port(), folder / "log.txt"
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    environment = kept | {
        "SPACE_ID": "somebody/studio",
        "SYSTEM": "spaces",
        "HOME": str(folder),
        "PORT": str(port),
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }
    module = "tests.heavy.zerogpu"
    if variables.get("SPACES_ZERO_GPU"):
        environment["SPACES_ZERO_DEVICE_API_URL"] = f"http://127.0.0.1:{api.server_port}"
    with open(log, "w") as output:
        command = [PYTHON, "-m", module] if variables.get("SPACES_ZERO_GPU") else [PYTHON, "app.py"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        address, until = f"http://127.0.0.1:{port}/", time.monotonic() + STARTED
        while True:
            try:
                httpx.get(address, timeout=5)
                break
            except httpx.HTTPError:
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
                time.sleep(0.5)
        yield address, log
    finally:
        process.terminate()
        process.wait(30)
        api.shutdown()


@pytest.fixture(scope="module")
def lent(tmp_path_factory):
    with space(tmp_path_factory.mktemp("zero"), SPACES_ZERO_GPU="true") as one:
        yield one


@pytest.fixture(scope="module")
def client(lent) -> Client:
    return Client(lent[0], verbose=False, headers={"X-IP-Token": f"e30.{VISITOR}.e30"})


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(device="cpu")


def alike(path: str | dict, picture: Image.Image) -> bool:
    """The same up to a level: the orders of sums may be others."""
    path = path["path"] if isinstance(path, dict) else path
    with Image.open(path) as made:
        pairs = zip(made.convert("RGB").tobytes(), picture.tobytes(), strict=True)
        return max(abs(one - other) for one, other in pairs) <= 1


def test_pictures_are_those_of_an_engine_of_ones_own(client, engine, tmp_path):
    made, info = client.predict(prompt="a red heart, 3d", seed=7, api_name="/generate")
    picture = engine.run(GenerateRequest("a red heart, 3d", seed=7)).pictures[0]
    assert alike(made[0], picture) and info["runtime"].startswith("torch") and "of the GPU" in info["notes"][-1]
    given = tmp_path / "given.png"
    picture.save(given)
    style = bundled()[0]
    made, _ = client.predict(prompt="a cat", seed=3, loras=f"{style.id}:0.8", api_name="/generate")
    engine.add_lora(style.id, style.path)
    assert alike(made[0], engine.run(GenerateRequest("a cat", seed=3, loras=(LoraUse(style.id, 0.8),))).pictures[0])
    made, _ = client.predict(handle_file(given), prompt="a cherry, 3d", strength=0.6, api_name="/edit")
    assert alike(made[0], engine.run(EditRequest("a cherry, 3d", picture=picture, strength=0.6)).pictures[0])
    made, _ = client.predict(handle_file(given), "edges", prompt="a blue heart, flat", api_name="/translate")
    asked = TranslateRequest("a blue heart, flat", picture=picture, translator="edges")
    assert alike(made[0], engine.run(asked).pictures[0])


def test_a_ladder_is_one_call(client):
    before = len(Platform.declared)
    _, rungs = client.predict(prompt="a red heart", api_name="/ladder")
    assert len(rungs) >= 4 and len(Platform.declared) == before + 1


def test_what_the_quota_leaves_is_told(client):
    before, Platform.left = Platform.left, 3
    try:
        with pytest.raises(AppError, match=r"requested vs. 3s left\)\. Try again in 23:00:00.*A day's quota"):
            client.predict(prompt="a dog", seed=5, api_name="/generate")
    finally:
        Platform.left = before
    assert client.predict(prompt="a dog", seed=5, api_name="/generate")[0]


def test_what_takes_longer_than_it_declared_is_ended_and_the_next_one_works(client):
    Platform.hurry = 100.0
    try:
        with pytest.raises(AppError, match="taken back"):
            client.predict(prompt="a dog", seed=6, steps=4, count=9, guidance=2, api_name="/generate")
    finally:
        Platform.hurry = 0.1
    assert client.predict(prompt="a dog", seed=6, api_name="/generate")[0]


def test_what_is_wrong_is_told_in_the_studios_own_words(client):
    with pytest.raises(AppError, match="There is no model 'none'"):
        client.predict(prompt="a dog", model="none", api_name="/generate")
    with pytest.raises(AppError, match="There is no LoRA 'none'"):
        client.predict(prompt="a dog", loras="none", api_name="/generate")


def test_nothing_was_computed_in_the_studios_own_process(lent):
    assert "Low-level CUDA init" not in lent[1].read_text()
