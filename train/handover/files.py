"""Files and folders that appear whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path


def write(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a file or a folder beside `path`, then put it in its place."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: its shards may be others
    make(partial)
    for written in [partial, *partial.rglob("*")]:  # safetensors makes files that nobody else can read
        if written.is_file():
            written.chmod(path.parent.stat().st_mode & 0o666)
    if path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)
