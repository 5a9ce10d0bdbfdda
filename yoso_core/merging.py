"""One step at another resolution by arithmetic: theta_high + (theta_yoso - theta_low) (YOSO, arXiv 2403.12931, eq. 7).

What one-step training changed in a network at a low resolution is added to the network of the same layout that was
trained further at a high one. It is done file by file, and a run that was cut off goes on where it was.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from yoso_core.checkpoints import ModelError, config_of, index_of, link, refuse_other_files, shapes_of
from yoso_core.families.texts import identity

NETWORKS = ("transformer", "unet")
RECORD = "merged.json"  # of what a folder is being made of
KEPT = (".json", ".txt", ".model", ".safetensors")
PREDICTION = "v_prediction"  # of YOSO's networks, where no scheduler says it


@dataclass(frozen=True)
class Network:
    """A network's files.

    Attributes:
        folder: that holds them.
        pipeline: the folder around it, with everything else; None where there is none.
        places: the file of each weight, by name.
        shapes: of the weights.
    """

    folder: Path
    pipeline: Path | None
    places: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    @property
    def files(self) -> list[Path]:
        return sorted(set(self.places.values()))

    def tensor(self, name: str) -> Tensor:
        """(...), in the precision that it is stored in."""
        with safe_open(self.places[name], "pt") as file:
            return file.get_tensor(name)


def find_network(given: Path) -> Network:
    """The network in a folder: its own files, or those of the transformer or UNet of a pipeline.

    Raises:
        ModelError: there is none in safetensors.
    """
    pipeline = given if index_of(given) else None
    folder = next((given / name for name in NETWORKS if pipeline and (given / name).is_dir()), given)
    refuse_other_files(f"The network in {folder}", folder)
    places: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found = shapes_of(path)
        shapes |= found
        places |= dict.fromkeys(found, path)
    if not shapes or not config_of(folder):
        raise ModelError(f"{given} holds no network in safetensors with its config.json; name its folder.")
    return Network(folder, pipeline, places, shapes)


def merge_resolution(
    high: Path, yoso: Path, low: Path, out: Path, report: Callable[[str], None] = lambda message: None
) -> int:
    """Write the sum to a new folder: a pipeline with everything else of `high` where that is one, or a network alone.

    Args:
        high: trained at the high resolution.
        yoso: one-step, at the low resolution.
        low: what `yoso` began from.
        out: must not be there yet; it appears when it is whole.
        report: told in a few words what is happening.

    Returns:
        How many weights of `high` the others have not, which stay as they are.

    Raises:
        ModelError: they don't fit each other, or `out` is there.
    """
    if out.exists():
        raise ModelError(f"{out} is there already; name a new folder.")
    networks = [find_network(one) for one in (high, yoso, low)]
    own = _check(*networks)
    target, mine = out.with_name(f".{out.name}.partial"), networks[0]
    made_of = {"of": [identity([network.folder]) for network in networks]}
    if target.exists() and _record(target) != made_of:
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    (target / RECORD).write_text(json.dumps(made_of))
    place = target if mine.pipeline is None else target / mine.folder.name
    place.mkdir(exist_ok=True)
    for number, path in enumerate(mine.files, 1):
        if (place / path.name).exists():
            continue
        report(f"File {number} of {len(mine.files)}: {path.name}")
        _write(path, place / path.name, *networks)
    for path, name in _others(mine):
        if not (target / name).exists():
            link(path, target / name)
    if mine.pipeline is not None:
        _say_prediction(target, networks[1])
    for left in (target / RECORD, *target.rglob(".*.new")):  # of a run that was cut off, too
        left.unlink()
    os.replace(target, out)
    return own


def _check(high: Network, yoso: Network, low: Network) -> int:
    if odd := sorted(yoso.shapes.keys() ^ low.shapes.keys()):
        raise ModelError(
            f"{yoso.folder} is no fine-tune of {low.folder}: only one of them has {odd[0]} ({len(odd)} such weights)."
        )
    for name, shape in low.shapes.items():
        if name not in high.shapes:
            raise ModelError(f"{high.folder} is of another layout than {low.folder}: it has no {name}.")
        shapes = {high.shapes[name], yoso.shapes[name], shape}
        if len(shapes) > 1:
            told = ", ".join(" x ".join(map(str, one)) for one in (high.shapes[name], yoso.shapes[name], shape))
            raise ModelError(f"{name} has different shapes in the three networks ({told}); they don't fit each other.")
    return len(high.shapes) - len(low.shapes)


def _write(path: Path, out: Path, high: Network, yoso: Network, low: Network) -> None:
    """One file of `high` with what the others have of it added."""
    partial = out.with_name(f".{out.name}.new")
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), list(file.keys())
    made = {name: _sum(name, high, yoso, low) for name in names}
    save_file(made, partial, metadata or {"format": "pt"})
    os.replace(partial, out)


def _sum(name: str, high: Network, yoso: Network, low: Network) -> Tensor:
    try:
        mine = high.tensor(name)
        if name not in low.shapes or not mine.is_floating_point():
            return mine
        made = (mine.double() + (yoso.tensor(name).double() - low.tensor(name).double())).to(mine.dtype)
    except SafetensorError as error:
        raise ModelError(f"{name} can't be read ({error!s:.80}); fetch its file again.") from None
    if not torch.isfinite(made).all():
        raise ModelError(
            f"{name} would not be finite; one of the networks is broken, or {mine.dtype} too small for it."
        )
    return made


def _others(high: Network) -> Iterator[tuple[Path, Path]]:
    """What else belongs into the new folder, and where: of a pipeline its other parts, of a network its settings."""
    root = high.pipeline or high.folder
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and path not in high.files and path.suffix in KEPT:
            yield path, name


def _say_prediction(target: Path, yoso: Network) -> None:
    """The network predicts what the one-step network does, whatever the other one did."""
    name = Path("scheduler") / "scheduler_config.json"
    settings = json.loads((target / name).read_text())
    predicted = PREDICTION
    if yoso.pipeline is not None:
        predicted = json.loads((yoso.pipeline / name).read_text()).get("prediction_type", "epsilon")
    (target / name).write_text(json.dumps(settings | {"prediction_type": predicted}, indent=2) + "\n")


def _record(target: Path) -> dict | None:
    try:
        return json.loads((target / RECORD).read_text())
    except (OSError, ValueError):
        return None
