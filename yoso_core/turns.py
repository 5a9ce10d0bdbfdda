"""Whose turn it is: one at a time, and whoever asks for much lets others in between."""

import itertools
import threading
from bisect import bisect, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

ASKER: ContextVar[str] = ContextVar("asker", default="")  # for whom this thread asks; a server says so
LOOK = 0.2  # seconds between two looks at how many come first
COME_FIRST = "pictures come first"  # what who waits is told, behind a number


@dataclass(order=True)
class _Ticket:
    """A place in the line.

    Attributes:
        round: the lowest comes first.
        number: of the ticket; among equals the first comes first.
        called: can be acquired once it is this ticket's turn.
    """

    round: int
    number: int
    called: threading.Lock = field(default_factory=threading.Lock, compare=False)


class Turns:
    """A lock that is fair to all who ask, however much each of them asks for: ``with turns: ...``.

    It is start-time fair queueing with turns of equal cost: of each asker's tickets one belongs to each round, the
    first to the round that is served when it comes. So 64 pictures of one and a single one of another take turns,
    whether the 64 come one after the other or all at once, and nobody waits for ever. Without askers the first comes
    first.
    """

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._waiting: list[_Ticket] = []  # in order
        self._taken = False
        self._round = 0  # that is served
        self._last: dict[str, int] = {}  # the round of each asker's last ticket, where that is not over
        self._numbers = itertools.count()

    def locked(self) -> bool:
        """Whether it is somebody's turn."""
        return self._taken

    def acquire(self) -> None:
        """Wait for a turn."""
        self._take(lambda ticket: ticket.called.acquire())

    def release(self) -> None:
        """Call the next one."""
        with self._change:
            self._taken = False
            self._call()

    def renew(self) -> None:
        """Be as at first: in a process that was forked, where those who waited are not."""
        self.__init__()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    @contextmanager
    def told(self, tell: Callable[[int], None]) -> Iterator[None]:
        """The same, and whoever waits longer than a moment is told how many turns come first, as often as it changes.

        Args:
            tell: called with a number from 1.
        """

        def wait(ticket: _Ticket) -> None:
            said = 0
            while not ticket.called.acquire(timeout=LOOK):
                if (count := self._before(ticket)) not in (0, said):
                    said = count
                    tell(count)

        self._take(wait)
        try:
            yield
        finally:
            self.release()

    def _take(self, wait: Callable[[_Ticket], object]) -> None:
        with self._change:
            asker = ASKER.get()
            turn = self._last[asker] = max(self._round, self._last.get(asker, -1) + 1)
            ticket = _Ticket(turn, next(self._numbers))
            ticket.called.acquire()
            insort(self._waiting, ticket)
            self._call()
        try:
            wait(ticket)
        except BaseException:  # such as Ctrl+C, after which nobody would give it back
            with self._change:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                else:
                    self._taken = False
                    self._call()
            raise

    def _call(self) -> None:
        """Call the next one, where it is nobody's turn; under `_change`."""
        if self._taken or not self._waiting:
            return
        ticket = self._waiting.pop(0)
        self._taken, self._round = True, ticket.round
        self._last = {asker: last for asker, last in self._last.items() if last >= self._round}
        ticket.called.release()

    def _before(self, ticket: _Ticket) -> int:
        """How many turns come first, the present one included; 0 once it is this one's."""
        with self._change:
            return bisect(self._waiting, ticket) if ticket in self._waiting else 0
