"""A stand-in for a model hub on the loopback: honest, slow, broken off, or hostile."""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789" * 4
TOKEN = "hf_of_this_machine"
HUB_VARIABLES = ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
CHUNK = 1 << 14  # bytes


@dataclass
class Repository:
    """What the hub has of one.

    Attributes:
        files: by name.
        commit: the only one.
        card: front matter of its card, as the hub tells it.
        terms: whether it is gated.
        listed: sizes that are told in place of the true ones.
        sent: contents that are sent in place of those that were listed.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    card: dict = field(default_factory=dict)
    terms: bool = False
    listed: dict[str, int] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)


class StandIn(ThreadingHTTPServer):
    """The hub.

    Attributes:
        repositories: by place.
        addresses: other files by path.
        stall: the end of a path that is not answered until `go` is set.
        cut: bytes after which the connection of a large file breaks off; None for never.
        pace: bytes a second; None for as fast as can be.
        elsewhere: where files are redirected to; "" for nowhere.
        asked: methods and paths.
        tokens: what was sent as authorization, by path.
        sent: bytes of files.
    """

    daemon_threads = True

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories, self.addresses = repositories, {}
        self.stall, self.cut, self.pace, self.elsewhere = "", None, None, ""
        self.asked, self.tokens, self.sent, self.go = [], {}, 0, threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Who was killed has left; that is no news."""

    def begin(self, monkeypatch, cache):
        """Answer, as the hub of this process and those that it starts."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        for name in HUB_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", self.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(cache))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def end(self):
        self.go.set()
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
    FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        hub.tokens[path] = self.headers.get("Authorization")
        if hub.stall and path.endswith(hub.stall):
            hub.go.wait(60)
        if path in hub.addresses:
            return self.send(hub.addresses[path], with_body)
        if asked := self.INFO.fullmatch(path):
            return self.inform(hub.repositories.get(asked[1]), asked[2])
        asked = self.FILE.fullmatch(path)
        found = hub.repositories.get(asked[1]) if asked else None
        if found is None or asked[2] != found.commit or asked[3] not in found.files:
            return self.refuse(404, "EntryNotFound")
        if found.terms and hub.tokens[path] != f"Bearer {TOKEN}":
            return self.refuse(403, "GatedRepo")
        content, name = found.files[asked[3]], asked[3]
        more = {"X-Repo-Commit": found.commit, "ETag": f'"{checksum(content)}"'}
        if hub.elsewhere:
            more |= {"X-Linked-ETag": more["ETag"], "X-Linked-Size": str(len(content))}
            return self.refuse(302, "", {"Location": f"{hub.elsewhere}/{name}"} | more)
        return self.send(found.sent.get(name, content) if with_body else content, with_body, more)

    def inform(self, found, revision):
        if found is None:
            return self.refuse(401, "RepoNotFound")
        if revision not in (None, found.commit):
            return self.refuse(404, "RevisionNotFound")
        sizes = {name: len(data) for name, data in found.files.items()} | found.listed
        told = {"id": "of/it", "sha": found.commit, "gated": "manual" if found.terms else False}
        told |= {"siblings": [{"rfilename": name, "size": size} for name, size in sizes.items()]}
        return self.send(json.dumps(told | {"cardData": found.card}).encode())

    def refuse(self, status, code, more=()):
        self.send_response(status)
        for key, value in {"X-Error-Code": code, "Content-Length": "0", **dict(more)}.items():
            self.send_header(key, value)
        self.end_headers()

    def send(self, content, with_body=True, more=()):
        hub = self.server
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        for key, value in dict(more).items():
            self.send_header(key, value)
        self.end_headers()
        if not with_body:
            return
        for place in range(start, len(content) if hub.cut is None else min(hub.cut, len(content)), CHUNK):
            part = content[place : min(place + CHUNK, hub.cut or len(content))]
            try:
                self.wfile.write(part)
            except OSError:  # who listened is gone
                return
            hub.sent += len(part)
            if hub.pace:
                time.sleep(len(part) / hub.pace)
        if hub.cut is not None and len(content) > hub.cut:
            self.close_connection = True


def checksum(content):
    """As the hub tells it: SHA-256 of large files, and git's hash of small ones."""
    if len(content) > 10_000:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def files_of(folder):
    """The files of a folder by their names in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
