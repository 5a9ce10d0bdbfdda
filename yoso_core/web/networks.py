"""Networks as ONNX files: small, and so whole that a page needs to know no schedule and no kind of prediction.

Weights are stored as float16 and computed with in float32, which they become when a file is loaded.
"""

import contextlib
import copy
import io
import os
import warnings
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from yoso_core.condition import Condition
from yoso_core.denoiser import Denoiser
from yoso_core.loading import LoadedModel
from yoso_core.requests import RequestError

OPSET = 18
INPUT = "input"  # the page tells inputs by this and their number
INSTALL = "the exporter needs the package onnx; run pip install -r requirements-web.txt (make web does)"


class CleanLatent(nn.Module):
    """noisy (B, C, h, w), t (B,) int64, context (B, L, D), what a ControlNet adds -> the clean latent."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.network, self.family = model.network, model.family
        self.schedule, self.prediction = model.schedule, model.prediction

    def forward(self, noisy: Tensor, t: Tensor, context: Tensor, *residuals: Tensor) -> Tensor:
        predict = partial(self.family.predict, self.network)
        denoise = Denoiser(predict, self.schedule, self.prediction, control=lambda *given: residuals)
        return denoise(noisy, t, Condition(context))


class _Widened(nn.Module):
    def forward(self, half: Tensor) -> Tensor:
        return half.float()


class _ComputesInFloat32:
    dtype = torch.float32


def _store_as_half(network: nn.Module) -> None:
    """Make the weights of a network float16 that become float32 as they are read."""
    for module in list(network.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(weight.detach().half(), requires_grad=False))
            parametrize.register_parametrization(module, name, _Widened(), unsafe=True)
        if hasattr(type(module), "dtype"):  # what is asked for what it computes in, and looks at what is stored
            module.__class__ = type(type(module).__name__, (_ComputesInFloat32, type(module)), {})


def _compute_attention_plainly(network: nn.Module) -> None:
    """Without the scale of float64 that a text encoder's fused attention is given: not every build can read it."""
    for module in network.modules():
        if hasattr(module, "set_attn_implementation"):
            module.set_attn_implementation("eager")


@torch.no_grad()
def write_network(network: nn.Module, inputs: Sequence[Tensor], path: Path) -> list[tuple[int, ...]]:
    """Write an ONNX file of fixed shapes, deflated.

    Args:
        network: called with `inputs`; it is left as it is.
        inputs: of the shapes that it is going to be called with.
        path: ends in ``.onnx.deflate``.

    Returns:
        The shapes of its outputs.

    Raises:
        RequestError: the package `onnx` is not installed.
    """
    try:
        import onnx  # noqa: F401  (the exporter does)
    except ImportError:
        raise RequestError(f"A page can't be exported: {INSTALL}.") from None
    network = copy.deepcopy(network)
    _compute_attention_plainly(network)
    _store_as_half(network)
    outputs = network(*inputs)
    shapes = [tuple(each.shape) for each in (outputs if isinstance(outputs, tuple) else (outputs,))]
    file = io.BytesIO()
    with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        warnings.simplefilter("ignore")  # of checks of shapes, which are fixed, and of the exporter's age
        torch.onnx.export(
            network,
            tuple(inputs),
            file,
            input_names=[f"{INPUT}{index}" for index in range(len(inputs))],  # those that are not read are left out
            dynamo=False,  # the other exporter takes half a minute and two more packages
            opset_version=OPSET,
            do_constant_folding=False,  # it would store the widened weights
        )
    path.write_bytes(zlib.compress(file.getvalue()))
    return shapes
