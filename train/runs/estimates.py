"""How long a run will take on this machine and how much memory, measured before it starts.

The run itself is begun on a few made-up pictures, in a folder that is thrown away, until it says what a step takes:
there is no second formula that could be wrong.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from train.runs.jobs import DEVICE_LOCK, ROOT, is_held, read_json, write_json
from train.tasks.base import ModelRunConfig

PICTURES = 4  # made-up ones
STEPS = 4  # of the run that is begun: it ends by itself should nobody be left to end it
PATIENCE = 600.0  # seconds; a large model on a small machine takes its time
POLL = 0.2  # seconds
# What changes neither the time of a step nor its memory.
INDIFFERENT = {
    *("steps", "seed", "data", "captions", "maker", "title", "trigger", "preview_prompts", "tracker"),
    *("pairs", "prompts"),
    *("checkpoint_every", "preview_every", "learning_rate", "warmup", "cooldown", "weight_decay", "clip", "ema"),
}


@dataclass(frozen=True)
class Estimate:
    """What was measured.

    Attributes:
        step: seconds a step.
        startup: seconds until the first one.
        memory: bytes at the peak.
        reason: why nothing could be measured; "" where it could.
    """

    step: float = 0.0
    startup: float = 0.0
    memory: int = 0
    reason: str = ""

    def seconds(self, steps: int) -> float:
        """Of a whole run."""
        return self.startup + self.step * steps


class Estimates:
    """Measures in the background, one run at a time, and remembers.

    Args:
        path: JSON file of what was measured on this machine before, in the folder of the runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._measuring: set[str] = set()
        self._failed: dict[str, Estimate] = {}

    def get(self, task: str, config: ModelRunConfig) -> Estimate | None:
        """What is known; None while it is not. The first who asks while no run trains has it measured."""
        key = _key(task, config)
        with self._lock:
            if values := read_json(self.path).get(key):
                with suppress(TypeError):  # of another version
                    return Estimate(**values)
            if key in self._failed:
                return self._failed[key]
            if not self._measuring and not is_held(self.path.with_name(DEVICE_LOCK)):
                self._measuring.add(key)
                threading.Thread(target=self._measure, args=(key, task, config), daemon=True).start()
        return None

    def _measure(self, key: str, task: str, config: ModelRunConfig) -> None:
        try:
            found = measure(task, config)
            with self._lock:
                if found.reason:
                    self._failed[key] = found
                else:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(self.path, read_json(self.path) | {key: asdict(found)})
        except Exception as error:  # a full disk; it would be tried again and again
            self._failed[key] = Estimate(reason=f"Nothing can be measured here ({error!s:.120}).")
        finally:
            self._measuring.discard(key)


def _key(task: str, config: ModelRunConfig) -> str:
    values = {one.name: getattr(config, one.name) for one in fields(config) if one.name not in INDIFFERENT}
    if config.words:  # which ones does not matter
        values["domains"] = True
    text = json.dumps([task, os.cpu_count(), values], sort_keys=True)
    return f"{task} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def measure(task: str, config: ModelRunConfig) -> Estimate:
    """Begin such a run, and end it as soon as it has said what it takes."""
    with tempfile.TemporaryDirectory() as place:
        data, run = Path(place) / "data", Path(place) / "run"
        data.mkdir()
        words = config.words or ("noise",)  # of each kind there have to be pictures
        noise = np.random.default_rng(0).integers(0, 256, (PICTURES, 256, 256, 3), np.uint8)
        for number, pixels in enumerate(noise):
            Image.fromarray(pixels).save(data / f"{number}.png")
            (data / f"{number}.txt").write_text(words[number % len(words)])
        made_up = {"captions": "", "maker": "", "preview_prompts": ("noise",), "tracker": "none"}
        probe = replace(config, **made_up | {config.takes: str(data)}, steps=STEPS)
        (Path(place) / "config.json").write_text(probe.to_json())
        command = [sys.executable, "-m", "train", task, "--config", f"{place}/config.json", "--run", str(run)]
        started = time.monotonic()
        with open(Path(place) / "log.txt", "w+") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )
            try:
                while (said := _started(run / "events.jsonl")) is None and process.poll() is None:
                    if time.monotonic() - started > PATIENCE:
                        return Estimate(reason="It takes long here to take one step; nothing was measured.")
                    time.sleep(POLL)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if said is None:
                log.seek(0)
                lines = [line for line in log.read().splitlines() if line.strip()]
                return Estimate(reason=lines[-1].removeprefix("error: ") if lines else "It does not start here.")
        step = said["seconds"] / STEPS
        return Estimate(step, max(0.0, said["time"] - _on_the_wall(started) - 2 * step), int(said["memory"]))


def _on_the_wall(moment: float) -> float:
    """A moment of the monotonic clock as seconds of the usual one."""
    return time.time() - (time.monotonic() - moment)


def _started(events: Path) -> dict | None:
    """The event that says what the run will take, once it is there."""
    try:
        lines = events.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        with suppress(ValueError):  # half a line
            if (event := json.loads(line))["event"] == "Started":
                return event
    return None
