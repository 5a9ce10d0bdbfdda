"""A folder of things that took time to make and can be made again; whatever is broken in it counts as absent."""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

DIGEST = "digest"


def cache_folder() -> Path:
    """``$YOSO_CACHE``, or ``yoso-studio`` where programs of this user keep what they can make again."""
    if named := os.environ.get("YOSO_CACHE"):
        return Path(named).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(shared) if shared else Path.home() / ".cache") / "yoso-studio"


def put(files: Path, folder: Path) -> None:
    """Move a folder of files to its place in one step, where nothing whole is yet.

    Other processes may do the same at any moment, and read what is there: nothing whole is ever taken away.
    """
    (files / DIGEST).write_text(digest_of(files))
    try:
        with suppress(OSError):
            os.rename(files, folder)  # fails where something is
            return
        with suppress(OSError):
            check(folder)
            return  # another process was faster, with the same
        broken = scratch(folder)
        with suppress(OSError):  # as before
            os.rename(folder, broken / "broken")
            os.rename(files, folder)
        shutil.rmtree(broken, ignore_errors=True)
    finally:
        shutil.rmtree(files, ignore_errors=True)


def check(folder: Path) -> None:
    """See whether a folder's files are those that were `put` there.

    Raises:
        OSError: they can't be read, or are others.
    """
    if (folder / DIGEST).read_text() != digest_of(folder):
        raise OSError("its files have changed")


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != DIGEST:
            digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def scratch(folder: Path) -> Path:
    """A fresh folder on the disk of `folder`, to be filled and then `put` there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
