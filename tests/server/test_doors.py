"""What a request may take: bytes, time, places; what is closed; and that errors are sentences. All on the loopback."""

import errno
import json
import resource
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.server.doors import Limits
from app.server.page import FULL, NOT_TAKEN, UNFORESEEN
from app.server.uploads import Uploads
from tests.server.conftest import QUICK

MEGABYTE = b"x" * 1_000_000


def head(path: str, **headers: object) -> bytes:
    lines = [f"POST /gradio_api/{path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something to come true."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    "path", ["queue/join", "call/echo", "call/v2/echo", "run/echo", "api/echo", "cancel", "reset", "stream/x"]
)
def test_a_large_body_is_turned_away_and_never_held(served, path):
    """300 MB, with their length told, and in parts that do not tell."""
    before = peak()
    with served.raw(head(path, content_length=300_000_000), MEGABYTE) as connection:
        answer = b"".join(iter(lambda: connection.recv(4000), b"")).decode()
    assert answer.startswith("HTTP/1.1 413") and "A request may have 2 MB" in answer
    answer = served.http.post(path, content=(MEGABYTE for _ in range(300 if path == "queue/join" else 20)))
    assert answer.status_code == 413 and answer.json()["detail"].startswith("A request may have 2 MB")
    assert peak() - before < 60_000_000
    assert "after" in served.answer("after")


def test_what_is_just_small_enough_gets_through(served):
    text = "y" * 1_900_000
    assert text in served.answer(text)


def test_large_bodies_at_once_have_to_share(served):
    """Above the first of each there are 3 MB of room: three of 1.9 MB fit, a fourth is told to come again."""
    begun = head("call/echo", content_length=1_950_000) + MEGABYTE + MEGABYTE[:900_000]

    def is_full() -> bool:
        """The three are dropped after a while, which a busy machine needs to read the fourth: then again."""
        with served.raw(begun), served.raw(begun), served.raw(begun):
            time.sleep(0.2)
            answer = served.ask("z" * 1_900_000)
            assert served.ask("small").status_code == 200
        return answer.status_code == 503 and "large requests" in answer.json()["detail"]

    until(is_full, 30)
    until(lambda: served.ask("z" * 1_900_000).status_code == 200)
    assert "again" in served.answer("again" + "z" * 1_900_000)


# Slow ones


def gone(connection, within: float) -> bool:
    """Whether the other side ends a connection within so many seconds, with an answer or without."""
    connection.settimeout(within)
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        head("call/echo", content_length=1000) + b'{"data": [',
        head("upload", content_length=1000),
        b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /",
    ],
    ids=["nothing", "half a head", "half a body", "half an upload", "half a second head"],
)
def test_connections_that_wait_for_nothing_are_dropped(served, begun):
    with served.raw(begun) as connection:
        assert gone(connection, 5)
    assert "still here" in served.answer("still here")


def test_drops_of_a_body_do_not_keep_a_connection(served):
    """A byte now and then is no silence, but no pace either."""
    with served.raw(head("call/echo", content_length=100_000)) as connection:
        ended = False
        for _ in range(40):
            time.sleep(0.1)
            try:
                connection.sendall(b" ")
            except OSError:
                ended = True
                break
        assert ended or gone(connection, 1)


def test_who_takes_no_answer_is_dropped(served):
    """Ten megabytes are asked for and never taken."""
    asked = b"GET /gradio_api/call/echo/%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with served.raw() as connection:
        connection.setsockopt(1, 8, 4096)  # SOL_SOCKET, SO_RCVBUF
        for _ in range(12):
            event = served.ask("w" * 1_900_000).json()["event_id"]
            connection.sendall(asked % event.encode())
        server, port = served.demo.server.server_state, connection.getsockname()[1]
        until(lambda: not any(one.client and one.client[1] == port for one in list(server.connections)), 15)


def test_a_page_that_listens_is_not_dropped(served):
    with served.http.stream("GET", "heartbeat/a-page-of-mine") as stream:
        first = next(stream.iter_text())
        time.sleep(3 * QUICK.silence)
        assert "ALIVE" in first and not stream.is_closed
        assert served.answer("meanwhile")


def test_one_visitor_has_so_many_requests_open_and_no_more(served):
    streams = [served.raw(b"GET /gradio_api/heartbeat/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % n) for n in range(6)]
    answers = []
    until(lambda: answers.append(served.ask("one more")) or answers[-1].status_code == 429)
    for stream in streams:
        stream.close()
    assert "requests open" in answers[-1].json()["detail"]
    until(lambda: served.ask("again").status_code == 200)


# Uploads


@contextmanager
def uploading(serve, folder: Path, each: int, in_all: int = 10**9, **options):
    with serve(uploads=Uploads(folder, each, in_all), **options) as served:
        yield (
            served,
            lambda size, **more: served.http.post("upload", files={"files": ("a.png", b"\x01" * size)}, **more),
        )


def test_a_visitor_uploads_so_much_and_no_more(serve, tmp_path):
    with uploading(serve, tmp_path, 1_500_000) as (_, upload):
        assert upload(900_000).status_code == 200
        answer = upload(900_000)
        assert answer.status_code == 413 and "You may upload 1.5 MB in 60 minutes" in answer.json()["detail"]
        assert upload(400_000).status_code == 200


def test_an_upload_that_does_not_tell_its_length_is_counted_as_it_comes(serve, tmp_path):
    with uploading(serve, tmp_path, 900_000) as (served, _):
        before = set(Path(served.demo.server_app.uploaded_file_dir).iterdir())
        start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        parts = (start, *[b"x" * 100_000] * 12, b"\r\n--b--\r\n")
        kind = {"content-type": "multipart/form-data; boundary=b"}
        answer = served.http.post("upload", content=iter(parts), headers=kind)
        assert answer.status_code == 413 and "more than you may upload" in answer.json()["detail"]
        assert set(Path(served.demo.server_app.uploaded_file_dir).iterdir()) == before  # nothing of it stays


def test_an_upload_that_is_broken_off_leaves_nothing(serve, tmp_path):
    with uploading(serve, tmp_path, 3_000_000) as (served, _):
        folder = Path(served.demo.server_app.uploaded_file_dir)
        folder.mkdir(exist_ok=True)
        before = set(folder.iterdir())
        start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"x" * 300_000
        lines = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900000\r\n"
        lines += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        with served.raw(lines, start):
            until(lambda: set(folder.iterdir()) != before)
        until(lambda: set(folder.iterdir()) == before)


def test_visitors_share_the_disk(serve, tmp_path):
    """What lies there counts, whoever put it there."""
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "made").write_bytes(MEGABYTE)
    with uploading(serve, folder, 10**9, 1_500_000, behind_proxy=True) as (_, upload):
        answer = upload(900_000)
        assert answer.status_code == 413 and "no room for more uploads" in answer.json()["detail"]
        assert upload(200_000, headers={"x-forwarded-for": "10.0.0.9"}).status_code == 200
        assert upload(300_000, headers={"x-forwarded-for": "10.0.0.10"}).status_code == 413


def test_behind_a_proxy_each_visitor_has_a_share(serve, tmp_path):
    """What a visitor adds to the proxy's word does not count."""
    with uploading(serve, tmp_path, 1_000_000, behind_proxy=True) as (_, upload):
        assert upload(800_000, headers={"x-forwarded-for": "10.0.0.1"}).status_code == 200
        assert upload(800_000, headers={"x-forwarded-for": "10.9.9.9, 10.0.0.1"}).status_code == 413
        assert upload(800_000, headers={"x-forwarded-for": "10.0.0.1, 10.0.0.2"}).status_code == 200


def test_a_full_disk_is_told(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("app.server.uploads.shutil.disk_usage", lambda place: type("", (), {"free": 400_000_000})())
    with uploading(serve, tmp_path, 10**9) as (_, upload):
        answer = upload(10)
        assert answer.status_code == 413 and "nearly full" in answer.json()["detail"]


def test_a_disk_that_fills_up_meanwhile_is_told(served, monkeypatch):
    async def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/secret")

    monkeypatch.setattr("gradio.routes.upload_fn", full)
    answer = served.http.post("upload", files={"files": ("a.png", b"x")})
    assert answer.status_code == 500 and answer.json()["error"] == FULL


# What is closed, and what is told


@pytest.mark.parametrize(
    "path",
    [
        *("monitoring", "monitoring/", "monitoring/summary", "monitoring/x", "gradio_api/deep_link?session_hash=a"),
        *("gradio_api/runs", "gradio_api/vibe-code", "gradio_api/process_recording", "gradio_api/proxy=http://a.b"),
    ],
)
def test_what_the_page_does_not_use_is_closed(served, path):
    served.http.post("queue/join", json={"data": [1], "fn_index": 0, "session_hash": "a"})
    for method in ("GET", "POST"):
        answer = httpx.request(method, served.url + path, timeout=20)
        assert answer.status_code in (403, 404) and "functions" not in answer.text


BODIES = [
    *({"data": []}, {"data": [1, 2, 3]}, {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}),
    *({"data": [{"path": 5, "meta": {"_type": "gradio.FileData"}}]}, {"data": [{"url": "http://127.0.0.1:1/x"}]}),
]


@pytest.mark.parametrize("body", BODIES, ids=json.dumps)
def test_no_caller_is_told_null(served, body):
    answer = served.http.post("call/echo", json=body)
    if answer.status_code == 200:
        answer = served.http.get(f"call/echo/{answer.json()['event_id']}")
    assert "null" not in answer.text.replace("[null]", "") and "Traceback" not in answer.text
    if "event: error" in answer.text:
        assert NOT_TAKEN in answer.text


def test_what_is_not_there_is_told(served):
    for path in ("call/nothing", "call/v2/nothing"):
        answer = served.http.post(path, json={"data": []} if "v2" not in path else {})
        assert answer.status_code == 404 and answer.json()["error"].startswith("The studio has no such function")
    answer = served.http.post("queue/join", json={"data": [], "fn_index": 999, "session_hash": "a"})
    assert answer.status_code == 404 and answer.json()["error"].endswith(".")
    assert served.http.post("call/echo", content=b"{").status_code == 422


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(errno.ENOSPC, "full"), FULL), (ZeroDivisionError("secret"), UNFORESEEN)]
)
def test_what_nobody_foresaw_is_told_without_its_words(serve, error, told):
    def fail(value: object) -> None:
        raise error

    with serve(echo=fail) as served:
        answer = served.answer("a")
        assert "event: error" in answer and told in answer and "secret" not in answer


# The queue


def test_one_client_can_not_take_all_places(serve):
    going = threading.Event()

    def wait(value: object) -> object:
        going.wait(20)
        return value

    with serve(Limits(), share=4, echo=wait, behind_proxy=True) as served:
        listener = next(index for index, one in served.demo.fns.items() if one.api_name == "echo")

        def ask(address: str, page: str | None = None) -> httpx.Response:
            body = {"data": [1]} | ({"fn_index": listener, "session_hash": page} if page else {})
            where = "queue/join" if page else "call/echo"
            return served.http.post(where, json=body, headers={"x-forwarded-for": address})

        try:
            for page in (None, "one"):  # as programs ask, and as a page does
                answers = [ask(f"10.0.0.{page is None:d}", page) for _ in range(10)]
                refused = [one for one in answers if one.status_code == 503]
                assert 5 <= len(refused) <= 6 and "full for you: 4 of your requests" in refused[0].json()["detail"]
            answers = [ask(f"10.0.1.{number}", "another") for number in range(6)]  # one page from many addresses
            assert [one.status_code for one in answers] == [200] * 4 + [503] * 2
            assert ask("10.0.2.1").status_code == 200
        finally:
            going.set()


def test_many_pages_of_one_visitor_cost_nobody_else_theirs(serve):
    with serve(Limits(), behind_proxy=True) as served:
        store = served.demo.server_app.state_holder
        store.most = 20
        mine = {"x-forwarded-for": "10.0.0.1"}

        def remember(page: str, value: object, **options) -> None:
            answer = served.http.post(
                "queue/join", json={"data": [value], "fn_index": 0, "session_hash": page}, **options
            )
            assert answer.status_code == 200
            with served.http.stream("GET", "queue/data", params={"session_hash": page}) as stream:
                assert any("process_completed" in line for line in stream.iter_lines())

        remember("mine", {"a": 1}, headers=mine)
        for number in range(60):
            remember(f"theirs-{number}", number)
        assert len(store.session_data) == 20 and "theirs-59" in store
        assert list(store.session_data["mine"].state_data.values()) == [{"a": 1}]
