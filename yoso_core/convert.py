"""Published weights that are pickles, as safetensors. Nothing in a pickle is run: it is read weights only.

LoRAs of any kind, and the checkpoints of pix2pix-turbo, which go one way, and of CycleGAN-Turbo, which go both (arXiv
2403.12036): dictionaries of settings and state dicts, with LoRAs in peft's spelling and skips that are 1x1
convolutions of the decoder. A translator takes what was trained; all else is the base model's own.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from yoso_core.lora.admission import RANK_LIMIT
from yoso_core.lora.reading import PRIOR_KEY, prior_of, read_prior, read_tensors
from yoso_core.pickles import (
    DIGEST,
    NUMBERS,
    Pickle,
    map_pickle,
    named,
    read_pickle,
    refusals,
    save,
    save_one_by_one,
    weights_of,
    written_beside,
)
from yoso_core.requests import RequestError
from yoso_core.translate import (
    BACK,
    CONFIG,
    CONVERTED_TRANSLATORS,
    FIRST,
    FORWARD,
    NETWORK_FILE,
    Direction,
    TranslatorSpec,
    check_spec,
    write_config,
)

FAMILY = "sd2"  # SD-Turbo's; all published checkpoints are for it
LICENCE = "sai-nc-community"  # SD-Turbo's, which holds for what is made of it
ALPHA = 8  # of peft, where none is said
SKIPS = 4
SKIP = "decoder.skip_conv_{}"  # numbered from 1, which is for the smallest features

ONE_WAY = ("rank_unet", "rank_vae", "unet_lora_target_modules", "vae_lora_target_modules")
ONE_WAY_STATES = ("state_dict_unet", "state_dict_vae")
NETWORK_STATES = {  # of one that goes both ways, and what lists the modules in each
    "sd_encoder": "l_target_modules_encoder",
    "sd_decoder": "l_target_modules_decoder",
    "sd_other": "l_modules_others",
}
BOTH_WAYS = (*NETWORK_STATES, *NETWORK_STATES.values(), "rank_unet", "rank_vae", "vae_lora_target_modules")
BOTH_WAYS_STATES = ("sd_vae_enc", "sd_vae_dec")  # both hold both autoencoders whole; the latter is the one that counts
AUTOENCODERS = {FORWARD: "vae.", BACK: "vae_b2a."}  # prefixes


@dataclass(frozen=True)
class Published:
    """What is known of a checkpoint beyond what it says.

    Attributes:
        name: of the folder that it is converted to.
        title: what people read.
        input: as of `TranslatorSpec`; lines are white on black.
        direction: the one that it is for.
        prompt: the caption that the direction was trained with; None where people prompt.
        licence: of the weights.
        about: what it is good for.
    """

    name: str
    title: str
    input: str = "picture"
    direction: str = FORWARD
    prompt: str | None = None
    licence: str = LICENCE
    about: str = ""


PUBLISHED = {  # by file name
    "edge_to_image_loras.pkl": Published(
        "edge-to-image", "Edges to picture", "lines", about="The edges of a photograph become another one."
    ),
    "sketch_to_image_stochastic_lora.pkl": Published(
        "sketch-to-image", "Sketch to picture", "lines", about="What you sketch becomes a picture while you draw."
    ),
    "day2night.pkl": Published(
        "day-to-night", "Day to night", prompt="driving in the night", about="Streets by day become streets by night."
    ),
    "night2day.pkl": Published(
        "night-to-day",
        "Night to day",
        direction=BACK,
        prompt="driving in the day",
        about="Streets by night become streets by day.",
    ),
    "clear2rainy.pkl": Published(
        "clear-to-rainy", "Clear to rainy", prompt="driving in heavy rain", about="It begins to rain in a street."
    ),
    "rainy2clear.pkl": Published(
        "rainy-to-clear",
        "Rainy to clear",
        direction=BACK,
        prompt="driving in the day",
        about="The rain stops in a street.",
    ),
}


def convert_network(source: Path, out: Path) -> str:
    """Write the weights of a network to `out`, one after another, so that gigabytes take no more memory than the
    largest of them; the SHA-256 of the pickle.

    Args:
        source: a pickle of weights by name, as ``torch.save`` writes it by default.
        out: a safetensors file.

    Raises:
        RequestError: it can't be converted, and why; nothing is written.
    """
    with refusals(source):
        read = map_pickle(source)
        tensors = weights_of(read.content, read.size)
        with written_beside(out) as partial:
            save_one_by_one(tensors, partial, {"format": "pt", DIGEST: read.sha256})
    return read.sha256


def convert_lora(source: Path, out: Path, moments: Path | None = None) -> tuple[int, str]:
    """Write the weights of a pickle to `out`; how many tensors there are, and the SHA-256 of the pickle.

    Args:
        source: the pickle.
        out: a safetensors file.
        moments: of the latents that it was trained on, for the informative start: a LoRA that has them, or JSON of a
            "mean" and a "deviation" a channel, both scaled.

    Raises:
        RequestError: it can't be converted, and why; nothing is written.
    """
    told = {} if moments is None else {PRIOR_KEY: _moments(moments)}
    with refusals(source):
        read = read_pickle(source)
        found = read.content
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
            found = found["state_dict"]
        tensors = weights_of(found, read.size)
        with written_beside(out) as partial:
            save(tensors, partial, read.sha256, told)
    return len(tensors), read.sha256


def take_lora(source: Path, out: Path) -> str:
    """A LoRA that was fetched as safetensors at `out`, be it a pickle or not; the SHA-256 of what was fetched.

    Raises:
        RequestError: it holds no weights that can be read; nothing is written.
    """
    with open(source, "rb") as file:
        is_pickle = file.read(9)[8:] != b"{"
    if is_pickle:
        return convert_lora(source, out)[1]
    with refusals(source):
        tensors, metadata = read_tensors(source)
        tensors = {key: value if value.dtype in NUMBERS else value.float() for key, value in tensors.items()}
        with open(source, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with written_beside(out) as partial:
            save(tensors, partial, sha256, metadata | {DIGEST: sha256})
    return sha256


def _moments(path: Path) -> str:
    """Moments of latents as the metadata of a LoRA has them."""
    try:
        stored = json.loads(path.read_text("utf-8")) if path.suffix.lower() == ".json" else None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} can't be read as JSON ({error!s:.80}).") from None
    prior = read_prior(path) if stored is None else prior_of(stored)
    if prior is None:
        raise RequestError(
            f"{path} has no moments: name a LoRA that has them, or JSON with a mean and a deviation each."
        )
    return json.dumps({"mean": prior[0].tolist(), "deviation": prior[1].tolist()})


def convert_translator(
    source: Path,
    out: Path | None = None,
    title: str | None = None,
    prompt: str | None = None,
    direction: str | None = None,
    input: str | None = None,
    ink: str = "white",
    licence: str | None = None,
) -> tuple[TranslatorSpec, str]:
    """Make a translator of a checkpoint of pix2pix-turbo or CycleGAN-Turbo; what it is, and the pickle's SHA-256.

    Args:
        source: what ``torch.save`` wrote.
        out: the folder to make; None for one of its name where the engine finds it.
        title, prompt, input, licence: as of `TranslatorSpec`; None for what is known of the published file.
        direction: "a2b" or "b2a"; None for what the file is published for, or else "a2b".
        ink: as of `TranslatorSpec`.

    Raises:
        RequestError: it can't be converted, and why; nothing is written.
    """
    known = PUBLISHED.get(source.name, Published(source.stem, source.stem, licence="unknown"))
    if direction not in (None, known.direction):  # what it was not published for
        name = f"{known.name}-{direction}"
        known = replace(known, name=name, title=title or name, direction=direction, prompt=None)
    out = out or CONVERTED_TRANSLATORS / known.name
    with refusals(source):
        if out.exists():
            raise ValueError(f"{out} is there already; name another folder")
        read = read_pickle(source)
        network, autoencoder, black = _split(read, known.direction)
        prompt = prompt or known.prompt
        if black == -1 and prompt is None:
            raise ValueError("it was trained with one caption, which it does not say; name it with --prompt")
        title = title or known.title
        directions = {known.direction: Direction(title, prompt)}
        spec = TranslatorSpec(
            title, out, directions, FAMILY, licence or known.licence, input or known.input, ink, black
        )
        check_spec(spec)
        with written_beside(out) as partial:
            partial.mkdir()
            save(network, partial / NETWORK_FILE, read.sha256)
            save(autoencoder, partial / f"{known.direction}.safetensors", read.sha256)
            write_config(spec, partial / CONFIG, source_sha256=read.sha256)
    return spec, read.sha256


def _split(read: Pickle, direction: str) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """What is trained in the network and in the autoencoder of a direction, and the value of black in the inputs."""
    checkpoint = read.content
    if not isinstance(checkpoint, dict) or not {"state_dict_unet", "sd_encoder"} & checkpoint.keys():
        raise ValueError("it is no checkpoint of pix2pix-turbo or CycleGAN-Turbo")
    if "state_dict_unet" in checkpoint:
        _check_keys(checkpoint, ONE_WAY + ONE_WAY_STATES)
        if direction != FORWARD:
            raise ValueError(f"it goes one way, {FORWARD}, so leave --direction out")
        network, autoencoder = (_state(read, name) for name in ONE_WAY_STATES)
        rank = _rank(checkpoint, "rank_unet")
        first = _first(network)
        changes = _changes("state_dict_unet", network, "default", rank, ALPHA)
        where, prefix, black = "state_dict_vae", "", 0.0
    else:
        _check_keys(checkpoint, BOTH_WAYS + BOTH_WAYS_STATES)
        if direction not in AUTOENCODERS:
            raise ValueError(f"it goes {' and '.join(AUTOENCODERS)}, not {direction!r:.40}")
        rank, first, changes = _rank(checkpoint, "rank_unet"), {}, {}
        for name, listing in NETWORK_STATES.items():
            here = _changes(name, _state(read, name), "", rank, rank)
            if twice := here.keys() & changes.keys():
                raise ValueError(f"{min(twice)!r:.80} has two LoRAs")
            listed = checkpoint[listing]
            if not isinstance(listed, (list, tuple, set)) or not all(isinstance(each, str) for each in listed):
                raise ValueError(f"its {listing} is no list of names")
            if lacking := set(listed) - here.keys():
                raise ValueError(f"its {name} lacks {min(lacking)!r:.80}")
            changes |= here
        where, prefix, black = "sd_vae_dec", AUTOENCODERS[direction], -1.0
        autoencoder = _own(_state(read, where), prefix)
    trained = _autoencoder(where, autoencoder, _rank(checkpoint, "rank_vae"))
    return first | _spelt("unet", changes), trained, black


def _check_keys(checkpoint: Mapping, known: Iterable[str]) -> None:
    if odd := [key for key in checkpoint if key not in known]:
        raise ValueError(f"{named(odd[0])} in it is unknown")
    if lacking := [key for key in known if key not in checkpoint]:
        raise ValueError(f"{lacking[0]!r} is missing")


def _rank(checkpoint: Mapping, name: str) -> int:
    rank = checkpoint[name]
    if type(rank) is not int or not 1 <= rank <= RANK_LIMIT:
        raise ValueError(f"its {name} is {named(rank)}; 1 to {RANK_LIMIT} is taken")
    return rank


def _state(read: Pickle, name: str) -> dict[str, Tensor]:
    return weights_of(read.content[name], read.size, f"its {name}")


def _own(both: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What was trained of the autoencoder of this prefix, out of two that are whole.

    Raises:
        ValueError: more than LoRAs and skips was trained, because all else should be the same in both.
    """
    parts = {each: {} for each in AUTOENCODERS.values()}
    for key, value in both.items():
        name, _, rest = key.partition(".")
        if f"{name}." not in parts:
            raise ValueError(f"{key!r:.80} in its autoencoders is unknown")
        parts[f"{name}."][rest] = value
    first, second = ({key: value for key, value in part.items() if not _trained(key)} for part in parts.values())
    for key in sorted(first.keys() | second.keys()):
        if key not in first or key not in second or not torch.equal(first[key], second[key]):
            raise ValueError(f"{key!r:.80} is not the same in its autoencoders, which were trained whole")
    return {key: value for key, value in parts[prefix].items() if _trained(key)}


def _trained(key: str) -> bool:
    return ".lora_" in key or ".skip_conv_" in key


def _first(network: dict[str, Tensor]) -> dict[str, Tensor]:
    """The retrained first convolution, taken out of the network's weights, and its own original beside it dropped."""
    twin = f"{FIRST}.conv_in_curr.weight" in network
    stem = f"{FIRST}.conv_in_curr" if twin else FIRST
    found = {f"{FIRST}.{name}": _pop(network, f"{stem}.{name}") for name in ("weight", "bias")}
    if twin:
        for name in ("weight", "bias"):
            _pop(network, f"{FIRST}.conv_in_pretrained.{name}")
    return found


def _autoencoder(where: str, state: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """LoRA and skips of an autoencoder, as a translator's file holds them."""
    weights = []
    for number in range(1, SKIPS + 1):
        wrapped = f"{SKIP.format(number)}.base_layer.weight"
        weights.append(_pop(state, wrapped if wrapped in state else f"{SKIP.format(number)}.weight"))
    changes = _changes(where, state, "vae_skip", rank, ALPHA)
    own = [changes.pop(SKIP.format(number), None) for number in range(1, SKIPS + 1)]
    skips = {f"skips.{index}.weight": weight for index, weight in enumerate(weights)}
    for index, (weight, pair) in enumerate(zip(weights, own, strict=True)):
        if pair is not None:
            skips[f"skips.{index}.change"] = _dense(f"{where}, skip {index + 1},", *pair, weight.shape)
        elif any(own):
            skips[f"skips.{index}.change"] = torch.zeros_like(weight)
    return skips | _spelt("vae", changes)


def _dense(where: str, down: Tensor, up: Tensor, shape: torch.Size) -> Tensor:
    """The change B A of a 1x1 convolution of this shape (out, in, 1, 1)."""
    if (*up.shape[:1], *down.shape[1:]) != tuple(shape):
        raise ValueError(f"the LoRA of its {where} is of another shape than its weight")
    return (up.flatten(1) @ down.flatten(1)).view(shape)


def _changes(
    where: str, state: Mapping[str, Tensor], adapter: str, rank: int, alpha: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by module name, their strength alpha / r folded into B.

    Args:
        where: the part of the checkpoint, for messages.
        state: LoRA weights alone, in peft's spelling.
        adapter: its name in the keys; "" for none.
        rank: r, which all have.
        alpha: of peft.
    """
    spelling = re.compile(rf"(.+)\.lora_([AB]){re.escape(f'.{adapter}') if adapter else ''}\.weight")
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = spelling.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r:.80} in its {where} is unknown")
        found.setdefault(match[1], {})[match[2]] = value
    for module, pair in found.items():
        if pair.keys() != {"A", "B"}:
            raise ValueError(f"{module!r:.80} in its {where} has only half of a LoRA")
        down, up = pair["A"], pair["B"]
        if down.ndim not in (2, 4) or up.ndim != down.ndim or not down.shape[0] == up.shape[1] == rank:
            shapes = f"{tuple(up.shape)} times {tuple(down.shape)}"
            raise ValueError(f"{module!r:.80} in its {where} is {shapes}, which is no LoRA of rank {rank}")
    return {module: (pair["A"], pair["B"] * (alpha / rank)) for module, pair in found.items()}


def _pop(state: dict[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ValueError(f"{key!r} is missing")
    return state.pop(key)


def _spelt(part: str, changes: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """LoRA weights in diffusers' spelling."""
    pairs = (
        (f"{part}.{module}.lora_{role}.weight", value)
        for module, pair in changes.items()
        for role, value in zip("AB", pair, strict=True)
    )
    return dict(pairs)
