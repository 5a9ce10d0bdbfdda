"""What a model needs of a hub: which of it is on this machine, and bringing the rest."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from yoso_core import cached, hub
from yoso_core.cached import Need
from yoso_core.checkpoints import ModelError, Source
from yoso_core.families import FAMILIES
from yoso_core.models import CONVERTED_FOLDER, ModelSpec

TOLD_EVERY = 5.0  # seconds
PICKLE = ".bin"  # a network in such a file is converted when it is fetched


def parts_of(spec: ModelSpec) -> list[Need]:
    """What a model is made of that a hub has, be it on this machine or not."""
    wanted: list[tuple[Any, ...]] = [(spec.title, spec.source, spec.variant, elsewhere(spec))]
    if spec.network is not None:
        wanted.append((f"The network of {spec.title}", spec.network))
    if spec.tiny_decoder is not None:
        wanted.append((f"The fast decoder of {spec.title}", spec.tiny_decoder))
    parts = needed(wanted)
    if spec.lora is not None and spec.lora_source is not None:
        title, made = f"The one-step LoRA of {spec.title}", {"convert": "lora", "out": spec.lora}
        parts.append(Need(title, spec.lora_source.place, spec.lora_source.revision, inside=spec.lora_file, **made))
    return parts


def needs_of(spec: ModelSpec) -> list[Need]:
    """What a model needs of a hub that is not on this machine.

    Raises:
        ModelError: its LoRA has to be brought by hand first, so there is no use in fetching the rest.
    """
    if spec.lora_source is None:
        refuse_missing_lora(spec)
    return [need for need in parts_of(spec) if cached.find(need) is None]


def need_of(title: str, source: Source, variant: str | None = None, without: tuple[str, ...] = ()) -> Need | None:
    """What a source is to a hub, but for the weights of some parts; None for a folder."""
    if source.is_folder:
        return None
    made = {}
    if source.inside.endswith(PICKLE):
        out = CONVERTED_FOLDER / f"{Path(source.inside).stem}.safetensors"
        made = {"convert": "network", "out": out}
    return Need(title, source.place, source.revision, variant, source.inside, without, **made)


def needed(wanted: Iterable[tuple[Any, ...]]) -> list[Need]:
    """What a hub has of sources, each as `need_of` takes it."""
    return [need for one in wanted if (need := need_of(*one)) is not None]


def missing(wanted: Iterable[tuple[Any, ...]]) -> list[Need]:
    """What of that is not on this machine."""
    return [need for need in needed(wanted) if cached.find(need) is None]


def elsewhere(spec: ModelSpec) -> tuple[str, ...]:
    """The part whose weights are not in `source`."""
    return (FAMILIES[spec.architecture].network,) if spec.network is not None else ()


def refuse_missing_lora(spec: ModelSpec) -> None:
    if spec.lora is not None and not spec.lora.exists():
        raise ModelError(f"{spec.title} needs its one-step LoRA: {spec.lora} is missing.")


def fetch_model(spec: ModelSpec, report: Callable[[str], None] = lambda message: None) -> None:
    """Bring what a model needs of a hub to this machine.

    Raises:
        HubError, ModelError: it can't be had.
    """
    for need in needs_of(spec):
        fetch_need(need, report)


def fetch_need(need: Need, report: Callable[[str], None]) -> None:
    """Bring one thing to this machine, and tell now and then how far it is."""
    told, progress = -TOLD_EVERY, hub.Progress()
    for progress in hub.fetch(need):
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            report(f"Fetching {need.title}: {progress}")
    report(f"Fetched {need.title}: {progress}")


def local_source(title: str, source: Source, variant: str | None = None, without: tuple[str, ...] = ()) -> Source:
    """A source that is a folder, or where on this machine a hub's is, but for the weights of some parts.

    Raises:
        ModelError: it has not been fetched.
    """
    need = need_of(title, source, variant, without)
    if need is None:
        return source
    if (folder := cached.find(need)) is None:
        raise ModelError(f"{title} is not on this machine, or not all of it; fetch {source.place} from the hub first.")
    return Source(str(folder), inside="" if need.convert else source.inside)
