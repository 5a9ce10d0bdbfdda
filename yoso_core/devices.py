"""What to compute on, and what room there is."""

from collections.abc import Iterable

import psutil
import torch
from torch import nn

from yoso_core.requests import RequestError

REST = torch.device("cpu")  # where networks are that a device has no room for


def device_named(name: str | None = None) -> torch.device:
    """The device that somebody named, tried out; the best there is where nobody did.

    Raises:
        RequestError: there is none of that name, or it can't be used here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"There is no device {name!r:.40}; write cpu, cuda, cuda:1 or mps.") from None
    try:
        torch.ones(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):  # each backend has its own
        raise RequestError(f"The device {name!r:.40} can't be used on this machine; leave --device out.") from None
    return device


def free_memory(device: torch.device) -> int:
    """Bytes; of a GPU also those that torch has taken and nothing is in."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def bytes_of(networks: Iterable[nn.Module]) -> int:
    """Of their weights; what two of them share counts once."""
    weights = {id(each): each for one in networks for each in (*one.parameters(), *one.buffers())}
    return sum(each.numel() * each.element_size() for each in weights.values())
