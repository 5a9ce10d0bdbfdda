"""Make weights small enough to be bundled, at a loss that is measured before they are.

    python -m train.recipes.shrink lora IN.safetensors OUT.safetensors --rank 8
    python -m train.recipes.shrink controlnet FOLDER OUT
    python -m train.recipes.shrink translator FOLDER OUT --part 1

A LoRA gets the best approximation of a lower rank of each of its changes (Eckart and Young, by singular values); a
ControlNet's large weights are kept in 8 bits (float8_e4m3, which diffusers widens as it loads them). A translator's
LoRAs get both, each change the rank that it needs: of all ranks of a file those stay that say most for their size.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.loop.console import run_command

LARGE = 2000  # numbers in a weight that is worth keeping in 8 bits
RANGE = 240.0  # largest number that is written in 8 bits; the type ends at 448
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Change:
    """What a LoRA changes of a weight, B A, by its singular values; the product itself is never formed.

    Args:
        down: A, (r, in) or (r, in, kh, kw).
        up: B, (out, r) or (out, r, 1, 1).

    Attributes:
        values: (r,), the singular values of B A, the largest first.
        cost: numbers in A and B for each of them.
    """

    def __init__(self, down: Tensor, up: Tensor) -> None:
        rows, triangle = torch.linalg.qr(down.float().flatten(1).T)
        columns, other = torch.linalg.qr(up.float().flatten(1))
        left, self.values, right = torch.linalg.svd(other @ triangle.T, full_matrices=False)
        self._columns, self._rows = columns @ left, right @ rows.T
        self._into, self._out = down.shape[1:], (len(up), up.shape[2:])
        self.cost = down[0].numel() + up[:, 0].numel()

    def low_rank(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best product of rank `rank` at most r: A and B in their shapes, their columns of equal norm."""
        root = self.values[:rank].sqrt()
        down, up = root[:, None] * self._rows[:rank], self._columns[:, :rank] * root
        count, kernel = self._out
        return down.reshape(rank, *self._into), up.reshape(count, rank, *kernel)


def shrink_lora(source: Path, out: Path, rank: int) -> float:
    """Write a LoRA in diffusers' spelling with a lower rank; returns the share of its changes' squares that is kept."""
    tensors, result, kept, whole = load_file(source), {}, 0.0, 0.0
    with safe_open(source, "pt") as file:
        metadata = file.metadata() or {}
    for key in (key for key in tensors if ".lora_A." in key):
        other = key.replace(".lora_A.", ".lora_B.")
        change = Change(tensors[key], tensors[other])
        down, up = change.low_rank(rank)
        kept += change.values[:rank].square().sum().item()
        whole += change.values.square().sum().item()
        result |= {key: down.half().contiguous(), other: up.half().contiguous()}
    adapter = json.loads(metadata["lora_adapter_metadata"])
    alpha = adapter["unet.lora_alpha"] * rank / adapter["unet.r"]  # the scale alpha / r stays what it was
    metadata["lora_adapter_metadata"] = json.dumps(adapter | {"unet.r": rank, "unet.lora_alpha": alpha})
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(result, out, metadata)
    out.chmod(0o644)
    return kept / whole


def shrink_translator(source: Path, out: Path, part: float) -> dict[str, float]:
    """Copy a translator's folder with LoRAs of varying rank in 8 bits.

    Args:
        source: as a run hands it over.
        out: gets the weights, ``config.json`` and nothing else.
        part: of the numbers of each file's LoRA that may stay, 0 to 1.

    Returns:
        The share of the changes' squares that is kept, by file.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = {}
    for path in sorted(source.glob("*.safetensors")):
        tensors = load_file(path)
        stems = [key.removesuffix(DOWN) for key in sorted(tensors) if key.endswith(DOWN)]
        changes = {stem: Change(tensors.pop(stem + DOWN), tensors.pop(stem + UP)) for stem in stems}
        ranks, kept[path.name] = _worthwhile(changes, part)
        for stem in filter(ranks.get, stems):
            down, up = changes[stem].low_rank(ranks[stem])
            scales = [RANGE / matrix.abs().max() for matrix in (down, up)]
            tensors[stem + DOWN] = (down * scales[0]).to(torch.float8_e4m3fn).contiguous()
            tensors[stem + UP] = (up * scales[1]).to(torch.float8_e4m3fn).contiguous()
            tensors[stem + ".alpha"] = torch.tensor(ranks[stem] / (scales[0] * scales[1]).item())
        save_file(tensors, out / path.name, {"format": "pt"})
        (out / path.name).chmod(0o644)
    shutil.copyfile(source / "config.json", out / "config.json")
    return kept


def _worthwhile(changes: dict[str, Change], part: float) -> tuple[dict[str, int], float]:
    """The rank of each change, and the share of their squares that these keep."""
    each = [
        (square / change.cost, change.cost, square, stem)  # the first is what it is worth
        for stem, change in changes.items()
        for square in change.values.square().tolist()
    ]
    room = part * sum(cost for _, cost, _, _ in each)
    ranks, kept = dict.fromkeys(changes, 0), 0.0
    for _, cost, square, stem in sorted(each, reverse=True):
        if cost <= room:
            room -= cost
            ranks[stem] += 1
            kept += square
    return ranks, kept / sum(square for _, _, square, _ in each)


def shrink_controlnet(source: Path, out: Path) -> None:
    """Copy a ControlNet's folder with its large weights in 8 bits."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(source / WEIGHTS)
    small = {key: value.to(torch.float8_e4m3fn) if value.numel() > LARGE else value for key, value in tensors.items()}
    save_file(small, out / WEIGHTS, {"format": "pt"})
    (out / WEIGHTS).chmod(0o644)
    config = json.loads((source / "config.json").read_text())
    config.pop("_name_or_path", None)  # where it was trained from is nobody's business
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("lora", "controlnet", "translator"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rank", type=int, default=8, help="of the LoRA")
    parser.add_argument("--part", type=float, default=1.0, help="of the numbers of a translator's LoRAs that stay")
    options = parser.parse_args()
    if options.kind == "controlnet":
        shrink_controlnet(options.source, options.out)
    elif options.kind == "translator":
        for name, share in shrink_translator(options.source, options.out, options.part).items():
            print(f"{name}: {share:.4f} of the changes' squares are kept")
    else:
        print(f"{shrink_lora(options.source, options.out, options.rank):.4f} of the changes' squares are kept")


if __name__ == "__main__":
    run_command(main)
