"""Turns are fair to all who ask, and one at a time."""

import threading
import time
from contextvars import copy_context

import pytest

from yoso_core.turns import ASKER, Turns


class Crowd:
    """Threads that wait for a turn, and who had one."""

    def __init__(self) -> None:
        self.turns, self.had, self.threads = Turns(), [], []

    def come(self, *askers: str) -> None:
        """Each waits from now on."""
        for asker in askers:
            waiting = len(self.turns._waiting)
            self.threads.append(threading.Thread(target=copy_context().run, args=(self.ask, asker)))
            self.threads[-1].start()
            until(lambda waiting=waiting: len(self.turns._waiting) > waiting)

    def ask(self, asker: str) -> None:
        ASKER.set(asker)
        with self.turns:
            self.had.append(asker)

    def gone(self) -> str:
        """Who had turns, in order, once all had."""
        for thread in self.threads:
            thread.join(10)
        return "".join(self.had)


def until(true) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.001)
    raise AssertionError("it never came true")


@pytest.mark.parametrize(
    ("come", "go"),
    [
        ("abc", "abc"),
        ("aaab", "abaa"),  # whoever asks for much lets others in between
        ("aaabbc", "abcaba"),
        ("aabbaa", "ababaa"),
    ],
)
def test_askers_take_turns(come, go):
    crowd = Crowd()
    with crowd.turns:  # of somebody else
        crowd.come(*come)
    assert crowd.gone() == go


def test_one_who_asks_again_and_again_lets_others_in_between():
    crowd = Crowd()
    with crowd.turns:
        crowd.come("b", "c")
        many = threading.Thread(target=lambda: [crowd.ask("a") for _ in range(3)])
        many.start()
        until(lambda: len(crowd.turns._waiting) == 3)
        crowd.come("b")
    many.join(10)
    assert crowd.gone() == "bcabaa"


def test_nobody_waits_for_newcomers_for_ever():
    crowd = Crowd()
    with crowd.turns:
        crowd.come("a", "a", *"bcdefgh")
    assert crowd.gone() == "abcdefgha"
    assert crowd.turns._last.keys() <= {"a"}  # whoever is done is forgotten


def test_one_at_a_time():
    turns, inside, most = Turns(), 0, []

    def work() -> None:
        nonlocal inside
        for _ in range(50):
            with turns:
                inside += 1
                most.append(inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 200 and max(most) == 1


def test_who_waits_is_told_how_many_come_first():
    crowd, said = Crowd(), []

    def wait() -> None:
        with crowd.turns.told(said.append):
            crowd.had.append("told")

    with crowd.turns:
        crowd.come("a")
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: said)
    thread.join(10)
    assert said[0] == 2 and crowd.gone() == "atold"  # the turn of now, and that of a
    with crowd.turns.told(said.append):
        assert len(said) == 1  # who does not wait is told nothing


def test_an_error_gives_the_turn_back_and_leaves_the_line():
    turns = Turns()
    with pytest.raises(ValueError), turns:
        raise ValueError
    with turns:

        def refuse(count: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), turns.told(refuse):
            raise AssertionError("it is not its turn")
        assert not turns._waiting
    with turns:
        pass
