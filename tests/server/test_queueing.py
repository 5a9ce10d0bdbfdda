"""Seats of those who draw: a few for each visitor, and one after the other for each page."""

from types import SimpleNamespace

import gradio as gr
import pytest

from app.server.queueing import SEATS, SEATS_EACH, Queue
from app.server.visitors import WHO


@pytest.fixture
def queue():
    with gr.Blocks() as demo:
        pass
    made = Queue(demo, 8)
    made.active_jobs = [None] * 40
    return made


class Event:
    """As much of Gradio's as is looked at."""

    concurrency_id = "engine"

    def __init__(self, visitor, page, function):
        self.request = SimpleNamespace(scope={WHO: visitor})
        self.session_hash, self.fn = page, function


def come(queue, visitor, page, function="draw", limit=SEATS):
    """An event that waits from now on."""
    event = Event(visitor, page, function)
    waiting = queue.event_queue_per_concurrency_id.setdefault(
        "engine", SimpleNamespace(queue=[], concurrency_limit=limit, current_concurrency=0)
    )
    waiting.queue.append(event)
    return event


def seat(queue):
    """The next event that is answered, which takes its seat; None where nobody may."""
    if (found := queue.get_events()) is None:
        return None
    (event,), batch, name = found
    assert not batch and name == "engine"
    queue.active_jobs[queue.active_jobs.index(None)] = [event]
    queue.event_queue_per_concurrency_id["engine"].current_concurrency += 1
    return event


def leave(queue, event):
    queue.active_jobs[queue.active_jobs.index([event])] = None
    queue.event_queue_per_concurrency_id["engine"].current_concurrency -= 1


def test_one_visitor_has_a_few_seats_and_whoever_has_none_comes_first(queue):
    many = [come(queue, "a", f"page {number}") for number in range(SEATS)]
    assert seat(queue) is many[0]
    late = come(queue, "b", "another page")
    assert seat(queue) is late
    assert [seat(queue) for _ in range(SEATS_EACH)] == [*many[1:SEATS_EACH], None]
    leave(queue, many[0])
    assert seat(queue) is many[SEATS_EACH]


def test_a_page_is_answered_one_after_the_other(queue):
    first, second, other = come(queue, "a", "page"), come(queue, "a", "page"), come(queue, "a", "page", "save")
    assert [seat(queue) for _ in range(3)] == [first, other, None]
    leave(queue, first)
    assert seat(queue) is second


def test_there_are_no_more_seats_than_there_are(queue):
    events = [come(queue, f"visitor {number}", f"page {number}", limit=2) for number in range(3)]
    assert [seat(queue) for _ in range(3)] == [*events[:2], None]
