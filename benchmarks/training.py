"""How much of a training step is the networks, and where the time of a short run goes.

    python -m benchmarks.training
    python -m benchmarks.training --preset one-step

Draws thirty pictures by the bundled model and sets up the run that the Train tab would start on them. The calls of its
networks in one step are noted; then steps, and the same calls alone, forward and backward as in the step, take turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.loop.trainer import Trainer
from train.runs import assemble
from train.runs.presets import PRESETS, settings
from yoso_core.condition import Condition
from yoso_core.engine import Engine
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest

THINGS = (
    *("heart", "dog", "cat", "tree", "rocket", "pizza", "apple", "car", "house", "fish", "bird", "star", "moon"),
    *("flower", "boat", "train", "crown", "key", "lamp", "book", "cup", "hat", "shoe", "ball", "bell", "drum"),
    *("gift", "leaf", "rose", "cactus"),
)
WARM_UP = 3  # steps


@dataclass(frozen=True)
class Call:
    """A call of a network within a step, without what led to it."""

    network: nn.Module
    given: tuple[Any, ...]
    named: dict[str, Any]
    trains: bool

    def run(self) -> None:
        with torch.set_grad_enabled(self.trains):
            made = self.network(*self.given, **self.named)
        made = made if isinstance(made, Tensor) else made[0]
        if made.requires_grad:
            made.float().mean().backward()


def alone(value: Any) -> Any:
    """A value without the computation that it came from."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, Condition):
        return value.each(alone)
    return value


@contextmanager
def noted(found: list[Call]) -> Iterator[None]:
    """Meanwhile calls of networks are noted, in their order, but for those that another network makes."""
    call, depth = nn.Module.__call__, 0

    def run(network: nn.Module, *given: Any, **named: Any) -> Any:
        nonlocal depth
        if depth == 0:
            kept = {name: alone(value) for name, value in named.items()}
            found.append(Call(network, tuple(map(alone, given)), kept, torch.is_grad_enabled()))
        depth += 1
        try:
            return call(network, *given, **named)
        finally:
            depth -= 1

    nn.Module.__call__ = run
    try:
        yield
    finally:
        nn.Module.__call__ = call


def draw_pictures(folder: Path) -> None:
    engine = Engine(device="cpu")
    for seed, thing in enumerate(THINGS):
        picture = engine.run(GenerateRequest(f"a {thing}, 3d", seed=seed)).pictures[0]
        picture.resize((128, 128)).save(folder / f"a {thing}.png")


def set_up(name: str, pictures: Path, folder: Path) -> Trainer:
    """The trainer of a preset's run on the bundled model, before its first step."""
    made: list[Trainer] = []
    preset = PRESETS[name]
    config = settings(preset, DEFAULT_MODEL, MODELS[DEFAULT_MODEL], data=str(pictures))
    follow, assemble.follow = assemble.follow, lambda trainer: bool(made.append(trainer))
    try:
        _, train, _ = assemble.RUNS[preset.task]
        train(config, folder)
    finally:
        assemble.follow = follow
    return made[0]


def seconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("quick", "good", "one-step"), default="quick", help="default: quick")
    parser.add_argument("--steps", type=int, default=20, help="timed steps; default 20")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        pictures, folder = Path(place) / "pictures", Path(place) / "run"
        pictures.mkdir()
        draw_pictures(pictures)
        started = time.perf_counter()
        trainer = set_up(options.preset, pictures, folder)
        figures: dict[str, Any] = {"preset": options.preset, "threads": torch.get_num_threads()}
        figures["set_up"] = time.perf_counter() - started

        def step() -> None:
            trainer._train_step()
            trainer.step += 1

        def networks() -> None:
            with trainer._autocast():
                for call in calls:
                    call.run()
            for player in trainer.task.players.values():
                player.module.zero_grad(set_to_none=True)

        calls: list[Call] = []
        with noted(calls):
            step()
        taken = [(seconds(step), seconds(networks)) for _ in range(WARM_UP + options.steps)][WARM_UP:]
        figures["step"], figures["networks"] = (statistics.median(column) for column in zip(*taken, strict=True))
        figures["ratio"] = statistics.median(whole / bare for whole, bare in taken)
        figures["preview"] = statistics.median(seconds(trainer._preview) for _ in range(3))
        figures["checkpoint"] = statistics.median(seconds(trainer._save) for _ in range(3))
    config = trainer.config
    previews, checkpoints = config.steps // config.preview_every + 1, config.steps // config.checkpoint_every
    rows = {
        "setting up: model, pictures, networks": figures["set_up"],
        f"{config.steps} steps of {config.batch} samples": config.steps * figures["step"],
        f"of them the networks alone ({len(calls)} calls a step)": config.steps * figures["networks"],
        f"{previews} previews": previews * figures["preview"],
        f"{checkpoints} checkpoints, with what they hand over": checkpoints * figures["checkpoint"],
    }
    print(f"| {PRESETS[options.preset].title} | seconds |\n| --- | ---: |")
    for what, spent in rows.items():
        print(f"| {what} | {spent:.1f} |")
    print(f"\na step: {1000 * figures['step']:.0f} ms, {figures['ratio']:.2f} times the networks alone")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
