"""LoRA files of any spelling to low-rank pairs: each is proved to fit before it touches anything.

Three spellings of the same thing are read: diffusers' (``unet.<module>.lora_A.weight``), peft's
(``base_model.model.<module>.lora_A.weight``) and kohya's (``lora_unet_<module>.lora_down.weight`` with ``.alpha``).
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from yoso_core.lora.reading import CHECKPOINT_KEY, HEADER_LIMIT, LoraError, read_tensors
from yoso_core.lora.stack import Lora, LowRank, Place

RANK_LIMIT = 256
SCALE_LIMIT = 1e4  # largest alpha / r; beyond it no LoRA means what it says
SUFFIX = re.compile(r"\.(?:(lora_A|lora_down|lora\.down|lora_B|lora_up|lora\.up)(?:\.default)?\.weight|(alpha))$")
DOWN = {"lora_A", "lora_down", "lora.down"}
PREFIXES = {
    "unet": ("unet.", "lora_unet_", "base_model.model.", ""),
    "text_encoder": ("text_encoder.", "lora_te_"),
    "vae": ("vae.",),  # of translators alone
}


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _find_module(stem: str, modules: Mapping[str, Mapping[str, nn.Module]]) -> Place | None:
    """The (part, module name) that a key's stem speaks of, whichever way it is spelt."""
    for part, names in modules.items():
        for prefix in PREFIXES[part]:
            if stem.startswith(prefix):
                name = names.get(_flat(stem[len(prefix) :]))
                if name is not None:
                    return part, name
    return None


def admit(path: Path, parts: Mapping[str, nn.Module]) -> Lora:
    """Read a LoRA file and prove that it fits, before it touches anything.

    Args:
        path: a safetensors file.
        parts: the networks that it may change: "unet", "text_encoder".

    Raises:
        LoraError: with the reason; nothing was changed.
    """
    tensors, metadata = read_tensors(path)
    if CHECKPOINT_KEY in metadata:
        raise LoraError(f"{path.name} is of a checkpoint, which does not say its strength; take the run's output.")
    return admit_tensors(path, tensors, parts, _adapter_settings(path, metadata))


def admit_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, nn.Module],
    settings: Mapping[str, dict] | None = None,
) -> Lora:
    """Prove that tensors are a LoRA that fits, before it touches anything.

    Args:
        path: the file that they are of.
        tensors: by key.
        parts: the networks that it may change: "unet", "text_encoder", "vae".
        settings: what peft knew of the adapter of each part; without them the strength is 1.

    Raises:
        LoraError: with the reason; nothing was changed.
    """
    modules = {
        part: {
            _flat(name): name
            for name, module in network.named_modules()
            if isinstance(getattr(module, "weight", None), Tensor)
        }
        for part, network in parts.items()
    }
    settings = settings or {part: {} for part in PREFIXES}
    found: dict[Place, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = SUFFIX.search(key)
        place = match and _find_module(key[: match.start()], modules)
        if not place:
            raise LoraError(f"{path.name} is for another model: this one has no place for {key[:80]!r}.")
        if not torch.isfinite(tensor.float()).all():
            raise LoraError(f"{path.name} holds NaN or infinite values in {key[:80]!r}; the file is broken.")
        role = "alpha" if match[2] else "down" if match[1] in DOWN else "up"
        found.setdefault(place, {})[role] = tensor
    if not found:
        raise LoraError(f"{path.name} has no LoRA weights; please choose another file.")
    return {place: _low_rank(path, place, roles, parts, settings) for place, roles in found.items()}


def _adapter_settings(path: Path, metadata: dict[str, str]) -> dict[str, dict]:
    """What peft knew of the adapter of each part: as diffusers stores it in the file, or peft beside it.

    Raises:
        LoraError: it is there and can't be read; the LoRA's strength is unknown without it.
    """
    beside = path.with_name("adapter_config.json")
    try:
        if "lora_adapter_metadata" in metadata:
            stored = json.loads(metadata["lora_adapter_metadata"])
        elif path.name == "adapter_model.safetensors" and beside.exists():
            with open(beside, encoding="utf-8") as file:
                stored = {f"unet.{key}": value for key, value in json.loads(file.read(HEADER_LIMIT)).items()}
        elif path.name == "adapter_model.safetensors":
            raise LoraError(f"{path.name} does not say its strength; its adapter_config.json must lie beside it.")
        else:
            stored = {}
        return {
            part: {key.removeprefix(f"{part}."): value for key, value in stored.items() if key.startswith(f"{part}.")}
            for part in PREFIXES
        }
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise LoraError(f"The adapter settings of {path.name} can't be read ({error!s:.60}).") from None


def _declared_scale(settings: dict, name: str, rank: int) -> float:
    """alpha / r of one module as peft computes it: an alpha of its own by pattern, and 1 / sqrt(r) where asked."""
    patterns = settings.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if name == pattern or name.endswith(f".{pattern}"))
    alpha = float(next(own, settings.get("lora_alpha", rank)))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _low_rank(
    path: Path,
    place: Place,
    roles: dict[str, Tensor],
    parts: Mapping[str, nn.Module],
    settings: Mapping[str, dict],
) -> LowRank:
    part, name = place
    if "down" not in roles or "up" not in roles:
        raise LoraError(f"{path.name} has only half of the pair for {name!r}; the file is incomplete.")
    down, up = roles["down"], roles["up"]
    weight = parts[part].get_submodule(name).weight
    if down.ndim != weight.ndim and down.ndim == 4 and weight.ndim == 2:  # kohya keeps some projections as 1x1 convs
        down, up = down.flatten(1), up.flatten(1)
    rank = len(down) if down.ndim else 0
    if not 1 <= rank <= RANK_LIMIT:
        raise LoraError(f"{path.name} has rank {rank} at {name!r}; 1 to {RANK_LIMIT} is taken.")
    matches = (len(up) if up.ndim else 0, *down.shape[1:]) == tuple(weight.shape)
    if weight.ndim not in (2, 4) or not matches or tuple(up.shape[1:]) != (rank, *[1] * (weight.ndim - 2)):
        raise LoraError(
            f"{path.name} is for another model: {name!r} is {tuple(weight.shape)} here "
            f"and {tuple(up.shape)} times {tuple(down.shape)} in the file."
        )
    try:
        alpha = roles.get("alpha")
        scale = _declared_scale(settings[part], name, rank) if alpha is None else alpha.float().mean().item() / rank
    except (ValueError, TypeError, AttributeError, OverflowError):
        scale = math.nan
    if not abs(scale) <= SCALE_LIMIT:
        raise LoraError(f"{path.name} has no usable alpha at {name!r}; the file is broken.")
    return LowRank(down.contiguous(memory_format=torch.channels_last) if down.ndim == 4 else down, up, scale)
