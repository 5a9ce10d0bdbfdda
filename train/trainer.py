"""The one training loop: a task says what is learned, the trainer does everything else.

`Trainer.run` is an iterator of events. Whoever drains it prints, plots or stops.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from train.config import RunConfig
from train.data import batch_indices, generator_for
from train.ema import averaged_copy, update_average


@dataclass(frozen=True)
class StepDone:
    step: int  # steps done so far, this one included
    losses: dict[str, float]  # mean of each named term since the last report
    rate: float  # samples a second
    eta: float  # seconds left at this rate


@dataclass(frozen=True)
class Preview:
    step: int
    path: str


@dataclass(frozen=True)
class Saved:
    step: int
    path: str


@dataclass(frozen=True)
class Finished:
    step: int
    seconds: float


Event = StepDone | Preview | Saved | Finished


@dataclass(frozen=True)
class Player:
    """Parameters that one optimizer moves. A GAN has two players, other tasks one."""

    module: nn.Module
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)


class Task(Protocol):
    """What a run learns.

    Attributes:
        players: who is trained, in the order in which they move.
        averaged: names of the players whose moving average is kept.
        sample_count: size of the training set.
    """

    players: dict[str, Player]
    averaged: tuple[str, ...]
    sample_count: int

    def forward(self, indices: Tensor, generator: torch.Generator) -> Any:
        """The passes that all players share, on the samples `indices` (B,), with randomness from `generator` only."""

    def losses(self, player: str, shared: Any) -> dict[str, Tensor]:
        """The named loss terms of one player, weighted, each a scalar; their sum is minimised."""

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """A picture of how far the run is; always of the same samples and seeds."""


class DivergedError(RuntimeError):
    """A loss or a gradient is not finite; no weight has it yet, and the last checkpoint is whole."""


class Trainer:
    """Runs a task in a folder: config.json, events.jsonl, previews/, checkpoints/.

    A run whose folder has a checkpoint goes on from it; sample order and noise depend on (seed, step) alone.
    """

    def __init__(self, task: Task, config: RunConfig, folder: Path) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.averages = {name: averaged_copy(task.players[name].module) for name in task.averaged}
        self.optimizers = {
            name: torch.optim.AdamW(
                [parameter for parameter in player.module.parameters() if parameter.requires_grad],
                lr=player.learning_rate,
                betas=player.betas,
                weight_decay=config.weight_decay,
                fused=True,
            )
            for name, player in task.players.items()
        }
        self.step = 0

    @property
    def _modules(self) -> dict[str, nn.Module]:
        players = {name: player.module for name, player in self.task.players.items()}
        return players | {f"{name}.average": average for name, average in self.averages.items()}

    def resume(self) -> int:
        """Load the newest checkpoint of the folder, if any, and return the steps done."""
        found = checkpoints(self.folder / "checkpoints")
        if found:
            self.step = load_checkpoint(found[-1], self._modules, self.optimizers)
        return self.step

    def run(self) -> Iterator[Event]:
        """Train to the end; yields as it goes.

        Raises:
            DivergedError: a loss became NaN or infinite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        (self.folder / "config.json").write_text(self.config.to_json())
        with open(self.folder / "events.jsonl", "a", buffering=1) as log:
            for event in self._events():
                log.write(json.dumps({"event": type(event).__name__, "time": time.time()} | asdict(event)) + "\n")
                yield event

    def _events(self) -> Iterator[Event]:
        config, started, first = self.config, time.monotonic(), self.step
        if self.step == 0:
            yield self._preview()
        reported, sums, reported_at = self.step, {}, started
        while self.step < config.steps:
            for name, value in self._train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            now = time.monotonic()
            if now - reported_at > 2 or self.step == config.steps:
                done = self.step - reported
                means = {name: value / done for name, value in sums.items()}
                rate = done * config.batch / (now - reported_at)
                yield StepDone(self.step, means, rate, (config.steps - self.step) * config.batch / rate)
                reported, sums, reported_at = self.step, {}, now
            if self.step % config.preview_every == 0 or self.step == config.steps:
                yield self._preview()
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                path = save_checkpoint(self.folder / "checkpoints", self.step, self._modules, self.optimizers)
                yield Saved(self.step, str(path))
        if self.step > first:
            yield Finished(self.step, time.monotonic() - started)

    def _train_step(self) -> dict[str, float]:
        config, task = self.config, self.task
        indices = batch_indices(task.sample_count, config.batch, config.seed, self.step)
        values: dict[str, float] = {}
        with self._precision(next(iter(task.players.values()))):
            shared = task.forward(indices, generator_for(config.seed, 1, self.step))
        for name, player in task.players.items():
            with self._precision(player):
                terms = task.losses(name, shared)
            optimizer = self.optimizers[name]
            optimizer.zero_grad(set_to_none=True)
            sum(terms.values()).backward()
            values |= {term: value.item() for term, value in terms.items()}
            if bad := [term for term, value in values.items() if not math.isfinite(value)]:
                raise DivergedError(
                    f"the loss term {bad[0]} is {values[bad[0]]} at step {self.step}; lower learning_rate"
                )
            norm = torch.nn.utils.clip_grad_norm_(player.module.parameters(), config.clip)
            if not norm.isfinite():
                raise DivergedError(f"the gradient of {name} is not finite at step {self.step}; lower learning_rate")
            for group in optimizer.param_groups:
                group["lr"] = player.learning_rate * config.learning_rate_factor(self.step)
            optimizer.step()
        for name, average in self.averages.items():
            update_average(average, task.players[name].module, config.ema, self.step)
        return values

    def _precision(self, player: Player) -> torch.autocast:
        device = next(player.module.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.bf16)

    def _preview(self) -> Preview:
        path = self.folder / "previews" / f"{self.step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            self.task.preview(self.averages).save(path)
        return Preview(self.step, str(path))


def drain(trainer: Trainer) -> None:
    """Run to the end and print a line a report: what the command line does."""
    for event in trainer.run():
        match event:
            case StepDone(step, losses, rate, eta):
                terms = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
                print(
                    f"step {step}/{trainer.config.steps}  {rate:.0f} samples/s  {eta / 60:.1f} min left  {terms}",
                    flush=True,
                )
            case Preview(step, path) | Saved(step, path):
                print(f"step {step}: {path}", flush=True)
            case Finished(step, seconds):
                print(f"done: {step} steps, {seconds / 60:.1f} min", flush=True)
