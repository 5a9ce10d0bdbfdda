"""Runs as others start, follow and stop them: one folder and one process each, in a line for the device.

Everything stands in the run's folder, nothing in memory: whoever starts anew finds every run as it is. That a process
lives is told by a lock that the system lets go when it dies, however it dies; process numbers are used again, locks
are not.

    job.json      task, title and owner              state.json    how it stands, and why
    config.json   settings                           log.txt       what the process said
    data/         the pictures, where it has its own

The process itself is `train.runs.worker`.
"""

import fcntl
import json
import math
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import psutil

State = Literal["draft", "queued", "running", "paused", "interrupted", "failed", "finished", "kept"]
ALIVE: tuple[State, ...] = ("queued", "running")
CAN_GO_ON: tuple[State, ...] = ("paused", "interrupted", "failed")
LOCK, DEVICE_LOCK = "process.lock", "device.lock"
NOW = "now: "  # how a line of a log begins that says what takes time before the first step
WORDS = 60  # characters of a title in a folder's name
MOST = 2000  # runs in a folder
DRAFTS = 200  # of them not begun, where there are several owners
DRAFT_SECONDS = 24 * 3600.0  # after which those are gone
CLEARED_EVERY = 60.0  # seconds
WAITING = 40  # processes in line, where there are several owners
SPARE = 2_000_000_000  # bytes of the disk that new runs leave free
ABOUT = "job.json"
PATIENCE = 1.0  # seconds for a lock: who only looks whether it is held holds it for an instant
ENDING = 30.0  # seconds that a killed process may take to be gone
STANDING_BY = "standing-by"  # what a process is called by that has no run yet
STANDS_BY = 900.0  # seconds until it is let go
STANDBY_NEEDS = 2_000_000_000  # bytes of memory that are free where one is called
STOP = "stop"  # a file that asks for the end, for a process that can't be signalled yet
KEEP = "keep"  # a file that asks to keep what was learned and no more, once the process has ended
ROOT = Path(__file__).resolve().parents[2]


class JobError(ValueError):
    """What can't be done with a run, in one sentence."""


@contextmanager
def held(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Whether this process got the lock within `patience` seconds; let go at the end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _lock(descriptor, patience)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, patience: float, kind: int = fcntl.LOCK_EX) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # nobody ever did
        return False
    try:
        return not _lock(descriptor, 0.0, fcntl.LOCK_SH)  # a shared one, which does not stand in another looker's way
    finally:
        os.close(descriptor)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Whole or not at all."""
    write_whole(path, json.dumps(values, indent=1).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """{} where there is none, half of one, or something else."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _holds_something(folder: Path) -> bool:
    """Whether there is more in a folder of pictures than empty lists and locks."""
    try:
        return any(path.is_file() and path.stat().st_size > len("{}") for path in folder.iterdir())
    except OSError:  # it has begun meanwhile, by another name
        return True


def _moment(value: Any) -> float:
    """A time in seconds, 0 where something else was written."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else 0.0


@dataclass(frozen=True)
class Job:
    """One run, as its folder says.

    Attributes:
        folder: of the run.
    """

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def about(self) -> dict[str, Any]:
        """``job.json``: "task", "title", "preset", "owner", "created"."""
        return read_json(self.folder / ABOUT)

    @property
    def title(self) -> str:
        return str(self.about.get("title") or self.id)

    @property
    def config(self) -> dict[str, Any]:
        """``config.json``: the settings by name; {} before there are any."""
        return read_json(self.folder / "config.json")

    @property
    def steps(self) -> int:
        """Of the whole run, at least 1."""
        steps = self.config.get("steps")
        return max(1, steps) if type(steps) is int else 1

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def alive(self) -> bool:
        return is_held(self.folder / LOCK)

    @property
    def state(self) -> State:
        alive, said = self.alive, read_json(self.folder / "state.json").get("state")
        said = said if isinstance(said, str) and said in get_args(State) else None
        if alive:
            return said if said in ALIVE else "running"
        if said in ALIVE:
            return "interrupted"
        return said or "draft"

    @property
    def reason(self) -> str:
        """Why it stands as it does, where that needs words."""
        return str(read_json(self.folder / "state.json").get("reason", ""))

    @property
    def has_checkpoint(self) -> bool:
        return any((self.folder / "checkpoints").glob("step-*"))

    @property
    def stopping(self) -> bool:
        return self.alive and (self.folder / STOP).exists()

    def set_state(self, state: State, reason: str = "", pid: int | None = None) -> None:
        """Say how it stands.

        Args:
            state: what holds from now on.
            reason: in words.
            pid: of the process that trains; None for this one, or for none where nothing trains any more.
        """
        pid = os.getpid() if pid is None and state in ALIVE else pid or 0
        write_json(self.folder / "state.json", {"state": state, "reason": reason, "pid": pid, "since": time.time()})

    def set_pid(self, pid: int) -> None:
        """Say which process it is, its place in the line kept."""
        write_json(self.folder / "state.json", read_json(self.folder / "state.json") | {"pid": pid})

    @property
    def since(self) -> float:
        """When it came to stand as it does, in seconds of the clock."""
        return _moment(read_json(self.folder / "state.json").get("since"))

    def change(self, **values: Any) -> None:
        """Change what ``job.json`` says."""
        write_json(self.folder / ABOUT, self.about | values)

    def log(self, most: int = 4000) -> str:
        """The last characters of what the process said."""
        try:
            with open(self.folder / "log.txt", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    @property
    def beginning(self) -> str:
        """What the process says that it does before the first step; "" where it says nothing."""
        said = [line for line in self.log().splitlines() if line.startswith(NOW)]
        return said[-1].removeprefix(NOW).strip() if said else ""

    def bytes(self) -> int:
        """What it takes on disk; files that have two names count once."""
        seen: dict[tuple[int, int], int] = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):  # gone since it was listed
                    stat = os.lstat(os.path.join(folder, name))
                    seen[stat.st_dev, stat.st_ino] = stat.st_size
        return sum(seen.values())

    def start(self) -> None:
        """Begin, or go on from the last checkpoint, in a process of its own that outlives this one.

        Raises:
            JobError: it trains already, has been kept, or there is nothing that says what to train.
        """
        if not self.about.get("task") or not (self.folder / "config.json").exists():
            raise JobError("This run has no settings yet; choose what to train first.")
        lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(lock, PATIENCE):
                raise JobError("This run is training already.")
            if read_json(self.folder / "state.json").get("state") == "kept":
                raise JobError("This run was ended and kept; begin a new one with the same pictures.")
            for wish in (STOP, KEEP):
                (self.folder / wish).unlink(missing_ok=True)
            self.set_state("queued", pid=0)  # the process will write its own
            # The open lock goes to the process, so that at no instant the run looks dead.
            with open(self.folder / "log.txt", "a") as log:
                waits = is_held(self.folder.parent / DEVICE_LOCK)  # and who does is to have nothing heavy in memory
                if waits or not STANDBY.take(self.folder.resolve(), lock, log.fileno()):
                    _process([str(self.folder.resolve()), str(lock)], [lock], log)
        finally:
            os.close(lock)

    def stop(self) -> None:
        """Ask for the end after the step in progress, with a checkpoint; nothing happens if it does not train."""
        if self.alive:
            (self.folder / STOP).touch()
            self._signal(signal.SIGTERM)

    def keep(self) -> None:
        """Ask for the end, to keep what was learned and no more: what is needed to go on is removed."""
        (self.folder / KEEP).touch()
        if self.alive:
            self.stop()
        else:
            self.settle()

    def settle(self) -> None:
        """Meet the wish to keep, if there is one. For who holds the lock, or knows that nobody does."""
        if (self.folder / KEEP).exists():
            self.set_state("kept")
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            (self.folder / KEEP).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the run with all that it learned, at once.

        Raises:
            JobError: its process does not end.
        """
        until = time.monotonic() + ENDING
        while True:
            with held(self.folder / LOCK, PATIENCE) as free:  # so that nobody starts it meanwhile
                if free:
                    gone = self.folder.with_name(f".gone-{secrets.token_hex(8)}")  # at once out of every list
                    self.folder.rename(gone)
                    break
            (self.folder / STOP).touch()
            self._signal(signal.SIGKILL)
            if time.monotonic() > until:
                raise JobError("The process of this run does not end; please try again.")
        shutil.rmtree(gone, ignore_errors=True)

    def _signal(self, number: int) -> None:
        """To the process that holds the lock, as long as it does: numbers are used again."""
        pid = read_json(self.folder / "state.json").get("pid")
        if isinstance(pid, int) and pid > 1 and self.alive:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _process(arguments: Sequence[str], descriptors: Sequence[int], log: Any = subprocess.DEVNULL) -> subprocess.Popen:
    """A process of `train.runs.worker` that outlives this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "train.runs.worker", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=ROOT,
        pass_fds=descriptors,
        start_new_session=True,
    )
    threading.Thread(target=process.wait, daemon=True).start()  # a dead child is to be waited for
    return process


class Standby:
    """A process that brings a run's libraries into memory before there is a run: a quarter of a short run's time.

    It saves time and no more: where it can't be had, or memory is short, a run begins without. There is at most one. It
    takes one run, and is let go where none comes for a while; it ends with this process, but the run that it took does
    not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._process: subprocess.Popen | None = None
        self._end: threading.Timer | None = None

    def call(self) -> None:
        """Have one for the run that somebody is about to begin."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._forget()
            if self._process is None and psutil.virtual_memory().available > STANDBY_NEEDS:
                with suppress(OSError):
                    self._line, theirs = socket.socketpair()
                    with theirs:
                        self._process = _process([STANDING_BY, str(theirs.fileno())], [theirs.fileno()])
            if self._process is None:
                self._forget()
            else:
                self._put_off()

    def take(self, folder: Path, lock: int, log: int) -> bool:
        """Give it a run, and whether it has it.

        Args:
            folder: of the run.
            lock: descriptor of its lock, held.
            log: descriptor of the file that is told what the process says.
        """
        with self._lock:
            line, process = self._line, self._process
            try:
                if line is None or process is None:
                    return False
                socket.send_fds(line, [bytes(folder)], [lock, log])
                return process.poll() is None
            except OSError:  # it has died
                return False
            finally:
                self._forget()

    def dismiss(self, process: subprocess.Popen | None = None) -> None:
        """Let it go; where one is named, only if it is still that."""
        with self._lock:
            if process is None or process is self._process:
                self._forget()

    def _put_off(self) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = threading.Timer(STANDS_BY, self.dismiss, [self._process])
        self._end.daemon = True
        self._end.start()

    def _forget(self) -> None:
        """The end of the line is what it goes by."""
        if self._line is not None:
            self._line.close()
        self._line = self._process = None
        if self._end is not None:
            self._end.cancel()
            self._end = None


STANDBY = Standby()


def as_process(job: Job) -> None:
    """How runs begin."""
    job.start()


@dataclass(frozen=True)
class _Known:
    """What a look at a folder of runs has to know of each, as its ``job.json`` of that time says."""

    written: int
    owner: str
    created: float
    is_draft: bool


class Runs:
    """The runs of a folder, each seen by its owner alone.

    Args:
        root: holds a folder a run.
        private: whether there are several owners; their runs have secret names, because who knows a LoRA's name may
            use it, and what they have not begun goes after a day.
    """

    def __init__(self, root: Path, private: bool = False) -> None:
        self.root, self.private = Path(root), private
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}  # by folder; reading all of them anew takes a while
        self._in_use: Counter[str] = Counter()  # drafts that are changed at the moment
        self._visitors: dict[str, str] = {}  # whose draft it is, beside the owner that they call themselves
        self._cleared = -CLEARED_EVERY

    def all(self, owner: str) -> list[Job]:
        """The runs of an owner, the newest first; where there is one owner, all."""
        self._clear_old_drafts()
        mine = [
            (known.created, name)
            for name, known in self._look().items()
            if not self.private or (owner and known.owner == owner)
        ]
        return [Job(self.root / name) for _, name in sorted(mine, reverse=True)]

    def _look(self) -> dict[str, _Known]:
        """All runs by the names of their folders."""
        found = {}
        with suppress(OSError), os.scandir(self.root) as folders:
            for folder in folders:
                if folder.name.startswith("."):
                    continue
                try:
                    written = os.stat(os.path.join(folder.path, ABOUT)).st_mtime_ns
                except OSError:  # something else, or it has just gone
                    continue
                known = self._known.get(folder.name)
                if known is None or known.written != written:
                    about = Job(Path(folder.path)).about
                    owner, task = str(about.get("owner", "")), about.get("task")
                    known = _Known(written, owner, _moment(about.get("created")), not task)
                found[folder.name] = known
        self._known = found
        return found

    def get(self, name: str, owner: str) -> Job:
        """A run by its id.

        Raises:
            JobError: this owner has none of that name.
        """
        for job in self.all(owner):
            if job.id == name:
                return job
        raise JobError("There is no such run any more; please reload the page.")

    def find_draft(self, owner: str) -> Job | None:
        """The one run of an owner that has not begun."""
        return next((job for job in self.all(owner) if job.state == "draft"), None)

    def draft(self, owner: str, visitor: str = "") -> Job:
        """The one run of an owner that has not begun; a new one where there is none.

        Args:
            owner: whose it is.
            visitor: who they are beside what they call themselves; where drafts are too many, whoever has most loses
                their oldest.

        Raises:
            JobError: nobody is its owner, there are too many runs already, or the disk is full.
        """
        with self._lock:
            return self._draft(owner, visitor)

    @contextmanager
    def drafting(self, owner: str, visitor: str = "") -> Iterator[Job]:
        """The same while something is put into it: a draft that then holds nothing is gone again.

        Raises:
            JobError: see `draft`.
        """
        with self._lock:
            job = self._draft(owner, visitor)
            self._in_use[job.id] += 1
        try:
            yield job
        finally:
            with self._lock:
                self._in_use -= Counter([job.id])
                if not self._in_use[job.id] and job.state == "draft" and not _holds_something(job.data):
                    with suppress(OSError):  # somebody was faster
                        job.discard()

    def _draft(self, owner: str, visitor: str) -> Job:
        if job := self.find_draft(owner):
            return job
        if self.private and not owner:
            raise JobError("This page is not known here; please reload it.")
        known = self._look()
        drafts = [name for name, one in known.items() if one.is_draft]
        if self.private and len(drafts) >= DRAFTS:
            known.pop(self._let_go(sorted(drafts, key=lambda name: known[name].created)))
        if len(known) >= MOST:
            raise JobError("There is no room for more runs here; please try again later.")
        self.root.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.root).free < SPARE:
            raise JobError("The disk of this machine is nearly full; make room and try again.")
        job = Job(self.root / self._name("draft"))
        job.data.mkdir(parents=True)
        job.change(owner=owner, created=time.time(), title="")
        self._visitors[job.id] = visitor
        return job

    def _let_go(self, drafts: Sequence[str]) -> str:
        """Remove one of too many drafts, the oldest of whoever has most; returns its name."""
        idle = [name for name in drafts if not self._in_use[name]]
        (visitor, _), *_ = Counter(self._visitors.get(name, "") for name in idle).most_common(1)
        name = next(name for name in idle if self._visitors.get(name, "") == visitor)
        Job(self.root / name).discard()
        self._visitors.pop(name, None)
        return name

    def _clear_old_drafts(self) -> None:
        """Remove what several owners have not touched for a day, now and then."""
        if not self.private or time.monotonic() - self._cleared < CLEARED_EVERY:
            return
        self._cleared = time.monotonic()
        for name in [name for name, known in self._look().items() if known.is_draft and not self._in_use[name]]:
            job = Job(self.root / name)
            with suppress(OSError, JobError):  # it has just gone, or it has just begun
                if time.time() - job.data.stat().st_mtime > DRAFT_SECONDS and job.state == "draft":
                    job.discard()

    def begin(
        self,
        job: Job,
        task: str,
        preset: str,
        title: str,
        settings: dict[str, Any],
        takes: str = "data",
        start: Callable[[Job], None] = as_process,
    ) -> Job:
        """Give a draft its settings and its name, and start it.

        Args:
            job: a draft.
            task: as ``python -m train`` calls it.
            preset: what the settings were made from.
            title: name of what is learned.
            settings: values of the task's config.
            takes: the setting that the folder of the draft's pictures goes into.
            start: does it.

        Raises:
            JobError: it is no draft any more, or too many wait in line.
        """
        with self._lock:
            if job.state != "draft" or not job.folder.exists():
                raise JobError("This run has begun already.")
            if self.private and sum(Job(self.root / name).alive for name in self._look()) >= WAITING:
                raise JobError(f"{WAITING} runs wait in line already; please try again later.")
            folder = self.root / self._name(title)
            job.folder.rename(folder)
        job = Job(folder.resolve())
        write_json(job.folder / "config.json", settings | {"title": title, takes: str(job.data)})
        job.change(task=task, preset=preset, title=title, created=time.time())
        start(job)
        return job

    def _name(self, title: str) -> str:
        words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:WORDS].strip("-") or "run"
        return f"{secrets.token_hex(16)}-{words}" if self.private else f"{words}-{secrets.token_hex(3)}"
