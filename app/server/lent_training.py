"""Training where a GPU is lent: a run of a minute in one call, because no process but the call's has the GPU.

The run's folder is written as ever, so that the page follows it as it follows all others. Who stops listening, or
presses Pause, pauses the run; a call that takes too long leaves it interrupted. It goes on in another call.
"""

from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Thread

from app.server.zero import in_sentences, on_gpu
from train.runs.jobs import KEEP, LOCK, PATIENCE, STOP, Job, held

MINUTES = 1.0  # of a run
AROUND = 40  # seconds for what is read before and written after them
EVERY = 1.0  # seconds between looks at the run


class LentTraining:
    """Trains runs, each in a call of its own."""

    minutes = MINUTES

    def __init__(self) -> None:
        self._there = on_gpu(train_there, lambda folder: round(60 * MINUTES) + AROUND)

    def run(self, job: Job) -> Iterator[None]:
        """Train a run to its end; yields now and then. Closing it pauses the run.

        Raises:
            PictureError: the platform lends no GPU for it.
        """
        with in_sentences(), closing(self._there(job.folder)) as looks:
            yield from looks


def train_there(folder: Path) -> Iterator[None]:
    """In the process that has the GPU: train in a thread, until it is through or nobody listens any more."""
    from train.loop.config import load_config  # seconds to import, as the next two
    from train.runs.assemble import RUNS
    from train.runs.worker import carry_out

    job = Job(folder)
    config, train, _ = RUNS[job.about["task"]]

    def work() -> None:
        with open(folder / "log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
            carry_out(job, lambda: train(load_config(config, folder / "config.json"), folder))

    with held(folder / LOCK, PATIENCE) as free:
        if not free:  # another page was faster
            return
        for wish in (STOP, KEEP):
            (folder / wish).unlink(missing_ok=True)
        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(EVERY)
                yield
        finally:
            if thread.is_alive():
                (folder / STOP).touch()
            thread.join()
