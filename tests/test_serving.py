"""How the studio starts and ends, without a model: app.py as it is run."""

import argparse
import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from yoso_core.requests import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parent.parent


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
        free.bind((address, 0))
        return free.getsockname()[1]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """app.py, told what to do by `script.run`."""
    spec = importlib.util.spec_from_file_location("studio_script", ROOT / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    for name in ("HOST", "PORT", "ALLOW_HOST", "GRADIO_SERVER_NAME", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*flags: str) -> str:
        """What it says at its end."""
        monkeypatch.setattr(sys, "argv", ["app.py", *flags])
        with pytest.raises(SystemExit) as ended:
            module.main()
        return str(ended.value.code)

    module.run = run
    return module


IMPOSSIBLE = {
    "a port beyond": (["--port", "99999"], "there is no port 99999; choose one from 1 to 65535"),
    "port 0": (["--port", "0"], "there is no port 0"),
    "a negative port": (["--port=-1"], "there is no port -1"),
    "no name of a host": (["--host", "no such host"], "nothing can listen at no such host port"),
    "a name that leads nowhere": (["--host", "nowhere.invalid"], "nothing can listen at nowhere.invalid"),
    "another machine": (["--host", "192.0.2.1"], "nothing can listen at 192.0.2.1"),
    "no name to allow": (["--allow-host", "http://a"], "'http://a' is no name of a host"),
    "no device": (["--device", "xyz"], "there is no device 'xyz'"),
    "a device that is not here": (["--device", "cuda:99"], "the device 'cuda:99' can't be used"),
    "a device without numbers": (["--device", "meta"], "the device 'meta' can't be used"),
}


@pytest.mark.parametrize(("flags", "told"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_is_impossible_is_told_in_a_sentence(script, flags, told):
    flags = flags if "--port" in " ".join(flags) else [*flags, "--port", str(free_port())]
    said = script.run(*flags)
    assert said.lower().startswith(f"error: {told}".lower()) and "\n" not in said


def test_replicas_are_a_number_or_two(script):
    assert [script.replica_count(text) for text in ("4", "1-8")] == [(4, 4), (1, 8)]
    for text in ("0", "8-1", "-1", "1-", "two", "1-2-3", "100000"):
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            script.replica_count(text)


def test_a_port_that_is_taken_is_told(script):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = f"error: nothing can listen at 127.0.0.1 port {port} (Address"
        assert script.run("--port", str(port)).startswith(told)


@pytest.mark.parametrize(
    ("host", "name"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("localhost", "localhost"), ("127.0.0.1", "127.0.0.1")]
)
def test_it_listens_where_it_is_told_and_clears_up(script, monkeypatch, tmp_path, tiny_spec, host, name):
    """What SIGTERM ends is what leaves the folder of uploads behind."""
    try:
        port = free_port(host.strip("[]"))
    except OSError:
        pytest.skip("no IPv6 here")
    launched = {}

    class Demo:
        def launch(self, **options):
            launched.update(options)
            folder = Path(os.environ["GRADIO_TEMP_DIR"])
            (folder / "a-picture").write_bytes(b"of somebody")
            launched["folder"] = folder
            script.end(signal.SIGTERM, None)

        def close(self, **options):
            launched["closed"] = True

    monkeypatch.setattr(script, "build_app", lambda *_: Demo())
    monkeypatch.setattr(script, "KNOWN", {DEFAULT_MODEL: tiny_spec})
    monkeypatch.setattr(script, "find_translators", lambda folder: {})
    monkeypatch.setenv("ALLOW_HOST", "studio.lan other.lan")
    told = ("--host", host, "--port", str(port), "--allow-host", "third.lan")
    assert script.run(*told) == str(128 + signal.SIGTERM)
    assert launched["server_name"] == name and launched["closed"] and not launched["folder"].exists()
    hosts = launched["_app"]._doors["hosts"]
    assert all(map(hosts.knows, ("localhost", "studio.lan", "other.lan", "third.lan")))
    assert not hosts.knows("evil.example")
