"""What a run looks like in a terminal: a progress bar, errors in one sentence, Ctrl-C that loses nothing."""

import io
import signal
import sys
import threading
from collections.abc import Callable

from accelerate import PartialState
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from train.loop.config import ConfigError
from train.loop.trainer import Event, Finished, Preview, Saved, Started, StepDone, Stopped, Trainer, TrainingError
from train.runs.jobs import STOP
from yoso_core.engine import is_out_of_memory
from yoso_core.requests import RequestError

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def follow(trainer: Trainer) -> bool:
    """Run to the end with a progress bar; True if it got there, False if it was stopped on the way.

    SIGINT, SIGTERM, a terminal that is closed and an output that nobody reads any more end the run after the step in
    progress, with a checkpoint. Where signals can't be heard, in a thread, a file in the run's folder does.
    """
    hears = threading.current_thread() is threading.main_thread()
    before = {sign: signal.signal(sign, lambda *_: trainer.stop()) for sign in STOPPING} if hears else {}
    main, steps, event = PartialState().is_main_process, trainer.config.steps, None
    seen = main and sys.stderr.isatty()  # a log file gets lines instead
    try:
        with tqdm(total=steps, unit="step", disable=not seen, dynamic_ncols=True) as bar:
            for event in trainer.run():
                if not hears and (trainer.folder / STOP).exists():
                    trainer.stop()
                if isinstance(event, StepDone):
                    bar.set_postfix_str(f"{event.rate:.0f} samples/s  {_terms(event)}", refresh=False)
                bar.update(event.step - bar.n)
                if not main or (seen and isinstance(event, StepDone)):
                    continue
                try:
                    bar.write(_line(event, trainer)) if seen else print(_line(event, trainer), flush=True)
                except OSError:
                    trainer.stop()
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    return isinstance(event, Finished)


def _terms(event: StepDone) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in event.losses.items())


def _line(event: Event, trainer: Trainer) -> str:
    steps = trainer.config.steps
    match event:
        case Started(step, seconds, memory, disk):
            cost = f"about {duration(seconds)}, {memory / 1e9:.1f} GB of memory, {disk / 1e9:.2f} GB on disk"
            return f"from step {step} to {steps}: {cost} in {trainer.folder}"
        case StepDone(step, _, rate, eta):
            return f"step {step}/{steps}  {rate:.0f} samples/s  {duration(eta)} left  {_terms(event)}"
        case Preview(step, path, figures):
            return f"step {step}: {path}" + "".join(f"  {name} {value:.4f}" for name, value in figures.items())
        case Saved(step, path):
            return f"step {step}: {path}"
        case Stopped(step):
            return f"stopped at step {step}; the same command goes on from there"
        case Finished(step, seconds):
            return f"done: {step} steps, {duration(seconds)}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200)):
        if seconds < most:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"


def run_command(command: Callable[[], None]) -> None:
    """Run a command; what can go wrong for its user is one sentence and exit status 1."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # one bar is enough
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a table must not fail on a terminal that has no arrows
    try:
        command()
    except KeyboardInterrupt:
        sys.exit("stopped before the first step")
    except Exception as error:
        if (told := sentence(error)) is None:
            raise
        sys.exit(f"error: {told}")


def sentence(error: Exception) -> str | None:
    """What went wrong in the user's terms; None for what nobody foresaw."""
    if isinstance(error, (ConfigError, TrainingError, RequestError, OSError)):
        return str(error)
    return "not enough memory; raise accumulation or lower batch" if is_out_of_memory(error) else None
