"""A small page behind the doors, served for real."""

import socket
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio.utils import get_upload_folder

from app.server.doors import Limits
from app.server.hosts import hosts_at
from app.server.page import Page
from app.server.queueing import Queue
from app.server.studio import StudioApp, slow_ones_dropped
from app.server.uploads import Uploads

QUICK = Limits(body=2_000_000, bodies=3_000_000, at_once=6, silence=0.6, patience=0.5, pace=100_000)


class Served:
    """A page that is being served.

    Attributes:
        url: of it, on the loopback.
        seen: what its function was given.
    """

    def __init__(self, demo: gr.Blocks, url: str, seen: list) -> None:
        self.demo, self.url, self.seen = demo, url, seen
        once = httpx.Limits(max_keepalive_connections=0)  # the doors here end idle connections before their time
        self.http = httpx.Client(base_url=f"{url}gradio_api/", timeout=20, limits=once)

    @property
    def place(self) -> tuple[str, int]:
        return "127.0.0.1", self.demo.server_port

    def ask(self, *values: object, name: str = "echo", **options) -> httpx.Response:
        return self.http.post(f"call/{name}", json={"data": list(values)}, **options)

    def answer(self, *values: object, name: str = "echo", **options) -> str:
        """The events of one call."""
        event = self.ask(*values, name=name, **options).json()["event_id"]
        return self.http.get(f"call/{name}/{event}").text

    def raw(self, *parts: bytes) -> socket.socket:
        connection = socket.create_connection(self.place, timeout=10)
        for part in parts:
            connection.sendall(part)
        return connection


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """Serves a page of one echoing function; what is uploaded lies in a folder of its own."""

    @contextmanager
    def start(limits=QUICK, hosts=None, share=8, uploads=None, behind_proxy=False, echo=None):
        seen: list = []
        patch = pytest.MonkeyPatch()  # others may be uploading on this machine
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))

        def listen(value: object = None) -> object:
            seen.append(value)
            return value if echo is None else echo(value)

        with Page(analytics_enabled=False) as demo:
            kept = gr.State(None)
            given = gr.JSON()
            given.change(lambda value: value, given, kept, api_visibility="private")
            gr.api(listen, api_name="echo", concurrency_id="one", concurrency_limit=1)
        demo.queue(api_open=False)
        demo._queue = Queue(demo, share)
        uploads = uploads or Uploads(Path(get_upload_folder()), 3_000_000, 10**9)
        hosts = hosts or hosts_at("127.0.0.1")
        _, url, _ = demo.launch(
            prevent_thread_lock=True,
            quiet=True,
            _app=StudioApp(hosts, uploads, limits, behind_proxy),
            app_kwargs={"lifespan": partial(slow_ones_dropped, silence=limits.silence)},
            enable_monitoring=False,
            max_file_size="1mb",
        )
        try:
            yield Served(demo, url, seen)
        finally:
            demo.close(verbose=False)
            patch.undo()

    return start


@pytest.fixture(scope="module")
def served(serve):
    with serve() as one:
        yield one
