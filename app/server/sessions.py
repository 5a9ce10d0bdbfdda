"""What the server remembers of each open page, and how much of it."""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence, Set
from copy import copy
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState, StateHolder
from PIL import Image

from app.server.visitors import VISITOR

SESSIONS = 200  # that are remembered
EACH = 64_000_000  # bytes that one may keep
IN_ALL = 1_000_000_000  # bytes that all may keep
SMALL = 64  # bytes of what is not looked into


def weight(value: Any) -> int:
    """About how many bytes something takes."""
    if isinstance(value, (str, bytes, bytearray)):
        return SMALL + len(value)
    if isinstance(value, Image.Image):
        return SMALL + value.width * value.height * len(value.getbands())
    if isinstance(value, gr.blocks.Block):
        return weight(value.constructor_args)
    if isinstance(value, Mapping):
        return SMALL + sum(weight(key) + weight(one) for key, one in value.items())
    if isinstance(value, (Sequence, Set)):
        return SMALL + sum(map(weight, value))
    if is_dataclass(value) and not isinstance(value, type):
        return SMALL + sum(weight(getattr(value, one.name)) for one in fields(value))
    return SMALL


class Session(SessionState):
    """Of one page: its states, and the components that were changed for it.

    Gradio would keep every last input too, for links to a page as it is; ours hold what they need themselves.

    Args:
        blocks: the page as it begins.
        visitor: whose it is.
        each: bytes that it may keep.
    """

    def __init__(self, blocks: gr.Blocks, visitor: str, each: int = EACH) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, dict] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, tuple[int | float | None, datetime]] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600
        self.visitor, self.each = visitor, each
        self.weight = 0  # bytes that it keeps
        self._weights: dict[int, int] = {}

    def __setitem__(self, key: int, value: Any) -> None:
        """
        Raises:
            Error: the page would hold too much; it stays as it is.
        """
        block, heavy = self.blocks_config.blocks.get(key), 0
        if block is not value:  # Gradio puts the components that all pages share into each session
            heavy = weight(value)
            if self.weight + heavy - self._weights.get(key, 0) > self.each:
                raise gr.Error("This page holds too much; reload it to begin anew.", print_exception=False)
        if isinstance(block, gr.State):
            self._state_ttl[key] = (block.time_to_live, datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value
        self.weight += heavy - self._weights.get(key, 0)
        self._weights[key] = heavy

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):
    """The sessions of all pages. Where they are too many, or hold too much, whoever has most loses their oldest.

    Args:
        capacity: sessions that are kept.
        in_all: bytes that they may keep.
    """

    def __init__(self, capacity: int = SESSIONS, in_all: int = IN_ALL) -> None:
        super().__init__()
        self.most, self.in_all = capacity, in_all
        self.session_data: OrderedDict[str, Session] = OrderedDict()

    def __getitem__(self, session_id: str) -> Session:
        with self.lock:
            if session_id not in self.session_data:
                self.session_data[session_id] = Session(self.blocks, VISITOR.get())
            self.session_data.move_to_end(session_id)
            self.time_last_used[session_id] = datetime.now()
            session, gone = self.session_data[session_id], []
            while (name := self._one_too_many(session_id)) is not None:
                gone.append(self.session_data.pop(name))
                self.time_last_used.pop(name, None)
        for one in gone:
            for component, value, _ in one.state_components:
                component.delete_callback(value)
        return session

    def _one_too_many(self, newest: str) -> str | None:
        """The session to let go of, if there are too many or they hold too much: never the newest."""
        sessions = self.session_data
        if len(sessions) > self.most:
            shares = Counter(session.visitor for session in sessions.values())
        elif sum(session.weight for session in sessions.values()) > self.in_all:
            shares = Counter()
            for session in sessions.values():
                shares[session.visitor] += session.weight
        else:
            return None
        ranked = [visitor for visitor, _ in shares.most_common()]
        return next(
            (name for visitor in ranked for name, one in sessions.items() if one.visitor == visitor and name != newest),
            None,
        )
