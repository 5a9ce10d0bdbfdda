"""Training and measuring from the command line.

python -m train yoso --model MODEL --data FOLDER --run runs/mine
accelerate launch -m train yoso --model MODEL --data FOLDER --run runs/mine
python -m train evaluate --model MODEL --weights runs/mine/output/pytorch_lora_weights.safetensors
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import PartialState

from train.loop.config import (
    ConfigError,
    RunConfig,
    add_arguments,
    add_run_arguments,
    from_arguments,
    from_run_arguments,
)
from train.loop.console import run_command
from train.loop.trainer import TRAINER_LOCK
from train.measure.evaluate import EvaluateConfig, evaluate
from train.runs.assemble import RUNS, begin
from train.runs.jobs import LOCK, PATIENCE, Job, held, write_whole
from train.runs.worker import carry_out

SAID = ("job.json", "state.json", "problems.txt")  # what a start writes into a run's folder before it trains
LOCKS = (LOCK, TRAINER_LOCK)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    for name, (config, _, help) in RUNS.items():
        add_run_arguments(commands.add_parser(name, help=help, description=config.__doc__), config, f"runs/{name}")
    measure = commands.add_parser("evaluate", help="measure a model: Fréchet distance, recall, retrieval, seconds")
    add_arguments(measure, EvaluateConfig)
    measure.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main() -> None:
    options = build_parser().parse_args()
    if options.command == "evaluate":
        config = from_arguments(EvaluateConfig, options)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)  # before the minutes of work, not after
        report = evaluate(config, lambda text: print(text, file=sys.stderr))
        if options.json:
            options.json.write_text(report.to_json() + "\n")
        print(report.to_markdown())
    else:
        config, train, _ = RUNS[options.command]
        run(options.command, train, *from_run_arguments(config, options))


def run(task: str, train: Callable[[RunConfig, Path], bool], config: RunConfig, folder: Path) -> None:
    """Train in a folder that says how it stands, so that the studio can follow and go on with it.

    Raises:
        ConfigError: another process trains there, or the settings do not go together, with the data or with the run of
            the folder.
    """
    if not PartialState().is_main_process:
        train(config, folder)
        return
    new = not folder.exists()
    begin(folder, *config.sources)
    job = Job(folder)
    with held(folder / LOCK, PATIENCE) as free:
        if not free:
            raise ConfigError(f"another process trains in {folder}; wait for it or choose another folder")
        with as_it_was(folder, new):
            job.change(**{"title": folder.name, "created": time.time(), "owner": ""} | job.about | {"task": task})
            carry_out(job, lambda: train(config, folder))


@contextmanager
def as_it_was(folder: Path, new: bool) -> Iterator[None]:
    """Where the settings are refused before anything is trained, a run that was there stays, and none is left behind.

    Args:
        folder: of the run, whose lock is held.
        new: whether it was made for this start.
    """
    events = folder / "events.jsonl"  # which only grows
    before, trained = {folder / name: _content(folder / name) for name in SAID}, _length(events)
    try:
        yield
    except ConfigError:
        if _length(events) == trained:
            for path, content in before.items():
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    write_whole(path, content)
            if new:
                for name in LOCKS:
                    (folder / name).unlink(missing_ok=True)
                with suppress(OSError):  # somebody else has put something there
                    folder.rmdir()
        raise


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    run_command(main)
