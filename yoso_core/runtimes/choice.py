"""Which runtime there is for a device, and what is taken where the one that was asked for is not here."""

import logging
import threading
from collections.abc import Callable

import torch

from yoso_core.requests import AUTO, RUNTIMES, RequestError
from yoso_core.runtimes import openvino
from yoso_core.runtimes.cuda_graphs import CudaGraphs
from yoso_core.runtimes.openvino import OpenVINO
from yoso_core.runtimes.reference import Runtime, Torch

log = logging.getLogger("yoso_core.runtimes")


def choose_runtime(name: str, device: torch.device, guard: threading.Lock) -> Runtime:
    """The runtime of this name, or torch with a line that says why.

    Args:
        name: a key of `RUNTIMES`, or "auto" for the fastest that is here.
        device: where the networks are.
        guard: the lock under which their weights are changed.

    Raises:
        RequestError: there is no runtime of this name.
    """
    if name not in (AUTO, *RUNTIMES):
        raise RequestError(f"There is no runtime {name!r:.40}; choose {AUTO}, {', '.join(RUNTIMES)}.")
    fitting = [one for one, kind in RUNTIMES.items() if kind == device.type]
    wanted = (fitting[0] if fitting else "torch") if name == AUTO else name
    if wanted == "torch":
        return Torch()
    if wanted not in fitting:
        log.warning(f"{wanted} is for {RUNTIMES[wanted]}, not for {device.type}; torch executes the networks.")
        return Torch()
    if wanted == openvino.NAME and not openvino.is_here():
        log.warning("OpenVINO is not installed, so torch executes the networks, several times slower.")
        return Torch()
    make: Callable[[], Runtime] = CudaGraphs if wanted == "cuda-graphs" else lambda: OpenVINO(guard)
    try:
        return make()
    except Exception as error:  # whatever a library that does not fit this machine raises
        log.warning(f"{wanted} can't be used here ({' '.join(str(error).split())[:120]}); torch executes the networks.")
        return Torch()
