"""Settings of a run: one dataclass a task, its fields documented once and shown everywhere.

The command line, the run folder and the weights' metadata all carry the same dataclass.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar


def setting(default: Any, help: str) -> Any:
    """A dataclass field with the sentence that explains it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RunConfig:
    """What every run has, whatever it trains."""

    steps: int = setting(1000, "optimizer steps in all")
    batch: int = setting(64, "pictures a step")
    learning_rate: float = setting(1e-3, "learning rate after the warm-up")
    warmup: int = setting(100, "steps over which the learning rate rises from 0")
    decay: float = setting(0.3, "last part of the run over which the learning rate falls to 0, as a fraction")
    weight_decay: float = setting(1e-2, "AdamW weight decay")
    clip: float = setting(1.0, "largest norm of a gradient")
    ema: float = setting(0.999, "decay of the moving average of the weights")
    seed: int = setting(0, "seed of sample order, noise and initial weights")
    bf16: bool = setting(True, "compute in bfloat16 where that is safe; weights stay in float32")
    compile: bool = setting(False, "compile the networks with torch.compile: a minute at the start, then faster")
    checkpoint_every: int = setting(500, "steps between checkpoints")
    preview_every: int = setting(500, "steps between preview pictures")

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "learning_rate", "clip", "checkpoint_every", "preview_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("decay", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def learning_rate_factor(self, step: int) -> float:
        """Trapezoid: up over `warmup` steps, flat, down over the last `decay` of the run."""
        falling = max(1.0, self.decay * self.steps)
        return min((step + 1) / max(1, self.warmup), 1.0, (self.steps - step) / falling)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)


Config = TypeVar("Config", bound=RunConfig)


def add_arguments(parser: argparse.ArgumentParser, config: type[RunConfig]) -> None:
    """One flag a field, named and explained by the dataclass."""
    for one in dataclasses.fields(config):
        flag = "--" + one.name.replace("_", "-")
        help = f"{one.metadata['help']} (default: {one.default})"
        if isinstance(one.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=one.default, help=help)
        else:
            parser.add_argument(flag, type=type(one.default), default=one.default, help=help)


def from_arguments(config: type[Config], options: argparse.Namespace) -> Config:
    return config(**{one.name: getattr(options, one.name) for one in dataclasses.fields(config)})


def load_config(config: type[Config], path: Path) -> Config:
    """Read a config saved with a run.

    Raises:
        ValueError: a field that `config` does not have, named.
    """
    values = json.loads(path.read_text())
    known = {one.name: one for one in dataclasses.fields(config)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{path} has the unknown field {unknown[0]!r}; known fields: {', '.join(known)}")
    return config(**{name: type(known[name].default)(value) for name, value in values.items()})
