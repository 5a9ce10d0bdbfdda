"""The process of one run: it waits until those before it are through, then it trains, and leaves word how it ended.

python -m train.runs.worker RUN-FOLDER LOCK
python -m train.runs.worker standing-by SOCKET

`train.runs.jobs` starts it. While it waits for others, nothing heavy is in memory. One that stands by has its libraries
there, and is told its run later.
"""

import gc
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from train.runs.jobs import ABOUT, DEVICE_LOCK, LOCK, NOW, STANDING_BY, STOP, Job, held, is_held

NICENESS = 10  # people who draw come first
POLL = 0.3  # seconds between looks at the line


class StopAsked(BaseException):
    """The run is to end; nothing has begun that would need a checkpoint."""


@contextmanager
def turn(job: Job) -> Iterator[None]:
    """Wait until the device is free and nobody who waits came earlier, and keep it.

    Raises:
        StopAsked: the run is not wanted any more.
    """
    while True:
        if (job.folder / STOP).exists():
            raise StopAsked
        device = job.folder.parent / DEVICE_LOCK
        if not is_held(device) and _first_in_line(job):
            with held(device) as free:
                if free:
                    yield
                    return
        time.sleep(POLL)


def _first_in_line(job: Job) -> bool:
    mine = (job.since, job.id)
    others = (Job(path.parent) for path in job.folder.parent.glob("*/state.json") if path.parent != job.folder)
    return all((other.since, other.id) > mine for other in others if other.state == "queued")


def carry_out(job: Job, train: Callable[[], bool]) -> None:
    """Train, and leave word in the run's folder how it ended. For who holds the run's lock.

    Args:
        job: the run.
        train: does it; returns whether it got to the end.
    """
    from train.loop.console import sentence  # heavy

    try:
        job.set_state("running")
        done = train()
        job.set_state("finished" if done else "paused")
    except (StopAsked, KeyboardInterrupt):
        job.set_state("paused")
        raise
    except Exception as error:
        with suppress(OSError):  # where the disk is full it will look interrupted, which it is
            job.set_state("failed", sentence(error) or f"{type(error).__name__}: {error!s:.200}")
        raise
    finally:
        job.settle()


def end_with_folder(job: Job, lock: int, end: Callable[[int], None] = os._exit) -> None:
    """Watch over a run's folder, and end this process once it is not there any more.

    Whoever removes or renames it by hand does not see the process, which would go on, keep the device, and write a
    folder that is no run's.

    Args:
        job: the run.
        lock: descriptor of its lock, whose file tells that the folder is still the same.
        end: is told the exit status.
    """
    mine = os.fstat(lock)
    while True:
        try:
            there = os.stat(job.folder / LOCK)
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            if not (job.folder / ABOUT).exists():  # what has been written there since
                shutil.rmtree(job.folder, ignore_errors=True)
            end(1)
            return
        time.sleep(POLL)


def _stop_asked(number: int, frame: FrameType | None) -> None:
    raise StopAsked


def load_libraries() -> None:
    """Bring into memory what a run needs."""
    gc.disable()  # nothing of it is let go again, and looking for that takes its time
    from train.runs import assemble  # noqa: F401

    gc.freeze()
    gc.enable()


def stand_by(line: socket.socket) -> tuple[Path, int] | None:
    """Get ready, then wait for a run: its folder, and the descriptor of its lock; None where none will come.

    What this process says goes to the run's log from then on.
    """
    load_libraries()
    from diffusers import StableDiffusionPipeline  # noqa: F401  as loading most models would
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    folder, descriptors, *_ = socket.recv_fds(line, 65536, 2)
    if not folder:  # whoever would have sent one is gone
        return None
    lock, log = descriptors
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.close(log)
    return Path(os.fsdecode(folder)), lock


def main() -> None:
    os.nice(NICENESS)
    if sys.argv[1] == STANDING_BY:
        with socket.socket(fileno=int(sys.argv[2])) as line:
            given = stand_by(line)
        if given is None:
            return
        folder, lock = given
    else:
        folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    job = Job(folder)
    os.set_inheritable(lock, False)  # whatever this process starts must not keep the run alive
    signal.signal(signal.SIGTERM, _stop_asked)  # until the trainer has its own
    threading.Thread(target=end_with_folder, args=(job, lock), daemon=True).start()
    try:
        job.set_pid(os.getpid())
        with turn(job):
            job.set_state("running")
            print(f"{NOW}loads its libraries", flush=True)  # seconds, or a minute where nothing is in memory yet
            load_libraries()
            from train.loop.config import load_config
            from train.loop.console import run_command
            from train.runs.assemble import RUNS

            config, train, _ = RUNS[job.about["task"]]
            run_command(
                lambda: carry_out(job, lambda: train(load_config(config, job.folder / "config.json"), job.folder))
            )
    except StopAsked:
        job.set_state("paused")
        job.settle()


if __name__ == "__main__":
    main()
