"""What a translator learns from and is measured on: pairs of pictures, or two domains."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data.fitting import Fitting
from train.data.latents import (
    CaptionedPictures,
    digest_of,
    load_pictures,
    to_unit_range,
)
from train.data.lines import maps_of
from train.data.reader import Keep, list_files, not_held_out, open_usable, read_listing
from train.loop.config import ConfigError
from train.measure.translation import Tried
from train.tasks.translate_config import TranslateConfig, fixed_prompts_beside, sides_in, worded
from yoso_core.condition import Condition
from yoso_core.loading import LoadedModel
from yoso_core.requests import RequestError
from yoso_core.translate import BACK, FORWARD, Direction, TranslatorSpec, in_ink


@dataclass(frozen=True)
class Pairs:
    """What should come out, and what goes in.

    Attributes:
        targets: pictures with captions.
        inputs: (N, 3, S, S) uint8; None where lines are made of the targets.
        digest: hash of both.
    """

    targets: CaptionedPictures
    inputs: Tensor | None
    digest: str


def load_pairs(config: TranslateConfig, fit: Fitting, keep: Keep = not_held_out) -> Pairs:
    """Read the folder `pairs`.

    Args:
        config: see `settled`.
        fit: what becomes of the pictures.
        keep: which rows to take.

    Raises:
        ConfigError: nothing in it is usable, an input is missing or broken, or it holds the other kind of pairs.
    """
    folder = Path(config.pairs)
    paired = any("input_file_name" in row for row in list_files(folder).rows)
    if config.input == "lines":
        if paired:
            raise ConfigError(f"{folder} holds pairs; add --input picture to train on both pictures of each")
        targets = load_pictures(folder, fit.kept, keep, shape=fit.shape)
        return Pairs(targets, None, targets.digest)
    if not paired:
        raise ConfigError(
            f"there are no pairs in {folder}; with input picture it must hold the folders train_A and train_B, or "
            "input and target, with files of the same names"
        )
    targets = load_pictures(folder, fit.kept, keep, shape=fit.shape)
    if missing := [row["file_name"] for row in targets.rows if "input_file_name" not in row]:
        raise ConfigError(f"{folder} has no picture that goes into {missing[0]!r:.120}; add it")
    inputs = [_read(folder / row["input_file_name"], fit) for row in targets.rows]
    shape = tuple(targets.pictures.shape[2:])
    if other := [row for row, one in zip(targets.rows, inputs, strict=True) if one.shape[:2] != shape]:
        names = other[0]["input_file_name"], other[0]["file_name"]
        raise ConfigError(f"{names[0]!r:.120} is not as large as {names[1]!r:.120}; leave out no_resize")
    stacked = np.stack(inputs)
    digest = digest_of([targets.digest, hashlib.sha256(stacked).hexdigest()])
    return Pairs(targets, torch.from_numpy(stacked).permute(0, 3, 1, 2), digest)


def load_domains(config: TranslateConfig, fit: Fitting) -> tuple[CaptionedPictures, CaptionedPictures]:
    """Read both domains.

    Args:
        config: see `settled`.
        fit: what becomes of the pictures.

    Raises:
        ConfigError: nothing of one is usable.
    """
    if not config.data:
        first, second = (
            load_pictures(Path(folder), fit.kept, captioned=False, shape=fit.shape) for folder in config.domains
        )
        return first, second  # their prompts are fixed

    listing = read_listing(Path(config.data))  # first, because several lines may tell of one picture
    domains = {row["file_name"]: domain_of(row["captions"], config.domains) for row in listing.rows}
    for word in config.domains:
        if word not in domains.values():
            raise ConfigError(
                f"no picture in {config.data} has a caption with the word {word!r:.40} and without the other; "
                "name words that the captions hold"
            )
    first, second = (
        load_pictures(
            Path(config.data),
            fit.kept,
            keep=lambda row, word=word: domains.get(row["file_name"]) == word,
            shape=fit.shape,
        )
        for word in config.domains
    )
    return replace(first, problems=[*listing.problems, *first.problems]), second


def domain_of(captions: Iterable[str], domains: Sequence[str]) -> str | None:
    """Of which domain a picture is: that whose word, or words in a row, its captions hold; None for none or several."""
    texts = [worded(caption) for caption in captions]
    held = [word for word in domains if any(worded(word) in text for text in texts)]
    return held[0] if len(held) == 1 else None


def held_out_pictures(config: TranslateConfig, fit: Fitting, read: Callable[[list[str]], Condition]) -> list[Tried]:
    """What a run can be measured on: the tests beside its data, as many as `measured`; [] where there are none.

    Args:
        config: see `settled`.
        fit: what becomes of the pictures.
        read: N prompts -> a condition of N rows. Of a picture's phrasings it is handed the first.
    """

    def few(pictures: Tensor) -> Tensor:
        return fit.middle(pictures[: config.measured])

    if not config.measured:
        return []
    if config.pairs:
        keep = _held_out if config.input == "lines" else lambda row: _held_out(row) and "input_file_name" in row
        if not list_files(Path(config.pairs), keep).rows:
            return []
        found = load_pairs(config, fit, _held_out)
        wanted = few(found.targets.pictures)
        if found.inputs is None:
            maps = [maps_of(one.permute(1, 2, 0).numpy())[0] for one in wanted]
            given = drawn_lines(torch.from_numpy(np.stack(maps)), config.ink)
        else:
            given = to_unit_range(few(found.inputs))
        prompts = [phrasings[0] for phrasings in found.targets.captions[: config.measured]]
        return [Tried(FORWARD, given, wanted, read(prompts), True)]
    tests = () if config.data else sides_in(Path(config.domains[0]).resolve().parent, "test") or ()
    if len(tests) < 2 or fixed_prompts_beside(tuple(map(Path, config.domains))) == ():
        return []
    first, second = (few(load_pictures(one, fit.kept, captioned=False, shape=fit.shape).pictures) for one in tests)
    prompts = read(list(config.fixed_prompts))
    return [
        Tried(FORWARD, to_unit_range(first), second, prompts[:1].expand(len(first)), False),
        Tried(BACK, to_unit_range(second), first, prompts[1:].expand(len(second)), False),
    ]


def _held_out(row: dict) -> bool:
    return not not_held_out(row)


def _read(path: Path, fit: Fitting) -> np.ndarray:
    """A picture as (H, W, 3) uint8."""
    try:
        return np.asarray(fit.shape(open_usable(path).picture))
    except RequestError as error:
        raise ConfigError(f"{path} can't be used: {error}") from None


def drawn_lines(maps: Tensor, ink: str) -> Tensor:
    """Maps (..., H, W) uint8, 0 or 255, as pictures (..., 3, H, W) in [-1, 1] with lines of this colour."""
    return in_ink(to_unit_range(maps)[..., None, :, :].expand(*maps.shape[:-2], 3, *maps.shape[-2:]), ink)


def spec_of(config: TranslateConfig, base: LoadedModel, folder: Path) -> TranslatorSpec:
    """What a run's translator will say of itself; its files are in `folder`."""
    if config.domains:
        first, second = config.names
        there, back = config.fixed_prompts
        directions = {
            FORWARD: Direction(f"{capital(first)} to {second}", there),
            BACK: Direction(f"{capital(second)} to {first}", back),
        }
        title = config.title or f"{capital(first)} and {second}, both ways"
        return TranslatorSpec(title, folder, directions, base.spec.family, base.spec.licence)
    title = config.title or ("Lines to pictures" if config.input == "lines" else "Pictures to pictures")
    given = (config.input, config.ink) if config.input == "lines" else (config.input,)
    return TranslatorSpec(title, folder, {FORWARD: Direction(title)}, base.spec.family, base.spec.licence, *given)


def capital(text: str) -> str:
    """With a capital letter in front and all others as they are."""
    return text[:1].upper() + text[1:]
