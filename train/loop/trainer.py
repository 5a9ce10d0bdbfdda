"""The one training loop: a task says what is learned, the trainer does everything else.

`Trainer.run` is an iterator of events. Whoever drains it prints, plots or stops.
"""

import dataclasses
import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from train.loop.checkpoint import (
    DAMAGE,
    checkpoints,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
    verify_checkpoint,
)
from train.loop.config import ConfigError, RunConfig
from train.loop.ema import Average
from train.loop.randomness import Draws, batch_indices

TRAINER_LOCK = "lock"  # a file that whoever trains in a folder holds
AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BUCKET = 25_000_000  # gradient elements that processes exchange at once
SKIPS_ALLOWED = 20  # fp16 steps in a row that may overflow while the loss scale settles
EXPLOSION = 1000.0  # the loss has diverged when its running mean is this many times what it was at the start


@dataclass(frozen=True)
class Started:
    step: int  # steps done before
    seconds: float  # expected for the rest, from a step tried out without moving any weight
    memory: int  # bytes, peak of this process so far and what the optimizers will add
    disk: int  # bytes that the checkpoints will take


@dataclass(frozen=True)
class StepDone:
    step: int  # steps done so far, this one included
    losses: dict[str, float]  # mean of each named term, and of what is watched, since the last report
    rate: float  # samples a second
    eta: float  # seconds left at this rate


@dataclass(frozen=True)
class Preview:
    step: int
    path: str
    figures: dict[str, float] = field(default_factory=dict)  # what was measured, by name


@dataclass(frozen=True)
class Saved:
    step: int
    path: str


@dataclass(frozen=True)
class Stopped:
    step: int  # saved; the same command goes on from here


@dataclass(frozen=True)
class Finished:
    step: int
    seconds: float


Event = Started | StepDone | Preview | Saved | Stopped | Finished


@dataclass(frozen=True)
class Player:
    """Parameters that one optimizer moves. A GAN has two players, other tasks one.

    Attributes:
        module: on the device where it is trained; what requires a gradient when the trainer is made is trained.
        learning_rate: after the warm-up.
        betas: of AdamW.
        weight_decay: of AdamW; None takes the run's.
        clip: largest norm of its gradient, infinite for none; None takes the run's.
    """

    module: nn.Module
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float | None = None
    clip: float | None = None


class Losses(NamedTuple):
    """What one player minimises, and what only tells how it goes: scalars, means over the samples given."""

    minimised: dict[str, Tensor]
    watched: dict[str, Tensor] = {}  # noqa: RUF012


class Task(Protocol):
    """What a run learns.

    Attributes:
        players: who is trained, in the order in which their losses are computed.
        averaged: names of the players whose moving average is kept.
        sample_count: size of the training set.
        repeats: (sample_count,) int64, how often an epoch sees each sample; None for all equally often.
        fingerprint: short text that is another for other data or another base model.
    """

    players: dict[str, Player]
    averaged: tuple[str, ...]
    sample_count: int
    repeats: Tensor | None
    fingerprint: str

    def forward(self, indices: Tensor, draws: Draws) -> Any:
        """The passes that all players share, on the samples `indices` (B,), with randomness from `draws` only."""

    def losses(self, player: str, shared: Any) -> Losses:
        """The terms of one player, weighted; their sum is minimised. Gradients must reach no other player."""

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """A picture of how far the run is; always of the same samples and seeds."""


class TrainingError(RuntimeError):
    """A run that can't go on, in one sentence; its last checkpoint is whole."""


class DivergedError(TrainingError):
    """A loss or a gradient is not finite, or has exploded; no weight on disk has it."""


@dataclass
class _Watch:
    """Tells an exploding loss from a noisy one: a running mean against the mean of the first steps."""

    start: float = 0.0
    mean: float = 0.0
    count: int = 0
    warmup: int = 20

    def exploded(self, loss: float) -> bool:
        self.count += 1
        if self.count <= self.warmup:
            self.start += abs(loss) / self.warmup
            self.mean = self.start
            return False
        self.mean = 0.9 * self.mean + 0.1 * abs(loss)
        return self.mean > EXPLOSION * max(self.start, 1e-3)


@dataclass
class _Report:
    """Sums of loss terms since the last report."""

    step: int
    at: float
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


class Trainer:
    """Runs a task in a folder: config.json, events.jsonl, previews/, checkpoints/.

    A run whose folder has a checkpoint goes on from it; sample order and noise depend on (seed, step) alone, so it
    goes on exactly. Under ``accelerate launch`` each process computes its rows of the same batch with its rows of the
    same noise and the gradients are added up: how many processes there are, or rounds of accumulation, changes
    nothing but the order of a sum. All processes read the run's folder, so nodes have to share it.

    Args:
        task: what is learned.
        config: how.
        folder: of the run.
        hand_over: called by the main process before each checkpoint, the last one included, to write the averages so
            that they can be used: whatever becomes of the run, what it had learned by then is there.
        measure: called by the main process at each preview with the averages; figures by name.

    Raises:
        ConfigError: the folder holds another run, or `config` does not go with the processes there are.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        folder: Path,
        hand_over: Callable[["Trainer"], None] = lambda trainer: None,
        measure: Callable[[dict[str, nn.Module]], dict[str, float]] = lambda averages: {},
    ) -> None:
        self.measure = measure
        self.task, self.config, self.folder, self.hand_over = task, config, Path(folder), hand_over
        self.processes = PartialState()
        self.device = next(next(iter(task.players.values())).module.parameters()).device
        parts = self.processes.num_processes * config.accumulation
        if config.batch < parts:
            raise ConfigError(
                f"batch is {config.batch}, too few for {parts} parts (processes times accumulation); raise it"
            )
        self.trained = {
            name: {key: value for key, value in player.module.named_parameters() if value.requires_grad}
            for name, player in task.players.items()
        }
        self._averages = {name: Average(task.players[name].module, self.trained[name]) for name in task.averaged}
        self.averages = {name: average.network for name, average in self._averages.items()}
        self.optimizers = {
            name: torch.optim.AdamW(
                self.trained[name].values(),
                lr=player.learning_rate,
                betas=player.betas,
                weight_decay=config.weight_decay if player.weight_decay is None else player.weight_decay,
                fused=True,
            )
            for name, player in task.players.items()
        }
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.step, self.skipped = 0, 0
        self.seconds = 0.0  # trained so far, in this call and those before
        self.watches = {name: _Watch() for name in task.players}
        self._stop = False

    @property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds: the trained parameters of each player and their moving averages."""
        found = {name: {key: value.data for key, value in named.items()} for name, named in self.trained.items()}
        for name, average in self.averages.items():
            parameters = dict(average.named_parameters())
            found[f"{name}.average"] = {key: parameters[key].data for key in self.trained[name]}
        return found

    def resume(self) -> int:
        """Load the newest checkpoint of the folder that is whole, if there is any, and return the steps done.

        Raises:
            ConfigError: all are damaged; or it is of another run: other settings, other data, another base model or
                network.
        """
        found = checkpoints(self.folder / "checkpoints")
        for path in reversed(found):
            try:
                verify_checkpoint(path)
                self._check_identity(path)
                state = load_checkpoint(path, self.weights, self.optimizers)
                self.scaler.load_state_dict(state["scaler"])
                self.step, self.seconds = int(state["step"]), float(state.get("seconds", 0.0))
                break
            except ConfigError:
                raise
            except DAMAGE as error:
                damage = f"the checkpoint {path.name} is damaged ({str(error).replace(str(path), path.name):.120})"
                if self.processes.is_main_process:
                    print(f"{damage}; trying the one before", flush=True)
        if found and not self.step:
            raise ConfigError(f"{damage}, as are all others of this run; begin a new one with the same data")
        if self._over_all(self.step, "mean") != self.step:
            raise ConfigError(f"not every process finds the same checkpoints in {self.folder}; nodes have to share it")
        return self.step

    def _over_all(self, value: float, kind: str) -> float:
        """A number of every process, as their mean or sum."""
        if self.processes.num_processes == 1:
            return value
        return reduce(torch.tensor(float(value), device=self.device), kind).item()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        fixed = [one.name for one in dataclasses.fields(self.config) if not one.metadata["on_resume"]]
        settings = {name: getattr(self.config, name) for name in fixed}
        return {"task": type(self.task).__name__, "data and base model": self.task.fingerprint} | settings

    def _check_identity(self, checkpoint: Path) -> None:
        # JSON knows no tuples, so both sides are compared as it writes them.
        # A setting that came later is what it was without it.
        defaults = {one.name: one.default for one in dataclasses.fields(self.config) if not one.metadata["on_resume"]}
        before = json.loads(json.dumps(defaults)) | json.loads((checkpoint / "state.json").read_text())["identity"]
        now = json.loads(json.dumps(self._identity()))
        for name in now | before:  # in this order: what it is of, then its settings
            if before.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.folder} holds a run with {name} = {before.get(name)!r}, not {now.get(name)!r}; "
                    "give this run another folder, or go on with the settings of that one"
                )

    def stop(self) -> None:
        """End after the step in progress, with a checkpoint. For signal handlers and buttons."""
        self._stop = True

    def run(self) -> Iterator[Event]:
        """Train to the end; yields as it goes. Only the main process writes.

        Raises:
            ConfigError: see `resume`; or another process is training in this folder.
            TrainingError: a loss diverged, or the disk is full.
        """
        if not self.processes.is_main_process:
            self.resume()
            yield from self._events()
            return
        with self._locked():
            self.resume()
            with closing(_Log(self.config, self.folder)) as log:
                for event in self._events():
                    log.write(event)
                    yield event

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The run's folder, made and kept for this process alone."""
        lock = FileLock(self.folder / TRAINER_LOCK)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)  # let go by the system when the process dies, however it dies
            except Timeout:
                raise ConfigError(f"another process trains in {self.folder}; wait for it or choose another") from None
            if (self.folder / "checkpoints").exists() and not (self.folder / "events.jsonl").exists():
                raise ConfigError(f"{self.folder} holds checkpoints of something else; choose another folder")
            remove_leftovers(self.folder / "checkpoints")
        try:
            yield
        finally:
            lock.release()

    def _events(self) -> Iterator[Event]:
        config = self.config
        self._share_weights()
        first, before = self.step, self.seconds
        if first >= config.steps or self._time_is_up():
            if self.processes.is_main_process:
                with writing(self.folder):
                    self.hand_over(self)
            yield Finished(first, 0.0)
            return
        if first == 0:
            yield self._preview()
        yield self._estimate()
        started = time.monotonic()
        report = _Report(self.step, started)
        last = False
        while not last:
            report.add(self._train_step())
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - started
            last = self.step == config.steps or self._time_is_up()
            if now - report.at > 2 or last:
                done = self.step - report.step
                rate = done * config.batch / (now - report.at)
                means = {name: value / done for name, value in report.sums.items()}
                eta = (config.steps - self.step) * config.batch / rate
                if config.minutes:
                    eta = min(eta, max(60 * config.minutes - self.seconds, 0.0))
                yield StepDone(self.step, means, rate, eta)
                report = _Report(self.step, now)
            stop = self._over_all(self._stop, "sum") > 0 and not last  # a signal may reach one process first
            if self.step % config.preview_every == 0 or last:
                yield self._preview()
            if self.step % config.checkpoint_every == 0 or last or stop:
                yield self._save()
            if stop:
                yield Stopped(self.step)
                return
        yield Finished(self.step, time.monotonic() - started)

    def _time_is_up(self) -> bool:
        """Whether the run's minutes are over; all processes agree."""
        limit = 60 * self.config.minutes
        return limit > 0 and self._over_all(self.seconds, "mean") >= limit

    def _parts(self) -> list[slice]:
        """The rows of the batch that this process computes, a slice for each round of accumulation."""
        rounds, batch = self.config.accumulation, self.config.batch
        parts = self.processes.num_processes * rounds
        first = self.processes.process_index * rounds
        return [slice(batch * part // parts, batch * (part + 1) // parts) for part in range(first, first + rounds)]

    def _gradients(self) -> dict[str, dict[str, float]]:
        """Add up the gradients of every player over the whole batch; returns the terms of each player.

        All players look at the weights as they were before the step, so that neither the number of parts nor their
        order matters.
        """
        config, device = self.config, self.device
        indices = batch_indices(self.task.sample_count, config.batch, config.seed, self.step, self.task.repeats)
        terms: dict[tuple[str, str], Tensor] = {}
        for rows in self._parts():
            share = (rows.stop - rows.start) / config.batch
            with self._autocast():
                draws = Draws(config.seed, self.step, config.batch, rows, device)
                shared = self.task.forward(indices[rows], draws)
            for name in self.task.players:
                with self._autocast():
                    minimised, watched = self.task.losses(name, shared)
                self.scaler.scale(share * sum(minimised.values())).backward()
                for term, value in (minimised | watched).items():
                    terms[name, term] = terms.get((name, term), 0.0) + share * value.detach().float()
        if self.processes.num_processes > 1:
            for named in self.trained.values():
                _add_up_gradients(list(named.values()))
        stacked = torch.stack(list(terms.values()))
        if self.processes.num_processes > 1:
            stacked = reduce(stacked, "sum")
        values: dict[str, dict[str, float]] = {name: {} for name in self.task.players}
        for (name, term), value in zip(terms, stacked.tolist(), strict=True):
            values[name][term] = value
        return values

    def _train_step(self) -> dict[str, float]:
        config = self.config
        values = self._gradients()
        for name, terms in values.items():
            for term, value in terms.items():
                if not math.isfinite(value):
                    raise DivergedError(f"{term} is {value} at step {self.step}; lower learning_rate")
            if self.watches[name].exploded(sum(terms.values())):
                raise DivergedError(f"the loss of {name} has exploded by step {self.step}; lower learning_rate")
        finite = True
        for name, optimizer in self.optimizers.items():
            player = self.task.players[name]
            self.scaler.unscale_(optimizer)
            limit = config.clip if player.clip is None else player.clip
            norm = torch.nn.utils.clip_grad_norm_(self.trained[name].values(), limit)
            if not norm.isfinite():
                finite = False
                if not self.scaler.is_enabled():
                    raise DivergedError(f"the gradient of {name} is {norm} at step {self.step}; lower learning_rate")
            for group in optimizer.param_groups:
                group["lr"] = player.learning_rate * config.learning_rate_factor(self.step, self.seconds)
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped > SKIPS_ALLOWED:
            raise DivergedError(
                f"{self.skipped} steps in a row overflowed by step {self.step}; use bf16 instead of fp16"
            )
        for average in self._averages.values():
            average.update(config.ema, self.step)
        return {term: value for terms in values.values() for term, value in terms.items()}

    def _estimate(self) -> Started:
        """Compute the gradients of the next step twice and throw them away: the second time is what a step takes."""
        for _ in range(2):
            started = time.monotonic()
            self._gradients()
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            seconds = time.monotonic() - started
        moments = sum(8 * value.numel() for named in self.trained.values() for value in named.values())
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        one = moments + sum(4 * value.numel() for named in self.weights.values() for value in named.values())
        disk = 3 * one  # two are kept while a third is written
        if self.processes.is_main_process:
            missing = disk - one * len(checkpoints(self.folder / "checkpoints"))
            free = shutil.disk_usage(self.folder).free
            if free < missing:
                raise TrainingError(
                    f"the checkpoints take {missing / 1e9:.2f} GB more and {self.folder} has {free / 1e9:.2f} GB free; "
                    "make room or choose another folder"
                )
        return Started(self.step, seconds * (self.config.steps - self.step), peak + moments, disk)

    def _share_weights(self) -> None:
        """Every process starts from the weights of the main one."""
        if self.processes.num_processes > 1:
            for named in self.weights.values():
                for value in named.values():
                    value.copy_(broadcast(value.contiguous(), from_process=0))

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST[self.config.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _save(self) -> Saved:
        path = self.folder / "checkpoints"
        if self.processes.is_main_process:
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "identity": self._identity(),
                "scaler": self.scaler.state_dict(),
            }
            with writing(self.folder):
                self.hand_over(self)
                path = save_checkpoint(path, state, self.weights, self.optimizers)
        self.processes.wait_for_everyone()
        return Saved(self.step, str(path))

    def _preview(self) -> Preview:
        path, figures = self.folder / "previews" / f"{self.step:07d}.png", {}
        if self.processes.is_main_process:
            with torch.no_grad():
                with self._autocast():  # seven previews in float32 are a tenth of a short run
                    picture = self.task.preview(self.averages)
                figures = self.measure(self.averages)
            with writing(self.folder):
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
        self.processes.wait_for_everyone()
        return Preview(self.step, str(path), figures)


def _add_up_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, many small ones in one message."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    while gradients:
        bucket, size = [], 0
        while gradients and (not bucket or size + gradients[-1].numel() <= BUCKET):
            bucket.append(gradients.pop())
            size += bucket[-1].numel()
        total = reduce(torch.cat([gradient.flatten() for gradient in bucket]), "sum")
        for gradient, part in zip(bucket, total.split([one.numel() for one in bucket]), strict=True):
            gradient.copy_(part.view(gradient.shape))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What is written into a run's folder: a disk that takes no more becomes one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TrainingError(
            f"{folder} can't be written to ({reason:.120}); make room, then give the same command again: it goes on "
            "from the last checkpoint"
        ) from error


class _Log:
    """What a run leaves on record: config.json, a line of events.jsonl an event, and curves in a tracker."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.folder, self.tracker = folder, _tracker(config, folder)
        with writing(folder):
            (folder / "config.json").write_text(config.to_json())
            path = folder / "events.jsonl"
            before = path.read_bytes() if path.exists() else b""
            self.file = open(path, "a", buffering=1)  # noqa: SIM115
            if before and not before.endswith(b"\n"):  # a killed run may have left half a line
                self.file.write("\n")

    def write(self, event: Event) -> None:
        record = {"event": type(event).__name__, "time": time.time()} | asdict(event)
        with writing(self.folder):
            self.file.write(json.dumps(record) + "\n")
        if self.tracker and isinstance(event, StepDone):
            self.tracker.log(event.losses, step=event.step)
        if self.tracker and isinstance(event, Preview) and event.figures:
            self.tracker.log(event.figures, step=event.step)

    def close(self) -> None:
        with writing(self.folder):
            self.file.close()
        if self.tracker:
            self.tracker.finish()


def _tracker(config: RunConfig, folder: Path):
    """An accelerate tracker, or None."""
    from accelerate.tracking import TensorBoardTracker, TrackioTracker  # they import what they need when they start

    if config.tracker == "none":
        return None
    try:
        if config.tracker == "tensorboard":
            tracker = TensorBoardTracker(config.tracker, logging_dir=folder)
        else:
            tracker = TrackioTracker(folder.name)
        tracker.start()
    except ImportError:
        raise ConfigError(f"{config.tracker} is not installed: pip install {config.tracker}") from None
    return tracker
