"""Who waits for what: the one queue, of which no visitor may take all places.

What draws has seats: so many listeners work at the same time, a few for each visitor, and the engine gives them turns,
picture by picture. So a grid of one visitor holds up nobody else for longer than a picture takes.
"""

import random
from collections import Counter
from typing import Any, Literal

import fastapi
import gradio as gr
from gradio import queueing
from gradio.data_classes import PredictBodyInternal

from app.server.doors import BODY
from app.server.visitors import VISITOR, WHO
from yoso_core.files.archives import amount

PLACES = 32  # requests that wait; whoever comes after is told that the studio is busy
WAITING_BYTES = 256_000_000  # of the bodies of those
PAGES = 2000  # that messages are kept for
SEATS = 24  # listeners that draw at the same time, in turns
SEATS_EACH = 4  # of one visitor
DRAWING: dict[str, Any] = {"concurrency_id": "engine", "concurrency_limit": SEATS}  # queue rules of what draws
Answer = tuple[bool, str | list[dict[str, Any]], Literal["success", "error", "queue_full", "validator_error"]]


class Queue(queueing.Queue):
    """Gradio's, with a share for each visitor and each page.

    Args:
        blocks: the page.
        share: places that one visitor, or one page, may take.
        together: requests that gain by being worked on at the same time, for whom there are so many more seats.
        places: in all.
    """

    def __init__(self, blocks: gr.Blocks, share: int, together: int = 1, places: int = PLACES) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=places,
            blocks=blocks,
            default_concurrency_limit=1,
        )
        self.share, self.more = share, together - 1
        self.pending_messages_per_session = Messages(PAGES)

    def create_event_queue_for_fn(self, block_fn: Any) -> None:
        super().create_event_queue_for_fn(block_fn)
        if block_fn.concurrency_id == DRAWING["concurrency_id"]:
            self.event_queue_per_concurrency_id[block_fn.concurrency_id].concurrency_limit = SEATS + self.more

    def get_events(self) -> tuple[list[queueing.Event], bool, str] | None:
        """The next one to be answered: of those who have a seat free, whoever has the fewest taken.

        Of one page, each function answers one event after the other, because it may read what it wrote before.
        """
        answered = [event for job in self.active_jobs for event in job or ()]
        seated = Counter((_who(event), event.concurrency_id) for event in answered)
        busy = {(event.session_hash, event.fn) for event in answered}
        queues = list(self.event_queue_per_concurrency_id.values())
        random.shuffle(queues)
        for queue in queues:
            if queue.concurrency_limit is not None and queue.current_concurrency >= queue.concurrency_limit:
                continue
            taken = {event: seated[_who(event), event.concurrency_id] for event in queue.queue}
            free = [
                event
                for event in queue.queue
                if taken[event] < SEATS_EACH + self.more and (event.session_hash, event.fn) not in busy
            ]
            if free:
                event = min(free, key=taken.__getitem__)  # among equals the first that came
                queue.queue.remove(event)
                return [event], False, event.concurrency_id
        return None

    def broadcast_estimations(self, concurrency_id: str, after: int | None = None) -> None:
        """How long those wait who came as number `after` or later; all are told once a second.

        Whoever finds a seat is told nothing on coming: the page goes over what it shows for each message.
        """
        queue = self.event_queue_per_concurrency_id[concurrency_id]
        if after is None or queue.current_concurrency == queue.concurrency_limit:
            super().broadcast_estimations(concurrency_id, after)

    async def push(self, body: PredictBodyInternal, request: fastapi.Request, username: str | None) -> Answer:
        if (sentence := self._refusal(body.session_hash, request.scope.get(BODY, 0))) is not None:
            return False, sentence, "queue_full"
        return await super().push(body, request, username)

    def _refusal(self, session: str | None, number: int) -> str | None:
        """Why a request of so many bytes may not wait here, in one sentence."""
        waiting = [event for one in self.event_queue_per_concurrency_id.values() for event in one.queue]
        if len(waiting) >= self.max_size:
            return f"Queue is full: {len(waiting)} requests wait; please try again in a moment."
        mine = sum(_who(event) == VISITOR.get() for event in waiting)
        here = sum(event.session_hash == session for event in waiting)
        if max(mine, here) >= self.share:
            return f"Queue is full for you: {self.share} of your requests wait; please wait for one of them first."
        if number + sum(event.request.scope.get(BODY, 0) for event in waiting) > WAITING_BYTES:
            return f"Queue is full: {amount(WAITING_BYTES)} of requests wait; please try again in a moment."
        return None


def _who(event: queueing.Event) -> str:
    return event.request.scope.get(WHO, "")


class Messages(queueing.LRUCache):
    """What pages are to be told; where there are too many, whoever has most pages loses their oldest."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._whose: dict[str, str] = {}

    def __setitem__(self, page: str, messages: Any) -> None:
        if page not in self and len(self) >= self.max_size:
            visitor, _ = Counter(self._whose[one] for one in self).most_common(1)[0]
            del self[next(one for one in self if self._whose[one] == visitor)]
        super().__setitem__(page, messages)
        self._whose.setdefault(page, VISITOR.get())

    def __delitem__(self, page: str) -> None:
        super().__delitem__(page)
        self._whose.pop(page, None)
