"""What is on its way to this machine: one thing after another, beside everything else."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from yoso_core.cached import Need
from yoso_core.hub import Progress, fetch
from yoso_core.requests import RequestError

WINDOW = 15.0  # seconds over which the pace is taken
LINE = 20  # things that may wait
COMES, WAITS, PAUSED, FAILED = "comes", "waits", "paused", "failed"


class FetchError(RequestError):
    """What can't be begun."""


@dataclass(frozen=True)
class Fetching:
    """How far something is on its way.

    Attributes:
        title: what people call it.
        needs: what it takes, in this order.
        state: `COMES`, `WAITS` in the line, `PAUSED`, or `FAILED`.
        title_now: of the need that is on its way.
        before: bytes of needs that have come.
        progress: of the need that is on its way.
        pace: bytes a second; 0 while it is not known.
        why: it failed, in a sentence.
    """

    title: str
    needs: tuple[Need, ...]
    state: str = WAITS
    title_now: str = ""
    before: int = 0
    progress: Progress = field(default_factory=Progress)
    pace: float = 0.0
    why: str = ""

    @property
    def done(self) -> int:
        return self.before + self.progress.done

    def left(self, total: int) -> float | None:
        """Seconds until `total` bytes are here; None while that can't be told."""
        return (total - self.done) / self.pace if self.pace > 0 and total >= self.done else None


class Fetches:
    """The line of what is to come: the first is fetched, others wait, and what was paused or failed stands by.

    Args:
        fetch: brings one need.
        allowed: whether who asks can have what is not here.

    Attributes:
        came: called when something has come, beside everything else.
    """

    def __init__(self, fetch: Callable[[Need], Iterator[Progress]] = fetch, allowed: bool = True) -> None:
        self.allowed = allowed
        self.came: Callable[[], None] = lambda: None
        self._fetch = fetch
        self._lock = threading.RLock()
        self._things: dict[str, Fetching] = {}  # by name, in the order of the line
        self._now: str | None = None
        self._stop = threading.Event()

    def status(self) -> Mapping[str, Fetching]:
        """All that is on its way, by name."""
        with self._lock:
            return dict(self._things)

    def get(self, name: str, title: str, needs: Sequence[Need]) -> None:
        """Put something into the line, or go on with it.

        Raises:
            FetchError: too many things wait.
        """
        with self._lock:
            if name in self._things and self._things[name].state in (COMES, WAITS):
                return
            self._things.pop(name, None)  # it goes to the end of the line
            if len(self._things) >= LINE:
                raise FetchError(f"{LINE} things are on their way already; wait for one, or cancel one.")
            self._things[name] = Fetching(title, tuple(needs))
            if self._now is None:
                self._now = name
                threading.Thread(target=self._work, daemon=True).start()

    def pause(self, name: str) -> None:
        """Leave something for later; what has come stays."""
        with self._lock:
            if name == self._now and name in self._things:
                self._stop.set()
            if name in self._things:
                self._things[name] = replace(self._things[name], state=PAUSED, pace=0.0)

    def drop(self, name: str) -> None:
        """Take something out of the line; what has come stays on the disk. Returns once nothing is fetched for it."""
        with self._lock:
            self._things.pop(name, None)
            if name == self._now:
                self._stop.set()
        while self._now == name and name not in self._things:
            time.sleep(0.02)

    def tell(self, need: Need) -> str:
        """How something stands that a request lacks, in a sentence; it begins nothing, which is a person's to say."""
        with self._lock:
            name = next((name for name, thing in self._things.items() if need in thing.needs), "")
            thing = self._things.get(name)
            now = self._things.get(self._now or "") if self._now != name else None
        if thing is None and not self.allowed:
            return f"{need.title} is not on this machine, and nothing is fetched for visitors here; choose another one."
        if thing is None:
            return f"{need.title} is not on this machine; it can be had on the Models tab."
        if thing.state == FAILED:
            return thing.why
        if thing.state == PAUSED:
            return f"{need.title} has not come whole, and fetching it is paused; go on with it on the Models tab."
        if now is None:
            return f"{need.title} is being fetched from the model hub ({thing.progress}); try again in a moment."
        ahead = f"{now.title} is on its way ({now.progress})"
        return f"{need.title} has to be fetched from the model hub, and {ahead}; try again after that."

    def _work(self) -> None:
        """Until nothing waits."""
        while True:
            with self._lock:
                waiting = [name for name, thing in self._things.items() if thing.state == WAITS]
                self._now = waiting[0] if waiting else None
                if self._now is None:
                    return
                self._stop = stop = threading.Event()
                self._change(state=COMES, why="")
                thing = self._things[self._now]
            try:
                if all(self._bring(need, stop) for need in thing.needs) and not stop.is_set():
                    with self._lock:
                        self._things.pop(self._now, None)
                    self.came()
            except RequestError as error:
                self._change(state=FAILED, why=str(error), pace=0.0)
            except Exception as error:  # a disk that is full, or that can't be written to
                why = f"{thing.title} can't be fetched ({error!s:.120}); please try again."
                self._change(state=FAILED, why=why, pace=0.0)

    def _bring(self, need: Need, stop: threading.Event) -> bool:
        """Whether all of a need has come."""
        seen, whole = deque[tuple[float, int]](), 0
        self._change(title_now=need.title, progress=Progress())
        with closing(self._fetch(need)) as steps:
            for progress in steps:
                if stop.is_set():
                    return False
                now, whole = time.monotonic(), max(whole, progress.total)
                if not progress.doing:
                    seen.append((now, progress.done))
                while seen and now - seen[0][0] > WINDOW:
                    seen.popleft()
                (start, first), (end, last) = (seen[0], seen[-1]) if seen else ((0.0, 0), (0.0, 0))
                self._change(progress=progress, pace=(last - first) / (end - start) if end - start > 1 else 0.0)
        with self._lock:
            thing = self._things.get(self._now or "")
            if thing is not None:
                self._change(before=thing.before + whole, progress=Progress(doing=""))
        return not stop.is_set()

    def _change(self, **changes: object) -> None:
        with self._lock:
            if self._now in self._things and self._things[self._now].state in (COMES, WAITS):
                self._things[self._now] = replace(self._things[self._now], **changes)
