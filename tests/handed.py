"""Pictures as people hand them over in a browser."""

import io
import json
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from train.data.datasets import Dataset
from train.data.listings import Problem


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


def zipped(files: dict[str, bytes | str] | Iterable[tuple[str | zipfile.ZipInfo, bytes]], **options) -> bytes:
    """Of a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)
    return file.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    """A member of a zip with a file mode of Unix, such as a link's."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def patched(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def encrypted(content: bytes) -> bytes:
    """A zip whose last member says that it has a password: the flag alone, which is all that is looked at."""
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content = patched(content, content.rindex(signature) + offset, b"\x01\x00")
    return content


def lying(content: bytes, size: int) -> bytes:
    """A zip whose last member says that it unpacks to `size` bytes."""
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        content = patched(content, content.rindex(signature) + offset, size.to_bytes(4, "little"))
    return content


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
