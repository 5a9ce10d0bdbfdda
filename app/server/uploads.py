"""What visitors upload: how much, where it lies, and when it goes.

A studio has a folder of its own for uploads and for files that it makes. It goes when the studio ends, and what a
killed one has left goes when the next one starts: that a folder's studio lives is told by a lock, which the system
lets go.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from yoso_core.files.archives import amount

LOCK = ".lock"
SPARE = 500_000_000  # bytes of the disk that uploads leave free
BLOCK = 4096  # bytes that the smallest file takes
MEASURED_FOR = 5.0  # seconds


class FolderError(RuntimeError):
    """Where uploads would lie can't be used, in one sentence."""


@contextmanager
def own_folder(root: Path | None = None) -> Iterator[Path]:
    """A folder for uploads and made files that is gone at the end, as are those of studios that were killed.

    Args:
        root: holds the folders of all studios of this user; None for one among the temporary files.

    Raises:
        FolderError: it belongs to somebody else.
        OSError: it can't be made.
    """
    root = Path(tempfile.gettempdir()) / f"yoso-studio-{os.getuid()}" if root is None else root
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise FolderError(f"{root} belongs to somebody else; name another folder in GRADIO_TEMP_DIR")
    _clear_abandoned(root)
    folder = Path(tempfile.mkdtemp(prefix="studio-", dir=root))
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _clear_abandoned(root: Path) -> None:
    for folder in root.glob("studio-*"):
        if (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """The lock of a folder, if nobody holds it."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # it has just gone
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class Uploads:
    """Keeps account of what is uploaded.

    Args:
        folder: where it lies, with what the studio makes.
        each: bytes that one visitor may upload within `keep` seconds.
        in_all: bytes that the folder may hold.
        keep: seconds after which the studio removes files.
        clock: tells the time in seconds.
    """

    def __init__(
        self, folder: Path, each: int, in_all: int, keep: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.each, self.in_all, self.keep, self.clock = Path(folder), each, in_all, keep, clock
        self._charged: dict[str, deque[tuple[float, int]]] = defaultdict(deque)
        self._sums: dict[str, int] = defaultdict(int)
        self._measured = (-MEASURED_FOR, 0)
        self._since = 0  # bytes that came after the folder was measured
        self._lock = threading.Lock()

    def refusal(self, visitor: str, length: int = 0) -> str | None:
        """Why a visitor may not upload `length` bytes more, in one sentence; None if they may.

        It may look at the disk, so it is nothing for an event loop.
        """
        with self._lock:
            self._forget_old(visitor)
            if self._sums[visitor] + length > self.each:
                return (
                    f"You may upload {amount(self.each)} in {self.keep / 60:.0f} minutes, "
                    f"{amount(max(0, self.each - self._sums[visitor]))} of it now; wait a while or choose less."
                )
        if self.bytes() + length > self.in_all:
            return "There is no room for more uploads here at the moment; please try again later."
        if self._free() < length + SPARE:
            return "The disk of this machine is nearly full; make room and try again."
        return None

    def charge(self, visitor: str, number: int) -> bool:
        """Count bytes that have come; whether the visitor may go on."""
        with self._lock:
            charged, now = self._charged[visitor], self.clock()
            if charged and now - charged[-1][0] < 1:
                charged[-1] = (charged[-1][0], charged[-1][1] + number)
            else:
                charged.append((now, number))
            self._sums[visitor] += number
            self._since += number
            return self._sums[visitor] <= self.each and self._measured[1] + self._since <= self.in_all

    def bytes(self) -> int:
        """What the folder holds, measured a few seconds ago at most, and what has come since."""
        now = self.clock()
        with self._lock:
            if now - self._measured[0] < MEASURED_FOR:
                return self._measured[1] + self._since
            self._since = 0
        held = _held_in(self.folder)
        with self._lock:
            self._measured = (now, held)
            return held + self._since

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self.folder).free
        except OSError:  # Gradio makes it at the first upload
            return shutil.disk_usage(tempfile.gettempdir()).free

    def _forget_old(self, visitor: str) -> None:
        charged = self._charged[visitor]
        while charged and self.clock() - charged[0][0] > self.keep:
            self._sums[visitor] -= charged.popleft()[1]
        if not charged:
            self._charged.pop(visitor, None)
            self._sums.pop(visitor, None)


def _held_in(folder: Path) -> int:
    """Bytes on disk of all files below a folder."""
    held = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone since it was listed
                held += max(BLOCK, os.lstat(os.path.join(place, name)).st_size)
    return held
