"""LoRA files to changes of weights: each is proved to fit before it touches anything.

What a file is, whether it fits and what of it is used can be told by its header alone; `check` does that by the same
code that `admit` reads the weights with, over tensors that have a shape and no numbers.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from yoso_core.lora.changes import Change, Decomposed, Hadamard, Kronecker, Lora, LowRank, Whole
from yoso_core.lora.reading import CHECKPOINT_KEY, HEADER_LIMIT, LoraError, one_line, read_header, read_tensors
from yoso_core.lora.spellings import PEFT, PREFIXES, Module, Modules, flat, named_part, other, read_key, unread_kind

RANK_LIMIT = 256
SCALE_LIMIT = 1e4  # largest alpha / r; beyond it no LoRA means what it says
PEFT_FILE = "adapter_model.safetensors"
PEFT_SETTINGS = "adapter_config.json"  # beside it
FIRST_BLOCKS = ("input_blocks", "middle_block", "output_blocks")  # of the first implementation of the UNet
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LOKR = (("lokr_w1", "lokr_w1_a", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a", "lokr_w2_b"))

Shape = tuple[int, ...]
Keys = dict[Module, dict[str, str]]  # by what they change and by role


@dataclass(frozen=True, eq=False)
class Outline:
    """What a LoRA may change, without its numbers.

    Attributes:
        shapes: of the parameters, by the part of the pipeline and their name.
    """

    shapes: Mapping[str, Mapping[str, Shape]]

    @cached_property
    def modules(self) -> Modules:
        end = ".weight"
        return Modules(
            {
                part: [name.removesuffix(end) for name in parameters if name.endswith(end)]
                for part, parameters in self.shapes.items()
            }
        )


def outline(parts: Mapping[str, nn.Module]) -> Outline:
    """The outline of networks that are in memory."""
    shapes = {
        part: {name: tuple(value.shape) for name, value in network.named_parameters()}
        for part, network in parts.items()
    }
    return Outline(shapes)


def admit(path: Path, parts: Mapping[str, nn.Module]) -> Lora:
    """Read a LoRA file and prove that it fits, before it touches anything.

    Args:
        path: a safetensors file.
        parts: the networks that it may change: "unet", "text_encoder", "text_encoder_2".

    Raises:
        LoraError: with the reason; nothing was changed.
    """
    shapes, metadata = read_header(path)
    here = outline(parts)
    found, left = _sort(path, shapes, here, metadata)
    settings, notes = _adapter_settings(path, shapes, metadata)
    tensors, _ = read_tensors(path, [key for keys in found.values() for key in keys.values()])
    return _lora(path, found, tensors, here, settings, (*_left_out(path, left), *notes))


def admit_tensors(path: Path, tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module]) -> Lora:
    """Prove that tensors are a LoRA that fits and nothing else, its strength 1 where they have no alpha.

    Args:
        path: the file that they are of.
        tensors: by key.
        parts: the networks that it may change: "unet", "text_encoder", "vae".

    Raises:
        LoraError: with the reason; nothing was changed.
    """
    here = outline(parts)
    found, left = _sort(path, {key: tuple(value.shape) for key, value in tensors.items()}, here, {})
    if left:
        raise _no_place(path, left[0])
    return _lora(path, found, tensors, here, {}, ())


def check(path: Path, here: Outline) -> tuple[str, ...]:
    """See by its header alone whether a LoRA file fits networks.

    Returns:
        What of it is left out, and why, in words.

    Raises:
        LoraError: it does not fit, and why.
    """
    shapes, metadata = read_header(path)
    found, left = _sort(path, shapes, here, metadata)
    settings, notes = _adapter_settings(path, shapes, metadata)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return _lora(path, found, tensors, here, settings, (*_left_out(path, left), *notes)).notes


def unread(path: Path, keys: Iterable[str]) -> str:
    """What a file is, in a sentence, if it is a LoRA of a kind that is not read here; "" for any other file."""
    kind = unread_kind(keys)
    return one_line(f"{path.name} is {kind}, which is not read here.") if kind else ""


def rank(path: Path, shapes: Mapping[str, Shape]) -> int:
    """The rank of the first change of a file, whatever model it is for; 0 where it is of full rank.

    Raises:
        LoraError: it is no LoRA, and what it is; or its rank is one that no model takes.
    """
    for roles in _by_stem(shapes).values():
        if {"down", "up"} <= roles.keys():
            return _checked_rank(path, roles["down"])
        if roles.keys() >= set(LOHA):
            return _checked_rank(path, roles["hada_w1_b"])
        if all(whole in roles or {a, b} <= roles.keys() for whole, a, b in LOKR):
            factor = roles.get("lokr_w2_b", roles.get("lokr_w1_b"))
            return _checked_rank(path, factor) if factor is not None else 0
        if "difference" in roles:
            return 0
    raise _no_lora(path, shapes)


def prompt_width(shapes: Mapping[str, Shape]) -> int | None:
    """The width of the prompts that the cross-attention of a file's changes reads; None where it has none."""
    for stem, roles in _by_stem(shapes).items():
        name = flat(stem).replace("_processor_", "_")
        if not name.endswith(("attn2_to_k", "attn2_to_v")):
            continue
        for role in ("down", "hada_w1_b", "difference"):
            if len(roles.get(role, ())) >= 2:
                return roles[role][1]
        halves = [roles.get(whole, roles.get(b, ())) for whole, _, b in LOKR]
        if all(len(half) >= 2 for half in halves):
            return math.prod(half[1] for half in halves)
    return None


def _by_stem(shapes: Mapping[str, Shape]) -> dict[str, dict[str, Shape]]:
    groups: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        if key := read_key(name):
            groups.setdefault(key.stem, {})[key.role] = shape
    return groups


def _checked_rank(path: Path, down: Shape) -> int:
    found = down[0] if down else 0
    if not 1 <= found <= RANK_LIMIT:
        raise LoraError(f"{path.name} has rank {found}; 1 to {RANK_LIMIT} is taken.")
    return found


def _no_lora(path: Path, keys: Iterable[str]) -> LoraError:
    kind = other(keys)
    reason = f"is {kind} and no LoRA" if kind else "has no LoRA weights"
    return LoraError(f"{path.name} {reason}; please choose another file.")


def _sort(
    path: Path, shapes: Mapping[str, Shape], here: Outline, metadata: Mapping[str, str]
) -> tuple[Keys, list[str]]:
    """The keys of a file by what they change, and those that nothing is done with.

    Raises:
        LoraError: the file is for other networks, or of a kind that is not read.
    """
    if CHECKPOINT_KEY in metadata:
        raise LoraError(f"{path.name} is of a checkpoint, which does not say its strength; take the run's output.")
    if problem := unread(path, shapes):
        raise LoraError(problem)
    found: Keys = {}
    spelt: dict[tuple[Module, str], str] = {}  # the stem of each key in `found`
    foreign: list[str] = []  # keys of a LoRA that have no place
    strangers: list[str] = []
    for name in shapes:
        key = read_key(name)
        if not key:
            strangers.append(name)
        elif not (module := here.modules.find(key.stem)):
            foreign.append(name)
        elif (taken := spelt.get((module, key.role))) is None or _is_first(taken) > _is_first(key.stem):
            found.setdefault(module, {})[key.role] = name
            spelt[module, key.role] = key.stem
        elif _is_first(taken) == _is_first(key.stem):
            raise LoraError(f"{path.name} changes {module[1]!r} twice; save one LoRA in a file of its own.")
    for module in [module for module, roles in found.items() if set(roles) == {"alpha"}]:
        strangers.append(found.pop(module)["alpha"])
    beyond = [name for name in foreign if named_part(read_key(name).stem) in {"", *here.shapes}]
    if beyond or (foreign and not found):
        raise _no_place(path, (beyond or foreign)[0])
    if not found:
        raise _no_lora(path, shapes)
    return found, [*foreign, *strangers]


def _no_place(path: Path, key: str) -> LoraError:
    return LoraError(f"{path.name} is for another model: this one has no place for {key[:80]!r}.")


def _is_first(stem: str) -> bool:
    """Whether it names a module as the first implementation does; of a file that spells it both ways, diffusers reads
    the other one.
    """
    return any(block in flat(stem) for block in FIRST_BLOCKS)


def _left_out(path: Path, names: list[str]) -> tuple[str, ...]:
    """One sentence on keys that nothing is done with; none where there are none."""
    if not names:
        return ()
    kinds: Counter[str] = Counter()
    for name in names:
        key = read_key(name)
        kinds[other([name]) or (named_part(key.stem) if key else "") or "an unknown kind"] += 1
    counted = ", ".join(f"{number} of {kind}" for kind, number in kinds.items())
    return (f"{path.name} also holds tensors that are left out: {counted}, such as {names[0][:60]!r}.",)


def _adapter_settings(
    path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str]
) -> tuple[dict[str, dict], tuple[str, ...]]:
    """What peft knew of the adapter of each part, as diffusers stores it in the file or peft beside it; and what is to
    be told of it.

    Raises:
        LoraError: it can't be read, or must be there and is not; the LoRA's strength is unknown without it.
    """
    beside = path.with_name(PEFT_SETTINGS)
    by_peft = any(flat(name).startswith(PEFT) for name in shapes)
    try:
        if "lora_adapter_metadata" in metadata:
            stored = json.loads(metadata["lora_adapter_metadata"])
            return {
                part: {
                    key.removeprefix(f"{part}."): value for key, value in stored.items() if key.startswith(f"{part}.")
                }
                for part in PREFIXES
            }, ()
        if not (by_peft or path.name == PEFT_FILE) or any(name.endswith(".alpha") for name in shapes):
            return {}, ()
        if beside.exists():
            with open(beside, encoding="utf-8") as file:
                stored = dict(json.loads(file.read(HEADER_LIMIT)).items())
            return dict.fromkeys(PREFIXES, stored), ()
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise LoraError(f"The adapter settings of {path.name} can't be read ({error!s:.60}).") from None
    if path.name == PEFT_FILE:
        raise LoraError(f"{path.name} does not say its strength; its {PEFT_SETTINGS} must lie beside it.")
    return {}, (f"{path.name} does not say its strength and no {PEFT_SETTINGS} lies beside it; 1 is taken.",)


def _declared_scale(settings: Mapping, name: str, rank: int | None) -> float:
    """alpha / r of one module as peft computes it: an alpha of its own by pattern, and 1 / sqrt(r) where asked.

    Args:
        settings: of the adapter.
        name: of the module.
        rank: of the change; None where it is of full rank, which only LoKr is.
    """

    def own(patterns: str, usual: float | None) -> float | None:
        for pattern, value in (settings.get(patterns) or {}).items():
            exact, bare = pattern.startswith("^"), pattern.removeprefix("^").removeprefix("text_model.")
            plain = name.removeprefix("text_model.")
            if plain == bare or (not exact and plain.endswith(f".{bare}")):
                return float(value)
        return usual

    rank = own("rank_pattern", settings.get("r")) if rank is None else rank
    alpha = own("alpha_pattern", settings.get("lora_alpha", settings.get("alpha")))
    if rank is None or alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


@dataclass(frozen=True)
class _Site:
    """A weight, or a part of one, and the file that changes it.

    Attributes:
        file: its name.
        module: what people know the weight by.
        shape: of the weight.
    """

    file: str
    module: str
    shape: Shape

    def misfit(self, *tensors: Tensor) -> LoraError:
        shapes = " times ".join(str(tuple(tensor.shape)) for tensor in tensors)
        return LoraError(
            f"{self.file} is for another model: {self.module!r} is {self.shape} here and {shapes} in the file."
        )

    def half(self) -> LoraError:
        return LoraError(f"{self.file} has only half of the pair for {self.module!r}; the file is incomplete.")


def _lora(
    path: Path,
    found: Keys,
    tensors: Mapping[str, Tensor],
    here: Outline,
    settings: Mapping[str, Mapping],
    notes: tuple[str, ...],
) -> Lora:
    """The changes of a file.

    Raises:
        LoraError: one does not fit or is broken.
    """
    lora, unbiased = Lora(), []
    for (part, name), keys in found.items():
        roles = {role: tensors[key] for role, key in keys.items()}
        for role, tensor in roles.items():
            _refuse_odd_numbers(path, keys[role], role, tensor)
        shape = here.shapes[part][f"{name}.weight"]
        site = _Site(path.name, name, shape)
        change, scale = _change(site, roles, settings.get(part, {}))
        if change is not None:
            lora[part, f"{name}.weight"] = change
        for role, factor in (("bias", scale), ("bias_difference", 1.0)):
            if role not in roles:
                continue
            bias = here.shapes[part].get(f"{name}.bias")
            if bias is None:
                unbiased.append(name)
            elif tuple(roles[role].shape) != bias:
                raise _Site(path.name, f"{name}.bias", bias).misfit(roles[role])
            else:
                lora[part, f"{name}.bias"] = Whole(factor * roles[role])
    if unbiased:
        notes = (*notes, f"{path.name} has a bias for {unbiased[0]!r}, which has none here; it is left out.")
    lora.notes = notes
    return lora


def _refuse_odd_numbers(path: Path, key: str, role: str, tensor: Tensor) -> None:
    if not (tensor.is_floating_point() or role == "alpha"):
        raise LoraError(f"{path.name} holds whole numbers in {key[:80]!r}, as no LoRA does; the file is broken.")
    if not tensor.is_meta and not torch.isfinite(tensor.float()).all():
        raise LoraError(f"{path.name} holds NaN or infinite values in {key[:80]!r}; the file is broken.")


def _change(site: _Site, roles: Mapping[str, Tensor], settings: Mapping) -> tuple[Change | None, float]:
    """The change of a weight, None where only its bias changes; and alpha / r."""
    kinds = {role.partition("_")[0] for role in roles} & {"down", "up", "mid", "hada", "lokr", "difference"}
    kinds = {"pair" if kind in ("down", "up", "mid") else kind for kind in kinds}
    if len(kinds) > 1:
        raise LoraError(f"{site.file} changes {site.module!r} in two ways at once; the file is broken.")
    magnitude = roles.get("dora_scale", roles.get("magnitude"))
    change: Change
    match next(iter(kinds), None):
        case "pair":
            if not {"down", "up"} <= roles.keys():
                raise site.half()
            pair = _pair(site, roles["down"], roles["up"], roles.get("mid"))
            scale = _scale(site, roles, settings, len(roles["down"]))
            change = LowRank(pair.down, pair.up, scale)
        case "hada":
            if not roles.keys() >= set(LOHA):
                raise site.half()
            first, second = (_lycoris_pair(site, roles, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
            scale = _scale(site, roles, settings, len(roles["hada_w1_b"]))
            change = Hadamard(first, second, scale)
        case "lokr":
            left, right, low = _factors(site, roles)
            scale = _scale(site, roles, settings, low)
            change = Kronecker(left, right, scale)
        case "difference":
            scale = 1.0
            if tuple(roles["difference"].shape) != site.shape:
                raise site.misfit(roles["difference"])
            change = Whole(roles["difference"])
        case _ if magnitude is not None or not roles.keys() & {"bias", "bias_difference"}:
            raise site.half()
        case _:
            return None, _scale(site, roles, settings, None)
    if magnitude is not None:
        change = _decomposed(site, change, magnitude, roles)
    return change, scale


def _scale(site: _Site, roles: Mapping[str, Tensor], settings: Mapping, rank: int | None) -> float:
    alpha = roles.get("alpha")
    if alpha is not None and alpha.is_meta:
        return 1.0
    try:
        if alpha is None:
            scale = _declared_scale(settings, site.module, rank)
        else:
            scale = alpha.float().mean().item() / rank if rank else 1.0
    except (ValueError, TypeError, AttributeError, OverflowError, ZeroDivisionError):
        scale = math.nan
    if not abs(scale) <= SCALE_LIMIT:
        raise LoraError(f"{site.file} has no usable alpha at {site.module!r}; the file is broken.")
    return scale


def _pair(site: _Site, down: Tensor, up: Tensor, mid: Tensor | None = None) -> LowRank:
    """A pair of matrices for a weight of `site.shape`; where there is one, with a kernel between them (Tucker).

    Some trainers keep linear layers as 1x1 convolutions, and convolutions as matrices; either way it is the same pair.
    """
    out, into, *kernel = site.shape if len(site.shape) in (2, 4) else (0, 0)
    rank = len(down) if down.ndim else 0
    if not 1 <= rank <= RANK_LIMIT:
        raise LoraError(f"{site.file} has rank {rank} at {site.module!r}; 1 to {RANK_LIMIT} is taken.")
    if not out or down.ndim not in (2, 4) or up.ndim not in (2, 4):
        raise site.misfit(up, down)
    given = down
    if mid is not None:
        if mid.ndim != 4 or list(mid.shape[2:]) != kernel or mid.shape[1] != rank or down.flatten(1).shape[1] != into:
            raise site.misfit(up, mid, down)
        rank = len(mid)
        if not 1 <= rank <= RANK_LIMIT:
            raise LoraError(f"{site.file} has rank {rank} at {site.module!r}; 1 to {RANK_LIMIT} is taken.")
        down = torch.einsum("rskl,si->rikl", mid.float(), down.flatten(1).float())
    is_matrix = down.ndim == 2 or list(down.shape[2:]) == (kernel or [1, 1])
    if not is_matrix or down.flatten(1).shape[1] != math.prod((into, *kernel)) or up.flatten(1).shape != (out, rank):
        raise site.misfit(up, given)
    down = down.reshape(rank, into, *kernel)
    return LowRank(down.contiguous(memory_format=torch.channels_last) if kernel else down, up.flatten(1), 1.0)


def _lycoris_pair(site: _Site, roles: Mapping[str, Tensor], name: str, kernel: str) -> LowRank:
    """The pair ``<name>_a`` (out, r) and ``<name>_b`` (r, in); with a kernel between them the former is (r, out)."""
    up, mid = roles[f"{name}_a"], roles.get(kernel)
    if mid is not None and up.ndim != 2:
        raise site.misfit(up)
    return _pair(site, roles[f"{name}_b"], up if mid is None else up.T, mid)


def _factors(site: _Site, roles: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, int | None]:
    """Both matrices of a Kronecker product, and the rank of what of them is itself a product."""
    for whole, a, b in LOKR:
        if (whole in roles) == ({a, b} <= roles.keys()):
            raise site.half()
    left = [roles[name] for name in LOKR[0] if name in roles]  # W, or A and B of W = A B
    ends = (*left[0].shape[:1], *left[-1].shape[1:2])
    divides = len(site.shape) in (2, 4) and len(ends) == 2 and all(ends)
    if not divides or site.shape[0] % ends[0] or site.shape[1] % ends[1]:
        raise site.misfit(*left)
    rank = None
    if len(left) == 2:
        pair = _pair(_Site(site.file, site.module, ends), left[1], left[0])
        left, rank = [_product(pair)], len(pair.down)
    rest = (site.shape[0] // ends[0], site.shape[1] // ends[1], *site.shape[2:])
    inner = _Site(site.file, site.module, rest)
    if "lokr_w2" in roles:
        right = roles["lokr_w2"]
        if right.ndim not in (2, 4) or len(right) != rest[0] or right.flatten(1).shape[1] != math.prod(rest[1:]):
            raise inner.misfit(right)
        right = right.reshape(rest)
    else:
        right, rank = _product(_lycoris_pair(inner, roles, "lokr_w2", "lokr_t2")), len(roles["lokr_w2_b"])
    if left[0].ndim != 2:
        raise site.misfit(left[0])
    return left[0], right, rank


def _product(pair: LowRank) -> Tensor:
    """B A in the shape of what it changes."""
    return (pair.up.float() @ pair.down.float().flatten(1)).view(len(pair.up), *pair.down.shape[1:])


def _decomposed(site: _Site, change: Change, magnitude: Tensor, roles: Mapping[str, Tensor]) -> Decomposed:
    out, into = site.shape[:2]
    by_output = "magnitude" in roles or magnitude.ndim == 1 or len(magnitude) == out
    if magnitude.numel() != (out if by_output else into):
        raise site.misfit(magnitude)
    return Decomposed(change, magnitude.flatten(), "output" if by_output else "input")
