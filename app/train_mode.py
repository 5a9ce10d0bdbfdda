"""Who may train what here: one's own machine, a studio of several people, a public demo."""

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass

from train.datasets import OWN, SHARED, Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Mode:
    """What a studio lets people train.

    Attributes:
        private: whether people see their own runs alone, and can't name folders of this machine.
        limits: of the pictures of a run.
        runs: a person may have.
        bytes: that a person's runs may take on disk.
        steps: of a run.
        advanced: whether every setting can be changed.
        presets: those offered; none means that nothing is trained here.
    """

    private: bool
    limits: Limits
    runs: int
    bytes: int
    steps: int
    advanced: bool
    presets: Collection[str]


ALL = ("quick", "good", "one-step", "controlnet")
MODES: dict[str, Mode] = {
    "local": Mode(False, OWN, 1000, 10**13, 10**9, True, ALL),
    "private": Mode(True, SHARED, 20, 5 * 10**9, 20_000, True, ALL),
    "tiny": Mode(True, Limits(20, 5_000_000, 20_000_000, 100), 2, 10**8, 60, False, ("quick",)),
    "off": Mode(True, SHARED, 0, 0, 0, False, ()),
}


def usual_mode(host: str, share: bool) -> str:
    """The name of the mode for an address; a public Space trains nothing."""
    if os.environ.get("SPACE_ID"):
        return "off"
    return "local" if host in LOOPBACK and not share else "private"


def owner_of(token: str, mode: Mode) -> str:
    """What runs say of who began them; the token itself stays in the browser. "" where all runs are one person's."""
    return hashlib.sha256(token.encode()).hexdigest()[:32] if mode.private and token else ""
