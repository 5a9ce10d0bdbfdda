"""Checkpoints: one folder of safetensors and JSON, written whole or not at all, read back exactly."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


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
    step: int,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    keep: int = 2,
) -> Path:
    """Write ``folder/step-NNNNNN`` and remove all but the `keep` newest.

    The folder is written beside its place, flushed and then renamed, and older ones go only after that: at every
    instant at least one whole checkpoint is on disk.
    """
    target = folder / f"step-{step:07d}"
    partial = folder / f".partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, module in modules.items():
        save_file(
            {key: value.contiguous() for key, value in module.state_dict().items()}, partial / f"{name}.safetensors"
        )
    for name, optimizer in optimizers.items():
        save_file(_optimizer_tensors(optimizer), partial / f"{name}.optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step}))
    for path in partial.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def load_checkpoint(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> int:
    """Restore everything that `save_checkpoint` wrote and return the number of steps done."""
    for name, module in modules.items():
        module.load_state_dict(load_file(path / f"{name}.safetensors"))
    for name, optimizer in optimizers.items():
        _restore_optimizer(optimizer, load_file(path / f"{name}.optimizer.safetensors"))
    return json.loads((path / "state.json").read_text())["step"]
