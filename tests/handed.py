"""Pictures as people hand them over in a browser."""

import io
import json
import tempfile
from pathlib import Path

from PIL import Image

from train.data import Problem
from train.datasets import Dataset


def picture(colour="red", width: int = 16, height: int = 16) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colour(index: int) -> bytes:
    """A picture of a content of its own."""
    return stored(picture((index % 256, index // 256, 7)))


def metadata(*rows: dict) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def hand(dataset: Dataset, files: dict[str, bytes | str]) -> list[Problem]:
    """Files under other names, in a folder of the server's that is emptied later; returns what is told."""
    with tempfile.TemporaryDirectory() as uploads:
        paths = [Path(uploads) / str(number) for number in range(len(files))]
        for path, content in zip(paths, files.values(), strict=True):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return dataset.add(map(str, paths), list(files))


def on_disk(dataset: Dataset) -> list[str]:
    """Files of a data set, except those it is kept with."""
    assert {path.name for path in dataset.folder.iterdir() if path.name.startswith(".")} <= {".captions.json", ".lock"}
    assert all(path.is_file() and not path.is_symlink() for path in dataset.folder.rglob("*"))
    return sorted(path.name for path in dataset.folder.iterdir() if path.name[0] != "." and path.suffix != ".jsonl")
