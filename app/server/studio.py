"""Gradio's server with doors: what `gr.Blocks.launch` serves the page by."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from gradio.route_utils import FnIndexInferError
from gradio.routes import App, ORJSONResponse
from starlette.types import ASGIApp

from app.server.doors import Doors, Limits
from app.server.hosts import Hosts
from app.server.page import sentence_of
from app.server.sessions import Sessions
from app.server.uploads import Uploads

EVERY = 2.0  # seconds between looks at connections


class StudioApp(App):
    """Give it to ``launch(_app=...)``, which adds middleware of its own but takes none that would stand before those.

    Args:
        hosts: the studio's names.
        uploads: account of what is uploaded.
        limits: of a request.
        behind_proxy: whether all visitors come through one proxy that says who they are.
    """

    def __init__(self, hosts: Hosts, uploads: Uploads, limits: Limits, behind_proxy: bool = False) -> None:
        handlers = {FnIndexInferError: _no_such_function, KeyError: _no_such_function, Exception: _unforeseen}
        super().__init__(default_response_class=ORJSONResponse, exception_handlers=handlers)
        self.state_holder = Sessions()
        self._doors = {"hosts": hosts, "uploads": uploads, "limits": limits, "behind_proxy": behind_proxy}

    def build_middleware_stack(self) -> ASGIApp:
        return Doors(super().build_middleware_stack(), **self._doors)


async def _no_such_function(request: Request, error: Exception) -> JSONResponse:
    told = "The studio has no such function; /gradio_api/info lists those that there are."
    return JSONResponse({"detail": told, "error": told}, 404)


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    told = sentence_of(error)
    return JSONResponse({"detail": told, "error": told}, 500)


@asynccontextmanager
async def slow_ones_dropped(app: StudioApp, silence: float) -> AsyncIterator[None]:
    """Meanwhile connections end that have sent no whole request, or taken none of an answer, for so many seconds.

    The doors see a request only once its head is there.
    """
    task = asyncio.create_task(_drop_slow_ones(app, silence))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _drop_slow_ones(app: StudioApp, silence: float) -> None:
    waiting: dict[Any, tuple[Any, float]] = {}
    while True:
        await asyncio.sleep(min(EVERY, silence / 2))
        server, now = getattr(app.get_blocks(), "server", None), time.monotonic()
        idle = {one: one.cycle for one in list(server.server_state.connections) if _is_idle(one)} if server else {}
        waiting = {
            one: waiting[one] if one in waiting and waiting[one][0] is cycle else (cycle, now)
            for one, cycle in idle.items()
        }
        for one, (_, since) in waiting.items():
            if now - since > silence:
                one.transport.abort()


def _is_idle(connection: Any) -> bool:
    """Whether a connection of uvicorn answers nothing at the moment, or is to be closed."""
    return connection.cycle is None or connection.cycle.response_complete or connection.transport.is_closing()
