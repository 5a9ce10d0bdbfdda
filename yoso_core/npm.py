"""Packages of the npm registry, as tarballs."""

import base64
import hashlib
import subprocess
from pathlib import Path

from yoso_core.requests import RequestError


def fetch(package: str, folder: Path, sha512: str = "") -> Path:
    """Bring the tarball of a package into a folder by ``npm pack``, once.

    Args:
        package: "name@version", its name with its scope.
        folder: where it is looked for first.
        sha512: of the tarball, base64, as the registry tells it; "" where it does not matter.

    Raises:
        RequestError: npm is not here, the registry can't be reached, or what came is something else.
    """
    name, version = package.rsplit("@", 1)
    tarball = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise RequestError(
                f"{package} can't be had from the npm registry: install npm and see to a connection, or put "
                f"{tarball.name} into {folder} yourself."
            ) from None
    if sha512 and base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode() != sha512:
        raise RequestError(f"{tarball} is not what {package} holds; please remove it and try again.")
    return tarball
