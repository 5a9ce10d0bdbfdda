"""Settings of a run: one dataclass a task, its fields documented once and shown everywhere.

The command line, the run folder and the weights' metadata all carry the same dataclass.
"""

import argparse
import dataclasses
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A setting that is unknown, impossible or at odds with the run folder, in one sentence."""


def setting(default: Any, help: str, choices: tuple[str, ...] = (), on_resume: bool = False) -> Any:
    """A dataclass field with the sentence that explains it.

    Args:
        default: its value where none is given; a tuple makes a field of several values.
        help: what it does, with its unit.
        choices: the only values it takes, where it is a word.
        on_resume: whether a run may go on with another value: what is learned does not depend on it, or is told apart
            by what it names (paths), or changing it is the point (steps).
    """
    return field(default=default, metadata={"help": help, "choices": choices, "on_resume": on_resume})


def with_defaults(**values: Any) -> Callable[[type], type]:
    """Class decorator, below ``@dataclass``: other defaults for inherited settings, whose type and help stay.

    Raises:
        TypeError: there is no such setting to inherit.
    """

    def change(config: type) -> type:
        inherited: dict[str, dataclasses.Field] = {}
        for base in reversed(config.__mro__):
            inherited |= getattr(base, "__dataclass_fields__", {})
        own = inspect.get_annotations(config)
        for name, value in values.items():
            if name not in inherited:
                raise TypeError(f"{config.__name__} inherits no setting {name}")
            own[name] = inherited[name].type
            setattr(config, name, field(default=value, metadata=inherited[name].metadata))
        config.__annotations__ = own
        return config

    return change


PRECISIONS = ("fp32", "bf16", "fp16")
TRACKERS = ("none", "tensorboard", "trackio")


@dataclass(frozen=True)
class Settings:
    """Named, explained and checked values: the base of every configuration."""

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{one.name} must be a finite number, got {value}")
            if one.metadata["choices"] and value not in one.metadata["choices"]:
                raise ConfigError(f"{one.name} must be one of {', '.join(one.metadata['choices'])}, got {value!r}")

    def _at_least(self, least: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def _at_most(self, most: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) > most:
                raise ConfigError(f"{name} must be at most {most:g}, got {getattr(self, name)}")

    def _above_zero(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")

    def _refuse(self, name: str, why: str) -> NoReturn:
        raise ConfigError(f"{name} = {getattr(self, name)!r} is not possible: {why}")

    def _fraction(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


@dataclass(frozen=True)
class RunConfig(Settings):
    """What every run has, whatever it trains."""

    steps: int = setting(1000, "optimizer steps in all", on_resume=True)
    minutes: float = setting(
        0.0,
        "minutes in which those steps end early, the fall of the learning rate included; 0: no limit",
        on_resume=True,
    )
    batch: int = setting(64, "samples a step, over all processes")
    accumulation: int = setting(
        1, "parts that a process computes its share of a batch in, to save memory", on_resume=True
    )
    learning_rate: float = setting(1e-3, "learning rate after the warm-up")
    warmup: int = setting(100, "steps over which the learning rate rises from 0")
    cooldown: float = setting(0.3, "last part of the run over which the learning rate falls to 0, as a fraction")
    weight_decay: float = setting(1e-2, "AdamW weight decay")
    clip: float = setting(1.0, "largest norm of a gradient")
    ema: float = setting(0.999, "decay of the moving average of the weights")
    seed: int = setting(0, "seed of sample order, noise and initial weights")
    precision: str = setting("bf16", "what the networks compute in; weights stay in float32", PRECISIONS)
    compile: bool = setting(
        False, "compile the networks with torch.compile: minutes at the start, then faster", on_resume=True
    )
    checkpoint_every: int = setting(500, "steps between checkpoints", on_resume=True)
    preview_every: int = setting(500, "steps between preview pictures", on_resume=True)
    tracker: str = setting("none", "where loss terms are plotted, beside events.jsonl", TRACKERS, on_resume=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "steps", "batch", "accumulation", "checkpoint_every", "preview_every")
        self._at_least(0, "minutes", "warmup", "weight_decay", "seed")
        self._at_most(2**63 - 1, "seed")
        self._at_most(10**9, "steps", "checkpoint_every", "preview_every", "warmup")
        self._at_most(10**6, "batch")
        self._above_zero("learning_rate", "clip")
        self._fraction("cooldown", "ema")

    @property
    def sources(self) -> tuple[str, ...]:
        """The folders of pictures that are read."""
        return ()

    def learning_rate_factor(self, step: int, seconds: float = 0.0) -> float:
        """Trapezoid: up over `warmup` steps, flat, down over the last `cooldown` of the steps or of the minutes.

        Args:
            step: steps done.
            seconds: trained so far; they count only where the run has `minutes`.
        """
        falling = max(1.0, self.cooldown * self.steps)
        factor = min((step + 1) / max(1, self.warmup), 1.0, (self.steps - step) / falling)
        if self.minutes and self.cooldown:
            left = 1 - seconds / (60 * self.minutes)
            factor = min(factor, max(left, 0.0) / self.cooldown)
        return factor


Config = TypeVar("Config", bound=Settings)


def add_arguments(parser: argparse.ArgumentParser, config: type[Settings]) -> None:
    """One flag a field, named and explained by the dataclass; what is not given keeps its default."""
    hints = get_type_hints(config)
    for one in dataclasses.fields(config):
        flag, kind = "--" + one.name.replace("_", "-"), hints[one.name]
        options: dict[str, Any] = {"help": f"{one.metadata['help']} (default: {_shown(one.default)})"}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is tuple:
            options |= {"type": get_args(kind)[0], "nargs": "*"}
        else:
            options |= {"type": kind, "choices": one.metadata["choices"] or None}
        parser.add_argument(flag, default=argparse.SUPPRESS, **options)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else "none" if value == "" else str(value)


def from_arguments(config: type[Config], options: argparse.Namespace, start: Config | None = None) -> Config:
    """`start`, or the defaults, with what the flags say instead.

    Raises:
        ConfigError: an impossible value.
    """
    names = {one.name for one in dataclasses.fields(config)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(options).items() if name in names}
    return dataclasses.replace(start or config(), **given)


def parse(config: type[Config], description: str, run: str, arguments: list[str] | None = None) -> tuple[Config, Path]:
    """The command line of one kind of run: ``--run FOLDER``, ``--config FILE`` and a flag a field.

    Args:
        config: its settings.
        description: for ``--help``.
        run: the folder where the run goes if none is named.
        arguments: what was typed; None for the program's own.

    Returns:
        The settings and the run folder.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser, config, run)
    return from_run_arguments(config, parser.parse_args(arguments))


def add_run_arguments(parser: argparse.ArgumentParser, config: type[Settings], run: str) -> None:
    parser.add_argument("--run", type=Path, default=Path(run), help="folder of the run; one that has begun goes on")
    parser.add_argument("--config", type=Path, help="JSON file of settings, such as a run's config.json; flags win")
    add_arguments(parser, config)


def from_run_arguments(config: type[Config], options: argparse.Namespace) -> tuple[Config, Path]:
    start = load_config(config, options.config) if options.config else None
    return from_arguments(config, options, start), options.run


def load_config(config: type[Config], path: Path) -> Config:
    """Read a config saved with a run, or written by hand with some of the fields.

    Raises:
        ConfigError: not JSON, a field that `config` does not have, or a value of another kind; named.
    """
    try:
        values = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_once)
        if not isinstance(values, dict):
            raise ValueError("it is something else")
    except ConfigError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read as a JSON object of settings ({error!s:.80})") from None
    return from_values(config, values, str(path))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"the setting {twice[0]!r} is given twice; keep one")
    return dict(pairs)


def from_values(config: type[Config], values: dict[str, Any], origin: str) -> Config:
    """Make a config of plain JSON values; `origin` says in an error where they came from.

    Raises:
        ConfigError: a field that `config` does not have, or a value of another kind or out of range.
    """
    known, hints = {one.name: one for one in dataclasses.fields(config)}, get_type_hints(config)
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{origin} has the unknown field {unknown[0]!r}; known fields: {', '.join(known)}")
    return config(**{name: _checked(name, value, hints[name], origin) for name, value in values.items()})


def _checked(name: str, value: Any, kind: Any, origin: str) -> Any:
    """`value` as `kind`; 1 passes for 1.0, nothing else for anything else."""
    if get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_checked(name, one, get_args(kind)[0], origin) for one in value)
    elif kind is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    elif type(value) is kind and not (kind is str and not value.isprintable()):
        return value
    wanted = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    raise ConfigError(f"{origin}: {name} must be {wanted.get(getattr(kind, '__name__', ''), 'a list')}, got {value!r}")
