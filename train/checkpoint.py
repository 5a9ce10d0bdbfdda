"""Checkpoints: one folder of safetensors and JSON, written whole or not at all, read back exactly."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.config import ConfigError


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value.contiguous() for index, values in state.items() for name, value in values.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # in the parameter's memory format, which fused kernels take for granted
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(index), {})[name] = value
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
    instant at least one whole checkpoint is on disk. Where it can't be written, nothing of it stays.

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
            save_file(whole, partial / f"{name}.safetensors")
        for name, optimizer in optimizers.items():
            save_file(_optimizer_tensors(optimizer), partial / f"{name}.optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(state))
        for path in [*partial.iterdir(), partial]:
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _flush(path: Path) -> None:
    """Bring a file or folder to the disk itself, so that a rename never outruns what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written, or half removed."""
    whole = set(checkpoints(folder))
    for path in [*folder.glob(".partial-*"), *(path for path in folder.glob("step-*") if path not in whole)]:
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(
    path: Path, weights: dict[str, dict[str, Tensor]], optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    """Restore everything that `save_checkpoint` wrote, in place, and return its plain values.

    Raises:
        ConfigError: the checkpoint is of another network.
    """
    for name, tensors in weights.items():
        found = load_file(path / f"{name}.safetensors")
        shapes = {key: tuple(value.shape) for key, value in found.items()}
        if shapes != {key: tuple(value.shape) for key, value in tensors.items()}:
            raise ConfigError(f"{path} was made by another network; give this run another folder")
        for key, value in tensors.items():
            value.copy_(found[key])
    for name, optimizer in optimizers.items():
        _restore_optimizer(optimizer, load_file(path / f"{name}.optimizer.safetensors"))
    return json.loads((path / "state.json").read_text())
