"""LoRAs: admission of files, and their weights added onto a copy of what they change.

A LoRA changes a weight matrix by ``W = W_0 + w (alpha / r) B A`` (arXiv 2106.09685). The networks hold W; W_0 is kept
aside the first time that a tensor is touched, and every change starts from it again. So the weights are a function of
the set of LoRAs asked for alone, removal is exact, and inference costs no more than without.

Three spellings of the same thing are read: diffusers' (``unet.<module>.lora_A.weight``), peft's
(``base_model.model.<module>.lora_A.weight``) and kohya's (``lora_unet_<module>.lora_down.weight`` with ``.alpha``).
"""

import json
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from yoso_core.requests import RequestError

HEADER_LIMIT = 1_000_000  # bytes
FILE_LIMIT = 4 * 2**30  # bytes; what is read is held in memory
KEY_LIMIT = 5000
CHECKPOINT_KEY = "yoso_checkpoint"  # metadata of weights that only the run that wrote them can read
PRIOR_KEY = "yoso_prior"  # metadata of a one-step LoRA: moments of its latents, for the informative prior
RANK_LIMIT = 256
SCALE_LIMIT = 1e4  # largest alpha / r; beyond it no LoRA means what it says
DTYPES = {"F16", "BF16", "F32", "F64", "F8_E4M3"}
SUFFIX = re.compile(r"\.(?:(lora_A|lora_down|lora\.down|lora_B|lora_up|lora\.up)(?:\.default)?\.weight|(alpha))$")
DOWN = {"lora_A", "lora_down", "lora.down"}
PREFIXES = {
    "unet": ("unet.", "lora_unet_", "base_model.model.", ""),
    "text_encoder": ("text_encoder.", "lora_te_"),
    "vae": ("vae.",),  # of translators alone
}


class LoraError(RequestError):
    """A file that is not a LoRA for this model, and why: one line, whatever the file's name holds."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Words of strangers, such as names of files, without line breaks and whatever else can't be printed."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


@dataclass(frozen=True)
class LowRank:
    """The change of one weight.

    Attributes:
        down: A, (r, in) or (r, in, kh, kw); the latter as `_rows_last` reads it.
        up: B, (out, r) or (out, r, 1, 1).
        scale: alpha / r.
    """

    down: Tensor
    up: Tensor
    scale: float


Place = tuple[str, str]  # part of the pipeline, module name
Lora = dict[Place, LowRank]
State = tuple[tuple[int, float], ...]  # identity of each LoRA and its weight, in order


@contextmanager
def _opened(path: Path) -> Iterator[tuple[safe_open, list[str]]]:
    """A safetensors file and its keys; its size limits are checked before any of it is read.

    Raises:
        LoraError: not a safetensors file, or one that is too large.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
            size = os.fstat(file.fileno()).st_size
        if size > FILE_LIMIT:
            raise LoraError(f"{path.name} has {size / 2**30:.1f} GiB; at most {FILE_LIMIT / 2**30:g} are read.")
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
            yield file, keys
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise LoraError(
            f"{path.name} can't be read as safetensors ({error!s:.80}); please choose another file."
        ) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, 8-bit numbers widened; raises as `_opened` does."""
    with _opened(path) as (file, keys):
        tensors = {key: file.get_tensor(key) for key in keys}
        wide = {key: value.half() if value.dtype == torch.float8_e4m3fn else value for key, value in tensors.items()}
        return wide, file.metadata() or {}


def read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of the tensors and metadata of a safetensors file, without its weights; raises as `_opened` does."""
    with _opened(path) as (file, keys):
        return {key: tuple(file.get_slice(key).get_shape()) for key in keys}, file.metadata() or {}


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


def _rows_last(weight: Tensor) -> Tensor:
    """(out, kh, kw, in) of a convolution: the order in memory of channels_last, in which sums run twice as fast."""
    return weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight


def _rows(weight: Tensor) -> Tensor:
    """The matrix (out, kh kw in) of a convolution, (out, in) of a linear layer."""
    return _rows_last(weight).flatten(1)


class LoraStack:
    """The networks of one model, and the one place where their weights are changed.

    The sum of a place is that of its first use, in float32, plus the product of all others, their ranks side by side.
    Of float32 networks the first part is kept: in nearly all requests it is the one-step LoRA's, so that another style
    costs its own few ranks alone. That is one dense copy more, of what is touched. Of networks in bfloat16, the large
    ones, it would take twice their memory, and next to their pictures the time saved is small. Kept or computed again,
    it is the same numbers.

    Args:
        parts: "unet" and perhaps "text_encoder" and "vae"; their present weights are the base.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.parts = dict(parts)
        self.modules: dict[Place, nn.Module] = {}
        self.base: dict[Place, Tensor] = {}  # W_0 of every tensor that was ever touched
        self.active: State | None = ()  # as applied now
        self.held: list[Lora] = []  # the LoRAs of `active` and `written`, so that no other one can get their identity
        self.written: dict[Place, State | None] = {}  # the uses in each place that is not W_0; None: a write failed
        self.started: dict[Place, tuple[Lora, float, Tensor]] = {}  # sums of one use, with that use

    @property
    def for_requests(self) -> dict[str, nn.Module]:
        """What a LoRA file may change. The autoencoder is left to translators: encoded pictures are remembered."""
        return {name: network for name, network in self.parts.items() if name != "vae"}

    def active_on(self, part: str) -> State:
        """Those in force that change something in this network."""
        uses = zip(self.active or (), self.held, strict=False)  # a failed write leaves none
        return tuple(state for state, lora in uses if any(place[0] == part for place in lora))

    def weight(self, place: Place) -> Tensor:
        if place not in self.modules:
            part, name = place
            self.modules[place] = self.parts[part].get_submodule(name)  # a tenth of a swap, if looked up each time
        return self.modules[place].weight.data

    @torch.no_grad()
    def apply(self, uses: list[tuple[Lora, float]]) -> None:
        """Make the networks W_0 + sum of w (alpha / r) B A over `uses`, whatever was applied before."""
        uses = [(lora, weight) for lora, weight in uses if weight != 0]
        if _state(uses) == self.active:
            return
        self.active = None  # so that a failure below is mended by the next call
        self.held += [lora for lora, _ in uses]
        wanted: dict[Place, list[tuple[Lora, float]]] = {place: [] for place in self.written}
        for lora, weight in uses:
            for place in lora:
                wanted.setdefault(place, []).append((lora, weight))
        for place, here in wanted.items():
            if self.written.get(place, ()) != _state(here):
                self.written[place] = None
                self._write(place, here)
                self.written[place] = _state(here)
        self.written = {place: state for place, state in self.written.items() if state}
        self.active, self.held = _state(uses), [lora for lora, _ in uses]

    def _write(self, place: Place, uses: list[tuple[Lora, float]]) -> None:
        """Give one weight W_0 + sum of w (alpha / r) B A over `uses`, all of which change it."""
        weight = self.weight(place)
        if place not in self.base:
            self.base[place] = weight.clone()
        if not uses:
            weight.copy_(self.base[place])
            return
        rows, total = _rows_last(weight), self._start(place, *uses[0])
        if others := uses[1:]:
            in_place = rows.view(total.shape) if rows.is_contiguous() and rows.dtype == total.dtype else None
            total = torch.addmm(total, *_product(place, others, weight.device), out=in_place)
            if in_place is not None:
                return
        rows.copy_(total.view_as(rows))

    def _start(self, place: Place, lora: Lora, factor: float) -> Tensor:
        """The matrix W_0 + w (alpha / r) B A of one use, in float32."""
        kept = self.started.get(place)
        if kept and kept[0] is lora and kept[1] == factor:
            return kept[2]
        base = self.base[place]
        total = torch.addmm(_rows(base).float(), *_product(place, [(lora, factor)], base.device))
        if base.dtype == torch.float32:
            self.started[place] = lora, factor, total
        return total


def _state(uses: list[tuple[Lora, float]]) -> State:
    return tuple((id(lora), weight) for lora, weight in uses)


def _product(place: Place, uses: list[tuple[Lora, float]], device: torch.device) -> tuple[Tensor, Tensor]:
    """B (out, r) and A (r, in) of several changes of one weight as one product; the strengths are in B."""
    changes = [(lora[place], factor) for lora, factor in uses]
    up = torch.cat([change.up.flatten(1) for change, _ in changes], 1)
    down = torch.cat([_rows(change.down) for change, _ in changes])
    strengths = [factor * change.scale for change, factor in changes for _ in range(len(change.down))]
    return up.to(device).float() * torch.tensor(strengths, device=device), down.to(device).float()
