"""Who may train what here: one's own machine, a studio of several people, a public demo."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from app import space
from app.server.hosts import LOOPBACK
from train.data.datasets import OWN, SHARED, Limits
from yoso_core.requests import DEFAULT_MODEL

ALL = ("quick", "good", "one-step", "controlnet", "lines", "looks")
DEMO = Limits(pictures=20, file_bytes=5_000_000, total_bytes=20_000_000, zip_members=100)
# Where people share a machine, nobody may fill its memory or name its folders.
CEILINGS = {"batch": 64, "rank": 128, "autoencoder_rank": 128, "variants": 8, "preview_steps": 50}
NAMING = ("start_from", "similarity", "clip_model", "tracker", "compile")


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What a studio lets people train; by default nothing.

    Attributes:
        private: whether people see their own runs alone, and can't name folders of this machine.
        limits: of the pictures of a run.
        runs: a person may have.
        bytes: that a person's runs may take on disk.
        steps: of a run.
        minutes: of a run, 0 for as long as it takes.
        ceilings: largest value of other settings.
        hidden: settings that can't be changed, beside those that are asked elsewhere.
        advanced: whether settings can be changed at all.
        models: those that may be trained on; none means all.
        upload: largest file that the server takes, as Gradio writes it.
        uploads: bytes that a visitor may upload in an hour.
        uploads_in_all: bytes that lie on the disk of what was uploaded and made for visitors.
        queue_share: places in the queue that one visitor may take.
        shelf: whether models may be fetched, added and removed.
        presets: those offered; none means that nothing is trained here.
    """

    private: bool = True
    limits: Limits = DEMO
    runs: int = 0
    bytes: int = 0
    steps: int = 0
    minutes: float = 0.0
    ceilings: Mapping[str, int] = field(default_factory=lambda: CEILINGS)
    hidden: Collection[str] = NAMING
    advanced: bool = False
    models: Collection[str] = ()
    upload: str = "20mb"
    uploads: int = 200_000_000
    uploads_in_all: int = 4_000_000_000
    queue_share: int = 8
    shelf: bool = False
    presets: Collection[str] = ()


MODES: dict[str, Mode] = {
    "local": Mode(
        private=False,
        limits=OWN,
        runs=1000,
        bytes=10**13,
        steps=10**9,
        ceilings={},
        hidden=(),
        advanced=True,
        upload="300mb",
        uploads=20_000_000_000,
        uploads_in_all=40_000_000_000,
        queue_share=24,
        shelf=True,
        presets=ALL,
    ),
    "private": Mode(
        limits=SHARED,
        runs=20,
        bytes=5 * 10**9,
        steps=20_000,
        advanced=True,
        upload="100mb",
        uploads=500_000_000,
        presets=ALL,
    ),
    "tiny": Mode(runs=2, bytes=10**8, steps=60, models=(DEFAULT_MODEL,), presets=("quick",)),
    "off": Mode(),
}


def usual_mode(host: str, share: bool) -> str:
    """The name of the mode for an address; a public Space trains nothing."""
    if space.name():
        return "off"
    return "local" if host in LOOPBACK and not share else "private"


def owner_of(token: str, mode: Mode) -> str:
    """What runs say of who began them; the token itself stays in the browser. "" where all runs are one person's."""
    return hashlib.sha256(token.encode()).hexdigest()[:32] if mode.private and token else ""
