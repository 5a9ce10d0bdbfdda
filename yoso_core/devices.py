"""What to compute on."""

import torch

from yoso_core.requests import RequestError


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
