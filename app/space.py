"""The studio on a Hugging Face Space: where it runs, and which models it offers there."""

import os
from collections.abc import Callable, Mapping

from yoso_core.models import ModelSpec
from yoso_core.needs import fetch_model
from yoso_core.requests import DEFAULT_MODEL, RequestError

# What a Space offers, with a GPU and without one; its page opens with the first. Everything of these that is on a hub
# stands in `preload_from_hub` in the README's head, by which it is there when the Space starts.
WITH_GPU = ("sd-turbo", DEFAULT_MODEL)
WITHOUT = (DEFAULT_MODEL,)


def name() -> str:
    """OWNER/NAME of the Space that this is; "" where it is none."""
    return os.environ.get("SPACE_ID", "")


def lends_gpu() -> bool:
    """Whether it is a ZeroGPU Space, by the platform's own word."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def offered(
    known: Mapping[str, ModelSpec], gpu: bool, report: Callable[[str], None] = lambda message: None
) -> dict[str, ModelSpec]:
    """The models of a Space, brought to this machine; those that can't be are left out.

    Args:
        known: all models.
        gpu: whether there is one.
        report: told what is happening, and what is left out.
    """
    found = {}
    for model in WITH_GPU if gpu else WITHOUT:
        try:
            fetch_model(known[model], report)
        except RequestError as error:
            report(f"Without {known[model].title}: {error}")
        else:
            found[model] = known[model]
    return found
