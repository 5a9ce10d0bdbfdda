"""Checkpoints: one folder of safetensors and JSON, written whole or not at all, read back exactly.

``sums.json`` has the checksum of every other file, so that what a disk has changed is never trained on.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.loop.config import ConfigError
from yoso_core.lora.reading import CHECKPOINT_KEY

NAME = re.compile(r"step-\d{7,}")
SUMS = "sums.json"
DAMAGE = (
    OSError,
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
)  # what reading one raises


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value.contiguous() for index, values in state.items() for name, value in values.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    moved = {int(key.split(".")[0]) for key in tensors}  # what never had a gradient has no moments
    for index, parameter in ((index, parameters[index]) for index in sorted(moved)):
        step, moments = tensors[f"{index}.step"], [tensors[f"{index}.{name}"] for name in ("exp_avg", "exp_avg_sq")]
        if any(moment.shape != parameter.shape or not moment.isfinite().all() for moment in moments):
            raise ValueError(f"the moments of parameter {index} do not fit it")
        # In the parameter's memory format, which fused kernels take for granted.
        first, second = (torch.empty_like(parameter).copy_(moment) for moment in moments)
        state[index] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    weights: dict[str, dict[str, Tensor]],
    optimizers: dict[str, torch.optim.Optimizer],
    keep: int = 2,
) -> Path:
    """Write ``folder/step-NNNNNNN`` and remove all but the `keep` newest.

    The folder is written beside its place, flushed and then renamed, and older ones go only after that: at every
    instant at least one whole checkpoint is on disk. Where it can't be written, nothing of it stays. Those of later
    steps go too: they were too damaged to go on from.

    Args:
        folder: holds the checkpoints of one run.
        state: plain values; "step" is the number of steps done.
        weights: tensors by name, by network.
        optimizers: by player.
        keep: how many checkpoints stay.

    Raises:
        OSError, SafetensorError: the disk is full or can't be written to.
    """
    target = folder / f"step-{state['step']:07d}"
    partial = folder / f".partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        for name, tensors in weights.items():
            whole = {key: value.contiguous() for key, value in tensors.items()}
            save_file(whole, partial / f"{name}.safetensors", {CHECKPOINT_KEY: name})
        for name, optimizer in optimizers.items():
            save_file(_optimizer_tensors(optimizer), partial / f"{name}.optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(state))
        (partial / SUMS).write_text(json.dumps({path.name: _sum(path) for path in sorted(partial.iterdir())}))
        for path in [*partial.iterdir(), partial]:
            _flush(path)
        if target.exists():
            _remove(target)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    there = checkpoints(folder)
    place = there.index(target)
    for other in [*there[: max(0, place + 1 - keep)], *there[place + 1 :]]:
        _remove(other)
    return target


def _remove(checkpoint: Path) -> None:
    """Renamed first, so that a half removed one never looks whole."""
    gone = checkpoint.with_name(f".partial-{checkpoint.name}")
    checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _flush(path: Path) -> None:
    """Bring a file or folder to the disk itself, so that a rename never outruns what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints in `folder`, oldest first."""
    whole = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name) and (path / "state.json").exists()]
    return sorted(whole, key=lambda path: int(path.name[len("step-") :]))


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_checkpoint(path: Path) -> None:
    """See whether the files of a checkpoint are as they were written; older ones without checksums are taken as such.

    Raises:
        Exception: one of `DAMAGE`: they are not.
    """
    if not (path / SUMS).exists():
        return
    sums = json.loads((path / SUMS).read_text())
    if not isinstance(sums, dict) or not {"state.json"} <= sums.keys() <= {one.name for one in path.iterdir()}:
        raise ValueError("its files are not those that were written")
    for name, expected in sums.items():
        if _sum(path / name) != expected:
            raise ValueError(f"{name} is not as it was written")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written, or half removed."""
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(
    path: Path, weights: dict[str, dict[str, Tensor]], optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    """Restore everything that `save_checkpoint` wrote, in place, and return its plain values.

    Raises:
        ConfigError: the checkpoint is of another network.
        Exception: one of `DAMAGE`: it can't be read; `verify_checkpoint` finds more.
    """
    state = json.loads((path / "state.json").read_text())
    if f"step-{state['step']:07d}" != path.name:
        raise ValueError(f"it is of step {state['step']}")
    for name, tensors in weights.items():
        found = load_file(path / f"{name}.safetensors")
        shapes = {key: tuple(value.shape) for key, value in found.items()}
        if shapes != {key: tuple(value.shape) for key, value in tensors.items()}:
            raise ConfigError(f"{path} was made by another network; give this run another folder")
        if not all(value.is_floating_point() and value.isfinite().all() for value in found.values()):
            raise ValueError(f"{name} is not finite")
        for key, value in tensors.items():
            value.copy_(found[key])
    for name, optimizer in optimizers.items():
        _restore_optimizer(optimizer, load_file(path / f"{name}.optimizer.safetensors"))
    return state
