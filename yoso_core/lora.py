"""LoRAs: admission of files, and their weights added onto a copy of what they change.

A LoRA changes a weight matrix by ``W = W_0 + w (alpha / r) B A`` (arXiv 2106.09685). The networks hold W; W_0 is kept
aside the first time that a tensor is touched, and every change starts from it again. So the weights are a function of
the set of LoRAs asked for alone, removal is exact, and inference costs no more than without.

Three spellings of the same thing are read: diffusers' (``unet.<module>.lora_A.weight``), peft's
(``base_model.model.<module>.lora_A.weight``) and kohya's (``lora_unet_<module>.lora_down.weight`` with ``.alpha``).
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from yoso_core.requests import RequestError

HEADER_LIMIT = 1_000_000  # bytes
KEY_LIMIT = 5000
CHECKPOINT_KEY = "yoso_checkpoint"  # metadata of weights that only the run that wrote them can read
PRIOR_KEY = "yoso_prior"  # metadata of a one-step LoRA: moments of its latents, for the informative prior
RANK_LIMIT = 256
SCALE_LIMIT = 1e4  # largest alpha / r; beyond it no LoRA means what it says
DTYPES = {"F16", "BF16", "F32", "F64"}
SUFFIX = re.compile(r"\.(?:(lora_A|lora_down|lora\.down|lora_B|lora_up|lora\.up)(?:\.default)?\.weight|(alpha))$")
DOWN = {"lora_A", "lora_down", "lora.down"}
PREFIXES = {
    "unet": ("unet.", "lora_unet_", "base_model.model.", ""),
    "text_encoder": ("text_encoder.", "lora_te_"),
}


class LoraError(RequestError):
    """A file that is not a LoRA for this model, and why."""


@dataclass(frozen=True)
class LowRank:
    """The change of one weight.

    Attributes:
        down: A, (r, in) or (r, in, kh, kw).
        up: B, (out, r) or (out, r, 1, 1).
        scale: alpha / r.
    """

    down: Tensor
    up: Tensor
    scale: float


Lora = dict[tuple[str, str], LowRank]  # (part of the pipeline, module name) -> its change


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; its size limits are checked before anything is read.

    Raises:
        LoraError: not a safetensors file, or one that is too large.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 9 else 0
        if not (2 <= length <= HEADER_LIMIT and head[8:] == b"{"):
            if head[:2] == b"PK" or head[:1] == b"\x80":
                raise LoraError(f"{path.name} is a pickle, which can run code; convert it to safetensors first.")
            raise LoraError(f"{path.name} is not a safetensors file of a LoRA; please choose another file.")
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
            if len(keys) > KEY_LIMIT:
                raise LoraError(f"{path.name} has over {KEY_LIMIT} tensors; that is no LoRA.")
            if odd := {file.get_slice(key).get_dtype() for key in keys} - DTYPES:
                raise LoraError(f"{path.name} holds numbers of type {odd.pop()}, as no LoRA does; the file is broken.")
            return {key: file.get_tensor(key) for key in keys}, file.metadata() or {}
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise LoraError(
            f"{path.name} can't be read as safetensors ({error!s:.80}); please choose another file."
        ) from None


def read_prior(path: Path) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation (C,) of the scaled latents that a one-step LoRA was trained on, where its file says them."""
    try:
        with safe_open(path, "pt") as file:
            stored = json.loads((file.metadata() or {})[PRIOR_KEY])
        mean, deviation = torch.tensor(stored["mean"]), torch.tensor(stored["deviation"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError, OverflowError):
        return None
    sound = mean.ndim == 1 and mean.shape == deviation.shape and (torch.isfinite(mean) & (deviation >= 0)).all()
    return (mean.float(), deviation.float()) if sound else None


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _find_module(stem: str, modules: Mapping[str, Mapping[str, nn.Module]]) -> tuple[str, str] | None:
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
    modules = {
        part: {
            _flat(name): name
            for name, module in network.named_modules()
            if isinstance(getattr(module, "weight", None), Tensor)
        }
        for part, network in parts.items()
    }
    settings = _adapter_settings(path, metadata)
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
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
    place: tuple[str, str],
    roles: dict[str, Tensor],
    parts: Mapping[str, nn.Module],
    settings: dict[str, dict],
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
    return LowRank(down, up, scale)


def _rows_last(weight: Tensor) -> Tensor:
    """(out, kh, kw, in) of a convolution: the order in memory of channels_last, in which sums run twice as fast."""
    return weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight


def _rows(weight: Tensor) -> Tensor:
    """The matrix (out, kh kw in) of a convolution, (out, in) of a linear layer."""
    return _rows_last(weight).flatten(1)


class LoraStack:
    """The networks of one model, and the one place where their weights are changed.

    Args:
        parts: "unet" and perhaps "text_encoder"; their present weights are the base.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.parts = dict(parts)
        self.base: dict[tuple[str, str], Tensor] = {}  # W_0 of every tensor that was ever touched
        self.active: tuple[tuple[int, float], ...] | None = ()  # (identity of the LoRA, weight), as applied now
        self.held: list[Lora] = []  # the LoRAs of `active`, so that no other one can get their identity
        self.changed: set[tuple[str, str]] = set()

    def weight(self, place: tuple[str, str]) -> Tensor:
        part, name = place
        return self.parts[part].get_submodule(name).weight.data

    @torch.no_grad()
    def apply(self, uses: list[tuple[Lora, float]]) -> None:
        """Make the networks W_0 + sum of w (alpha / r) B A over `uses`, whatever was applied before."""
        uses = [(lora, weight) for lora, weight in uses if weight != 0]
        wanted = tuple((id(lora), weight) for lora, weight in uses)
        if wanted == self.active:
            return
        touched = {place for lora, _ in uses for place in lora}
        self.active, self.changed = None, self.changed | touched  # so that a failure below is mended by the next call
        for place in self.changed:
            weight = self.weight(place)
            if place not in self.base:
                self.base[place] = weight.clone()
            total = _rows(self.base[place])
            for change, factor in ((lora[place], factor) for lora, factor in uses if place in lora):
                up, down = (tensor.to(weight.device).float() for tensor in (change.up, change.down))
                total = torch.addmm(total.float(), up.flatten(1), _rows(down), alpha=factor * change.scale)
            _rows_last(weight).copy_(total.view_as(_rows_last(weight)))
        self.changed, self.active, self.held = touched, wanted, [lora for lora, _ in uses]
