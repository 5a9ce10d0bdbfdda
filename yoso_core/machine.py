"""What this machine has room for, and how fast it computes: what is told of a model before it is fetched."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from yoso_core.files.archives import amount

CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may take; absent or "max" where that is not limited
CHANNELS, SIDE = 320, 64  # of the probe: the widest convolution of Stable Diffusion at its largest picture
TRIES = 5
PER_PIXEL = 4_000  # bytes that a picture takes in its making beside the weights, see docs/models.md
TIGHT = 0.9  # of all memory; the rest is the system's


@dataclass(frozen=True)
class Room:
    """Bytes.

    Attributes:
        disk: free where models are kept.
        memory, free: all that networks may take where they are computed, and what of it is free now.
        where: "memory" or "GPU memory".
    """

    disk: int
    memory: int
    free: int
    where: str


@dataclass(frozen=True)
class Fit:
    """Whether something fits.

    Attributes:
        level: "fits", "tight" or "no".
        why: in words.
    """

    level: str
    why: str


def room(folder: Path, device: torch.device) -> Room:
    """What there is now.

    Args:
        folder: where models are kept; it need not be there yet.
        device: where networks are computed.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    disk = _round(shutil.disk_usage(there).free)
    if device.type == "cuda":
        free, memory = torch.cuda.mem_get_info(device)
        return Room(disk, memory, _round(free), "GPU memory")
    told = psutil.virtual_memory()
    try:
        limit = min(told.total, int(CGROUP.read_text()))
    except (OSError, ValueError):
        limit = told.total
    return Room(disk, limit, _round(min(limit, told.available)), "memory")


def _round(free: int) -> int:
    """Down to 100 MB, so that what people read stands still."""
    return free // 10**8 * 10**8


def judge(room: Room, disk: int, memory: int, spare: int, least: int | None = None) -> Fit:
    """Whether something fits this machine.

    Args:
        room: of it.
        disk: bytes that it takes until it is here, more than come where they are converted.
        memory: bytes that it takes at work.
        spare: bytes of the disk that stay free.
        least: bytes with which it works, too, but slower; None where there is no such way.
    """
    if disk + spare > room.disk:
        free = amount(max(0, room.disk - spare))
        return Fit("no", f"takes {amount(disk)} of the disk until it is here, and {free} are free")
    if least is not None and least <= TIGHT * room.memory < memory:
        there = f"{amount(memory)} of {room.where}, and this machine has {amount(room.memory)}"
        return Fit("tight", f"takes {there}: its networks take turns there, and need {amount(least)}")
    if memory > TIGHT * room.memory:
        return Fit("no", f"takes {amount(memory)} of {room.where}, and this machine has {amount(room.memory)}")
    if memory > room.free:
        return Fit("tight", f"takes {amount(memory)} of {room.where}, and {amount(room.free)} are free now")
    return Fit("fits", f"takes {amount(memory)} of {room.where}, and {amount(room.free)} are free")


def memory_of(weights: int, resolution: int) -> int:
    """Bytes that a model takes at work.

    Args:
        weights: bytes of its weights as they are computed with.
        resolution: side of its pictures in pixels.
    """
    return weights + PER_PIXEL * resolution**2


class Speed:
    """How fast this machine computes, found out when it is first asked for: a guess by the pace of one convolution.

    Args:
        device: where networks are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pace = 0.0

    def seconds(self, work: float) -> float:
        """For `work` in 10^12 floating-point operations."""
        if not self._pace:
            self._pace = self._probe()
        return work / self._pace

    def _probe(self) -> float:
        """10^12 operations a second, of the best of a few tries: neighbours slow a try down, nothing makes it fast."""
        options = {"device": self.device, "dtype": torch.bfloat16}
        layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, **options)
        layer = layer.to(memory_format=torch.channels_last)
        picture = torch.zeros(1, CHANNELS, SIDE, SIDE, **options).to(memory_format=torch.channels_last)
        times = []
        with torch.inference_mode():
            for _ in range(TRIES):
                since = time.perf_counter()
                layer(picture)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                times.append(time.perf_counter() - since)
        return 2 * CHANNELS**2 * 9 * SIDE**2 / 1e12 / min(times)


def duration(seconds: float) -> str:
    """Seconds as people read them, roughly: "0.3 s", "12 s", "4 min", "2 h"."""
    if seconds < 9.5:
        return f"{seconds:.1g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
