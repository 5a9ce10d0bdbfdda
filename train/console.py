"""What a run looks like in a terminal: a progress bar, errors in one sentence, Ctrl-C that loses nothing."""

import io
import signal
import sys
from collections.abc import Callable

from accelerate import PartialState
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from train.config import ConfigError
from train.trainer import Finished, Preview, Saved, Started, StepDone, Stopped, Trainer, TrainingError
from yoso_core.engine import is_out_of_memory
from yoso_core.requests import RequestError

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def follow(trainer: Trainer) -> bool:
    """Run to the end with a progress bar; True if it got there, False if it was stopped on the way.

    SIGINT, SIGTERM, a terminal that is closed and an output that nobody reads any more end the run after the step in
    progress, with a checkpoint.
    """
    before = {sign: signal.signal(sign, lambda *_: trainer.stop()) for sign in STOPPING}
    main, steps, finished = PartialState().is_main_process, trainer.config.steps, True
    seen = main and sys.stderr.isatty()  # a log file gets lines instead
    try:
        with tqdm(total=steps, unit="step", disable=not seen, dynamic_ncols=True) as bar:
            for event in trainer.run():
                match event:
                    case StepDone(step, losses, rate, eta):
                        terms = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
                        bar.set_postfix_str(f"{rate:.0f} samples/s  {terms}", refresh=False)
                        bar.update(step - bar.n)
                        line = f"step {step}/{steps}  {rate:.0f} samples/s  {_duration(eta)} left  {terms}"
                        line = "" if seen else line
                    case Started(step, seconds, memory, disk):
                        bar.update(step - bar.n)
                        line = (
                            f"from step {step} to {steps}: about {_duration(seconds)}, {memory / 1e9:.1f} GB of "
                            f"memory, {disk / 1e9:.2f} GB on disk in {trainer.folder}"
                        )
                    case Preview(step, path) | Saved(step, path):
                        line = f"step {step}: {path}"
                    case Stopped(step):
                        line = f"stopped at step {step}; the same command goes on from there"
                        finished = False
                    case Finished(step, seconds):
                        line = f"done: {step} steps, {_duration(seconds)}"
                if main and line:
                    try:
                        bar.write(line) if seen else print(line, flush=True)
                    except OSError:
                        trainer.stop()
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    return finished


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def run_command(command: Callable[[], None]) -> None:
    """Run a command; what can go wrong for its user is one sentence and exit status 1."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # one bar is enough
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a table must not fail on a terminal that has no arrows
    try:
        command()
    except (ConfigError, TrainingError, RequestError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped before the first step")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit("error: not enough memory; raise --accumulation or lower --batch")
