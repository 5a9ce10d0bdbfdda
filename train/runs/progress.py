"""How far a run is, read off its events as they are written."""

import json
import math
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POINTS = 300  # of a curve; more can't be told apart on a page


@dataclass
class Progress:
    """A reader of one run's ``events.jsonl`` that goes on where it was.

    Attributes:
        folder: of the run.
        step: steps done.
        rate: samples a second.
        eta: seconds left at that rate, as of `time`.
        expected: the latest Started event: "seconds", "memory", "disk"; {} where there is none.
        losses: (step, mean since the point before) by term; steps that were lost and done again count once.
        saved: step of the last checkpoint; None where there is none.
        seconds: spent training, over all sittings.
        time: of the last event, in seconds of the clock.
        sittings: the step from which each process of the run went on.
    """

    folder: Path
    step: int = 0
    rate: float = 0.0
    eta: float = 0.0
    expected: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    saved: int | None = None
    seconds: float = 0.0
    time: float = 0.0
    sittings: list[int] = field(default_factory=list)
    _read: int = 0
    # Several pages may look at once.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def update(self) -> "Progress":
        """Take in what was written since."""
        with self._lock, suppress(OSError), open(self.folder / "events.jsonl", "rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # half written; it is whole next time
                    break
                self._read += len(line)
                # Half a line of a process that was killed, or what somebody else wrote.
                with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    self._take(json.loads(line))
        return self

    def _take(self, event: dict[str, Any]) -> None:
        kind, step, now = event["event"], int(event["step"]), _finite(event["time"])
        if kind == "Started":
            self.expected, self.eta = event, _finite(event["seconds"])
            self.sittings.append(step)
            for term, points in self.losses.items():  # what came after the checkpoint is done again
                self.losses[term] = [point for point in points if point[0] <= step]
        elif self.time and step and kind != "Finished":  # those may come first in a sitting
            self.seconds += now - self.time
        if kind == "StepDone":
            self.rate, self.eta = _finite(event["rate"]), _finite(event["eta"])
            for term, value in event["losses"].items():
                self.losses.setdefault(term, []).append((step, _finite(value)))
        elif kind == "Saved":
            self.saved = step
        self.step, self.time = step, now

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """The losses in at most `POINTS` points a term, neighbours averaged."""
        with self._lock:
            return {term: _thinned(points) for term, points in self.losses.items()}

    def previews(self) -> list[Path]:
        """The preview pictures, by step."""
        return sorted(path for path in (self.folder / "previews").glob("*.png") if path.stem.isdigit())


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    size = -(-len(points) // POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
