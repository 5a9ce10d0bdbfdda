"""One thing after another, without a hub."""

import threading
import time
from dataclasses import replace

import pytest

from yoso_core import fetches as module
from yoso_core.cached import HubError, Need
from yoso_core.fetches import COMES, FAILED, PAUSED, WAITS, FetchError, Fetches
from yoso_core.hub import Progress

NEED = Need("A model", "some/model", "0123456789" * 4)
OTHER = replace(NEED, title="Another", place="some/other")
BAD = replace(NEED, place="some/bad")


def until(told, seconds=20):
    began = time.monotonic()
    while not told():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)


class Slow:
    """In place of `fetch`: goes on when it is told to."""

    def __init__(self):
        self.go, self.begun, self.ended = threading.Event(), [], []

    def __call__(self, need):
        self.begun.append(need)
        try:
            yield Progress()
            while not self.go.wait(0.01):
                yield Progress(2_000_000, 4_000_000, "")
            if need == BAD:
                raise HubError("It can't be had.")
            yield Progress(4_000_000, 4_000_000, "")
        finally:
            self.ended.append(need)


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.go.set()


def state(fetches, name):
    return fetches.status()[name].state


def test_one_thing_comes_at_a_time_and_the_others_wait(slow):
    fetches = Fetches(slow)
    fetches.get("one", "One", [NEED, OTHER])
    fetches.get("two", "Two", [OTHER])
    fetches.get("one", "One", [NEED, OTHER])  # again, which changes nothing
    until(lambda: fetches.status()["one"].done == 2_000_000)
    assert (state(fetches, "one"), state(fetches, "two"), slow.begun) == (COMES, WAITS, [NEED])
    slow.go.set()
    until(lambda: not fetches.status())
    assert slow.begun == slow.ended == [NEED, OTHER, OTHER]


def test_what_is_paused_lets_the_others_pass_and_is_gone_on_with(slow):
    fetches = Fetches(slow)
    fetches.get("one", "One", [NEED])
    fetches.get("two", "Two", [OTHER])
    until(lambda: slow.begun)
    fetches.pause("one")
    until(lambda: slow.begun == [NEED, OTHER])
    assert slow.ended == [NEED] and state(fetches, "one") == PAUSED
    fetches.get("one", "One", [NEED])
    assert state(fetches, "one") == WAITS
    slow.go.set()
    until(lambda: not fetches.status())
    assert slow.begun == [NEED, OTHER, NEED]


def test_what_is_cancelled_is_not_fetched_any_more_once_that_is_said(slow):
    fetches = Fetches(slow)
    fetches.get("one", "One", [NEED])
    until(lambda: slow.begun)
    fetches.drop("one")
    assert slow.ended == [NEED] and not fetches.status()
    fetches.drop("never there")


def test_what_fails_says_why_and_the_next_one_comes(slow):
    fetches = Fetches(slow)
    fetches.get("bad", "Bad", [BAD, NEED])
    fetches.get("two", "Two", [OTHER])
    slow.go.set()
    until(lambda: set(fetches.status()) == {"bad"})
    assert (state(fetches, "bad"), fetches.status()["bad"].why) == (FAILED, "It can't be had.")
    assert slow.begun == [BAD, OTHER]
    fetches.get("bad", "Bad", [BAD])  # a person may try at once
    until(lambda: slow.begun == [BAD, OTHER, BAD])


def test_the_time_that_is_left_is_told_by_the_pace(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    seen = []

    def fetch(need):
        for step in range(6):
            yield Progress(step * 1_000_000, 10_000_000, "")
            seen.append(fetches.status()["one"])

    fetches = Fetches(fetch)
    fetches.get("one", "One", [NEED])
    until(lambda: len(seen) == 6)
    assert seen[0].left(10_000_000) is None
    assert seen[5].pace == 1_000_000 and seen[5].left(10_000_000) == 5


def test_a_line_has_an_end(slow):
    fetches = Fetches(slow)
    for index in range(module.LINE):
        fetches.get(str(index), "A thing", [NEED])
    with pytest.raises(FetchError, match="on their way already"):
        fetches.get("one more", "A thing", [NEED])


# For requests


def test_requests_are_told_how_far_it_is_and_begin_nothing(slow):
    fetches = Fetches(slow)
    assert fetches.tell(NEED) == "A model is not on this machine; it can be had on the Models tab."
    fetches.get("one", "One", [NEED])
    fetches.get("two", "Two", [OTHER])
    until(lambda: "A model is being fetched from the model hub (2 of 4 MB)" in fetches.tell(NEED))
    assert "Another has to be fetched from the model hub, and One is on its way (2 of 4 MB)" in fetches.tell(OTHER)
    fetches.pause("one")
    assert "paused" in fetches.tell(NEED)
    slow.go.set()
    fetches.get("bad", "Bad", [BAD])
    until(lambda: fetches.tell(BAD) == "It can't be had.")
    assert BAD in slow.begun and slow.begun.count(BAD) == 1


def test_where_nothing_is_fetched_for_visitors_they_are_told(slow):
    assert "nothing is fetched for visitors here" in Fetches(slow, allowed=False).tell(NEED)
    assert slow.begun == []
