"""The way in: every request passes here before Gradio sees any of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.server.hosts import Hosts
from app.server.uploads import Uploads
from app.server.visitors import VISITOR, WHO, visitor_of
from yoso_core.files.archives import amount

UPLOAD = "/gradio_api/upload"
# What Gradio has and the page does not use: figures of everybody's requests, and ways to leave files here.
CLOSED = (
    *("/monitoring", "/gradio_api/deep_link", "/gradio_api/process_recording", "/gradio_api/vibe"),
    *("/gradio_api/undo-vibe", "/gradio_api/run-history", "/gradio_api/runs", "/gradio_api/profiling"),
    *("/gradio_api/dev", "/gradio_api/component_server", "/gradio_api/proxy="),
)
BODY = "yoso.body"  # in a request's scope: the bytes of its body
LISTEN = 2.0  # seconds for which what is refused may go on coming
SMALL = 1_000_000  # bytes of a body that needs no room of its own
NO_ROOM = "The studio has its hands full with large requests; please try again in a moment."
TOO_SLOW = "This request came too slowly; please try again over a better connection."


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        body: bytes of a request that is no upload.
        bodies: bytes of all such requests that are on their way, above the small ones.
        at_once: requests of one visitor, of which an open page has two.
        silence: seconds without a byte of a request, or of an answer taken, until its connection is dropped.
        patience: seconds that a request may take in any case.
        pace: bytes a second that it has to keep up beyond.
    """

    body: int = 40_000_000  # the page sends a dropped picture of 20 MB, in base64, with what is on two canvases
    bodies: int = 256_000_000
    at_once: int = 200
    silence: float = 20.0
    patience: float = 30.0
    pace: float = 4_000.0


class Refused(Exception):
    """A request that is not read to its end."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class _RefusedUpload(Refused, MultiPartException):
    """One of an upload: of such Gradio removes what has come."""

    def __init__(self, status: int, sentence: str) -> None:
        Refused.__init__(self, status, sentence)
        self.message = sentence


@dataclass
class Doors:
    """ASGI middleware: turns away who may not come in, and lets nobody take more than a share.

    Args:
        app: what the others get to.
        hosts: the studio's names.
        uploads: account of what is uploaded.
        limits: of a request.
        behind_proxy: whether all visitors come through one proxy that says who they are.
    """

    app: ASGIApp
    hosts: Hosts
    uploads: Uploads
    limits: Limits = field(default_factory=Limits)
    behind_proxy: bool = False

    def __post_init__(self) -> None:
        self._open: Counter[str] = Counter()  # requests by visitor
        self._held = 0  # bytes of bodies on their way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # Gradio has no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        visitor = visitor_of(scope, self.behind_proxy)
        VISITOR.set(visitor)
        scope[WHO] = visitor
        passage = _Passage(self, scope, visitor, receive, send)
        self._open[visitor] += 1
        try:
            await passage.go()
        finally:
            self._held -= passage.held
            self._open[visitor] -= 1
            if not self._open[visitor]:
                del self._open[visitor]

    async def check(self, scope: Scope, visitor: str) -> None:
        """Look at a request before any of its body is read.

        Raises:
            Refused: it may not come in.
        """
        headers, path = Headers(scope=scope), scope["path"]
        if (sentence := self.hosts.refusal(headers, scope["method"])) is not None:
            raise Refused(403, sentence)
        if path.startswith(CLOSED):
            raise Refused(404, "The studio has no such page.")
        if self._open[visitor] > self.limits.at_once:
            raise Refused(429, f"You have {self.limits.at_once} requests open, which is the most; close some first.")
        length = _length_of(headers)
        if is_upload(scope):
            sentence = await anyio.to_thread.run_sync(self.uploads.refusal, visitor, length)
            if sentence is not None:
                raise _RefusedUpload(413, sentence)
        elif length > self.limits.body:
            raise Refused(413, self.too_large)

    @property
    def too_large(self) -> str:
        return f"A request may have {amount(self.limits.body)}; upload files, and send what the upload answers."

    def hold(self, number: int) -> bool:
        """Whether there is room for so many bytes more of large bodies."""
        if self._held + number > self.limits.bodies:
            return False
        self._held += number
        return True


class _Passage:
    """One request on its way through the doors, and its answer on its way back."""

    def __init__(self, doors: Doors, scope: Scope, visitor: str, receive: Receive, send: Send) -> None:
        self.doors, self.scope, self.visitor = doors, scope, visitor
        self._receive, self._send = receive, send
        self._upload = is_upload(scope)
        self._waited = 0.0  # seconds for parts of the body
        self._whole = False  # whether all of the body has come
        self._answered = False
        self._refused: Refused | None = None
        self.held = 0

    async def go(self) -> None:
        try:
            await self.doors.check(self.scope, self.visitor)
            self.scope[BODY] = 0
            await self.doors.app(self.scope, self.receive, self.send)
        except Refused as refused:
            self._refused = self._refused or refused
        except Exception:
            if self._refused is None:
                raise
        if self._refused is not None and not self._answered:
            await self._turn_away(self._refused)

    async def receive(self) -> Message:
        """The next part of the body, if it may come in."""
        if self._whole:  # who is answered may listen for the end of the connection as long as it takes
            return await self._receive()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.doors.limits.silence):
                message = await self._receive()
            self._waited += time.monotonic() - begun
            if message["type"] == "http.disconnect":
                if self._upload:
                    raise self._refuse(400, "The upload was broken off; please try again.")
                return message
            self._count(len(message.get("body", b"")))
        except TimeoutError:
            raise self._refuse(408, TOO_SLOW) from None
        self._whole = not message.get("more_body", False)
        return message

    def _count(self, number: int) -> None:
        doors, limits = self.doors, self.doors.limits
        self.scope[BODY] += number
        come = self.scope[BODY]
        if come < limits.pace * (self._waited - limits.patience):
            raise self._refuse(408, TOO_SLOW)
        if self._upload:
            if not doors.uploads.charge(self.visitor, number):
                raise self._refuse(413, "That is more than you may upload at the moment; wait a while or choose less.")
        elif come > limits.body:
            raise self._refuse(413, doors.too_large)
        elif come > SMALL:
            more = come - SMALL - self.held
            if not doors.hold(more):
                raise self._refuse(503, NO_ROOM)
            self.held += more

    def _refuse(self, status: int, sentence: str) -> Refused:
        """Whatever the application makes of it, this is the answer."""
        self._refused = (_RefusedUpload if self._upload else Refused)(status, sentence)
        return self._refused

    async def send(self, message: Message) -> None:
        """A part of the answer, unless another one is due, or nobody takes it."""
        if self._refused is not None and not self._answered:
            return
        self._answered = True
        try:
            async with asyncio.timeout(self.doors.limits.silence):
                await self._send(message)
        except TimeoutError:
            raise self._refuse(408, TOO_SLOW) from None

    async def _turn_away(self, refused: Refused) -> None:
        # Who writes on without reading would not see the answer, so some of what comes is taken and thrown away.
        if not self._whole and refused.status == 413:
            until = time.monotonic() + LISTEN
            with suppress(TimeoutError):
                while time.monotonic() < until:
                    async with asyncio.timeout(LISTEN / 10):
                        message = await self._receive()
                    if not message.get("more_body"):
                        break
        headers: Mapping[str, Any] = {"connection": "close"}
        answer = JSONResponse({"detail": refused.sentence, "error": refused.sentence}, refused.status, headers)
        await answer(self.scope, self._receive, self._send)


def is_upload(scope: Mapping[str, Any]) -> bool:
    return scope["path"] == UPLOAD and scope["method"] == "POST"


def _length_of(headers: Headers) -> int:
    try:
        return max(0, int(headers.get("content-length", "0")))
    except ValueError:
        return 0
