"""One-step image translation (arXiv 2403.12036): pix2pix-turbo from pairs, CycleGAN-Turbo from two domains.

A one-step model learns to begin from an encoded picture instead of noise: by LoRAs in the network and the autoencoder,
a retrained first convolution and skips around the network. Pairs teach it by what comes out; two domains by what comes
back, the discriminator of each domain saying what belongs there.

Where this leaves the paper: pictures are compared by LPIPS on AlexNet and told from real ones by heads on its features
(and one on the pixels), or by the project's own evaluator, because CLIP and DINO want a hub; for the same reason the
similarity of picture and prompt has no weight unless it is given one; and pictures are encoded as the mean of the
posterior instead of a sample of it.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import Tensor, nn

from train.data.fitting import FITTINGS, SQUARE, Fitting
from train.data.gathering import FIXED_PROMPTS, SIDE
from train.data.latents import (
    CaptionedPictures,
    Captions,
    choose_phrasings,
    digest_of,
    drop_prompts,
    grid,
    load_pictures,
    to_unit_range,
    weights_fingerprint,
)
from train.data.lines import bent, maps_of, sketch, varied
from train.data.listings import read_captions
from train.data.reader import Keep, list_files, not_held_out, open_usable, read_listing
from train.loop.config import ConfigError, setting, with_defaults
from train.loop.randomness import Draws
from train.loop.trainer import Losses, Player
from train.measure.evaluate import CLIP, Judge
from train.measure.evaluator import words_of
from train.measure.translation import Tried
from train.tasks.augmentation import CHANGES, NUMBERS, POLICY, augmented
from train.tasks.base import ModelRunConfig, lora_config
from train.tasks.losses import discriminator_loss, generator_loss, per_sample_mse
from train.tasks.perception import PERCEPTIONS, Perception, PictureDiscriminator
from yoso_core.condition import Condition
from yoso_core.families.base import Family
from yoso_core.models import LoadedModel
from yoso_core.requests import TRANSLATION_INPUTS, RequestError
from yoso_core.schedule import NoiseSchedule, Prediction
from yoso_core.translate import BACK, FORWARD, INKS, Direction, Skips, Translator, TranslatorSpec, in_ink

TRAINED = ("all", "no-skips", "no-lora", "first-conv")
SIMILARITIES = ("emoji", "clip")
JUDGES = ("emoji", "inception", "clip")
AUTO = "auto"
# Everything that convolves or attends in an autoencoder.
AUTOENCODER_TARGETS = [
    *("conv_in", "conv1", "conv2", "conv_shortcut", "conv", "conv_out", "to_q", "to_k", "to_v", "to_out.0")
]
SHOWN = 8  # pictures in a row of a preview


@dataclass(frozen=True)
@with_defaults(steps=2000, batch=16, learning_rate=5e-4, warmup=50, clip=10.0, ema=0.99, rank=8, alpha=8)
class TranslateConfig(ModelRunConfig):
    """A translator of pictures, from pairs or from two domains."""

    pairs: str = setting(
        "",
        "folder of what should come out, with captions; or of pairs: train_A and train_B, or input and target, with "
        "files of the same names",
        on_resume=True,
    )
    input: str = setting(
        AUTO,
        "what goes in: picture, the other one of a pair; lines, edges and scribbles that are made of the pictures; or "
        "auto, pictures where there are pairs",
        (AUTO, *TRANSLATION_INPUTS),
    )
    ink: str = setting("black", "colour of lines, on the other one", INKS)
    domains: tuple[str, ...] = setting(
        (),
        "unpaired: two folders of pictures; one that holds train_A and train_B; or with data two words that the "
        "captions of each domain hold",
    )
    prompts: tuple[str, ...] = setting(
        (),
        "fixed prompts that tell the directions apart, of the second and the first domain; none: those of "
        "fixed_prompt_b.txt and fixed_prompt_a.txt, or the domains' names",
    )
    resolution: int = setting(0, "side of the pictures in training, in pixels; 0 is the model's own")
    preparation: str = setting(
        SQUARE,
        "how pictures get there: square, their middle; randomcrop, a random part of nearly all of them, half mirrored; "
        "the same as published, with 286 and 256 pixels; no_resize, as they are, all of one size",
        FITTINGS,
    )
    autoencoder_rank: int = setting(4, "rank of the autoencoder's LoRA, whose alpha is the same")
    trained: str = setting("all", "what is trained; first-conv: neither skips nor LoRA, for comparison", TRAINED)
    varied: float = setting(0.5, "pairs of lines: share of pictures that are turned, scaled, shifted and mirrored")
    sketched: float = setting(
        0.4, "pairs of lines: share drawn as hands draw, by one pen, shaken, not all of it, the picture's shapes bent"
    )
    drop_caption: float = setting(0.2, "pairs: share of captions replaced by the empty prompt")
    noisy_share: float = setting(
        0.2, "pairs: share of steps at a random strength below 1, with noise blended in, so that it makes variations"
    )
    perceptual: str = setting(
        "lpips", "network that compares pictures and that discriminators read: lpips, or the own evaluator", PERCEPTIONS
    )
    similarity: str = setting("emoji", "judge of picture and prompt: emoji, the own evaluator, or clip", SIMILARITIES)
    clip_model: str = setting(CLIP, "CLIP of similarity clip: a folder or OWNER/NAME@COMMIT")
    measured: int = setting(
        0,
        "held-out pictures, those of test_A and test_B, that are measured at every preview, each with its prompt: "
        "squared error of pairs, distance in structure, Fréchet distance; 0 for none",
        on_resume=True,
    )
    judge: str = setting("emoji", "who sees for that Fréchet distance", JUDGES, on_resume=True)
    error_weight: float = setting(1.0, "pairs: weight of the squared error")
    perceptual_weight: float = setting(5.0, "pairs: weight of the perceptual distance")
    similarity_weight: float = setting(0.0, "pairs: weight of the similarity of picture and prompt")
    adversarial_weight: float = setting(0.5, "weight of the discriminators")
    cycle_weight: float = setting(1.0, "domains: weight of the absolute error of a picture that went there and back")
    cycle_perceptual_weight: float = setting(10.0, "domains: weight of its perceptual distance")
    identity_weight: float = setting(1.0, "domains: weight of what changes in a picture that is of the domain already")
    identity_perceptual_weight: float = setting(1.0, "domains: weight of its perceptual distance")
    discriminator_learning_rate: float = setting(2e-4, "learning rate of the discriminators")
    augmentation: str = setting(
        "",
        "DiffAugment (arXiv 2006.10738): changes that the discriminators see real and made pictures under, between "
        f"commas; the paper's are {POLICY}; nothing for none",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fraction("varied", "sketched", "drop_caption", "noisy_share")
        self._at_least(1, "autoencoder_rank")
        self._at_least(0, "error_weight", "perceptual_weight", "similarity_weight", "adversarial_weight")
        self._at_least(0, "cycle_weight", "cycle_perceptual_weight", "identity_weight", "identity_perceptual_weight")
        self._above_zero("discriminator_learning_rate")
        self._at_least(0, "resolution", "measured")
        if unknown := [name for name in self.augmentations if name not in CHANGES]:
            self._refuse("augmentation", f"there is no {unknown[0]!r:.40}; name some of {POLICY}")
        if len(self.domains) > 2 or (len(self.domains) == 1 and self.data):
            self._refuse("domains", "name two")
        if self.prompts and len(self.prompts) != 2 * bool(self.domains):
            self._refuse("prompts", "name one a domain")
        if len(self.domains) == 2:
            self._refuse_like_domains()
        if self.adapter != "lora":
            self._refuse("adapter", "a translator is trained as a LoRA; see trained")

    def _refuse_like_domains(self) -> None:
        """Words and prompts have to tell the domains apart."""
        setting = "prompts" if self.prompts else "domains"
        told = [prompt.strip().casefold() for prompt in self.fixed_prompts]
        if not all(told):
            self._refuse(setting, "one of them says nothing")
        if told[0] == told[1] or self.domains[0] == self.domains[1]:
            self._refuse(setting, "they, and their prompts, must differ")
        if self.data and (not all(map(words_of, self.domains)) or len(set(map(_worded, self.domains))) < 2):
            self._refuse("domains", "name two different words that captions can hold")

    @property
    def augmentations(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.augmentation.split(",")) if self.augmentation.strip() else ()

    @property
    def directions(self) -> tuple[str, ...]:
        return (FORWARD, BACK) if self.domains else (FORWARD,)

    @property
    def sources(self) -> tuple[str, ...]:
        """The folders of pictures that are read.

        Raises:
            ConfigError: none, or two kinds.
        """
        if bool(self.pairs) == bool(self.domains) or (self.data and self.pairs) or self.captions or self.maker:
            raise ConfigError("name the training data: either pairs, a folder, or domains, two of them")
        return (self.data,) if self.data else self.domains or (self.pairs,)

    @property
    def takes(self) -> str:
        return "data" if self.domains else "pairs"

    @property
    def words(self) -> tuple[str, ...]:
        return self.domains

    @property
    def names(self) -> tuple[str, ...]:
        """Of the domains, as people read them: their words, or the names of their folders."""
        folders = () if self.data else tuple(Path(one).resolve().name for one in self.domains)
        if self.prompts and folders and all(SIDE.fullmatch(name.lower()) for name in folders):
            folders = self.prompts[::-1]  # train_A says nothing
        named = folders or self.domains
        return tuple(" ".join(name.replace("-", " ").replace("_", " ").split()) for name in named)

    @property
    def fixed_prompts(self) -> tuple[str, ...]:
        """Of forward and back: what each direction goes to."""
        return self.prompts or self.names[::-1]


def settled(config: TranslateConfig) -> TranslateConfig:
    """The settings with what the data decides: what goes in, the folders of two domains, and their prompts.

    Raises:
        ConfigError: the data is not what they say.
    """
    if config.pairs and config.input == AUTO:
        paired = any("input_file_name" in row for row in list_files(Path(config.pairs)).rows)
        if not paired and _sides_in(Path(config.pairs)) is not None:
            raise ConfigError(
                f"{config.pairs} holds two domains whose files have other names, so no pairs; train on them with "
                "--domains in place of --pairs"
            )
        return replace(config, input="picture" if paired else "lines")
    if config.domains and not config.data:
        folders = tuple(map(Path, config.domains))
        if len(folders) == 1:
            sides = _sides_in(folders[0])
            if sides is None:
                raise ConfigError(f"there are no folders train_A and train_B in {folders[0]}; name two folders")
            folders = sides
        prompts = config.prompts or _fixed_prompts(folders)
        if len(config.domains) == 1 and not prompts:
            raise ConfigError(
                f"{config.domains[0]} has no fixed_prompt_a.txt and fixed_prompt_b.txt, which say what the pictures of "
                "each domain are; write them, or name both with --prompts, that of train_B first"
            )
        return replace(config, domains=tuple(map(str, folders)), prompts=prompts)
    return config


def _sides_in(folder: Path, split: str = "train") -> tuple[Path, Path] | None:
    """The folders train_A and train_B of a folder, or those of tests, in any case; None where one is missing."""
    if not folder.is_dir():
        return None
    matches = ((SIDE.fullmatch(path.name.lower()), path) for path in sorted(folder.iterdir()) if path.is_dir())
    sides = {match["side"]: path for match, path in matches if match is not None and match["split"] == split}
    return (sides["a"], sides["b"]) if len(sides) == 2 else None


def _fixed_prompts(folders: Sequence[Path]) -> tuple[str, ...]:
    """Those of the second and the first domain, which lie beside the folders train_A and train_B; () if they do not."""
    if _sides_in(folders[0].resolve().parent) != tuple(folder.resolve() for folder in folders):
        return ()
    files = [folders[0].resolve().parent / FIXED_PROMPTS[side] for side in "ba"]
    return tuple(read_captions(file)[0] for file in files) if all(file.is_file() for file in files) else ()


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
    tests = () if config.data else _sides_in(Path(config.domains[0]).resolve().parent, "test") or ()
    if len(tests) < 2 or _fixed_prompts(tuple(map(Path, config.domains))) == ():
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
    texts = [_worded(caption) for caption in captions]
    held = [word for word in domains if any(_worded(word) in text for text in texts)]
    return held[0] if len(held) == 1 else None


def _worded(text: str) -> str:
    """The words of a text between single blanks."""
    return f" {' '.join(words_of(text))} "


class Generator(nn.Module):
    """A one-step model with what makes a translator of it, trained; the directions share the network.

    Args:
        base: the model, its one-step LoRA merged; it is copied.
        config: says what is trained.
    """

    def __init__(self, base: LoadedModel, config: TranslateConfig) -> None:
        super().__init__()
        self.family: Family = base.family
        self.schedule: NoiseSchedule = base.schedule
        self.prediction: Prediction = base.prediction
        lora = config.trained in ("all", "no-skips")
        self.unet: UNet2DConditionModel = copy.deepcopy(base.network).requires_grad_(False)
        self.first = copy.deepcopy(base.network.conv_in).requires_grad_(True)
        if lora:
            targets = [*base.family.targets, "conv_out"]
            self.unet.add_adapter(lora_config(config.rank, config.alpha, targets, config.lora_start))
        self.autoencoders = nn.ModuleDict()
        self.skips = nn.ModuleDict()
        for direction in config.directions:
            autoencoder: AutoencoderKL = copy.deepcopy(base.autoencoder).requires_grad_(False)
            if lora:
                rank = config.autoencoder_rank
                autoencoder.add_adapter(lora_config(rank, rank, AUTOENCODER_TARGETS, config.lora_start))
            self.autoencoders[direction] = autoencoder
            if config.trained in ("all", "no-lora"):
                self.skips[direction] = Skips(autoencoder.config.block_out_channels)
        if config.checkpointing:
            self.unet.enable_gradient_checkpointing()
            for autoencoder in self.autoencoders.values():
                autoencoder.enable_gradient_checkpointing()
        self.to(base.device, memory_format=torch.channels_last)

    def forward(
        self, pictures: Tensor, condition: Condition, direction: str, strength: float = 1.0, noise: Tensor | None = None
    ) -> Tensor:
        """Translate pictures (B, 3, H, W) one way; see `Translator`."""
        autoencoder = self.autoencoders[direction]
        for layer in lora_layers(self.unet, autoencoder):
            layer.set_scale("default", strength)
        skips = self.skips[direction] if len(self.skips) else None
        translator = Translator(self.family, self.unet, self.schedule, self.prediction, autoencoder, skips, self.first)
        return translator(pictures, condition, strength, noise)


def lora_layers(*networks: nn.Module) -> list[LoraLayer]:
    return [module for network in networks for module in network.modules() if isinstance(module, LoraLayer)]


class _Task:
    """What both kinds of translation share: the players, and how the discriminators learn.

    Args:
        generator: what is trained, on its device.
        domains: names of what the discriminators tell apart.
        perception: compares pictures.
        config: see `TranslateConfig`.
        fingerprint: of the data and the base model.
    """

    averaged = ("generator",)

    def __init__(
        self,
        generator: nn.Module,
        domains: Iterable[str],
        perception: Perception,
        config: TranslateConfig,
        fingerprint: str,
    ) -> None:
        self.generator, self.perception, self.config, self.fingerprint = generator, perception, config, fingerprint
        self.device = next(generator.parameters()).device
        self.players: dict[str, Player] = {}
        if config.adversarial_weight:
            self.discriminators = nn.ModuleDict({name: PictureDiscriminator(perception) for name in domains})
            self.discriminators.to(self.device, memory_format=torch.channels_last)
            rate = config.discriminator_learning_rate
            self.players["discriminators"] = Player(self.discriminators, rate, betas=(0.0, 0.99), weight_decay=0.0)
        self.players["generator"] = Player(generator, config.learning_rate, betas=(0.9, 0.99))

    def _chances(self, draws: Draws) -> Tensor | None:
        """What a step's augmentations are drawn by, (B, NUMBERS): real and made pictures change alike."""
        return draws.uniform(NUMBERS) if self.config.augmentations and self.config.adversarial_weight else None

    def _augmented(self, pictures: Tensor, chances: Tensor | None) -> Tensor:
        return pictures if chances is None else augmented(pictures, self.config.augmentations, chances)

    def _discriminate(
        self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor], chances: Mapping[str, Tensor | None]
    ) -> Losses:
        """The discriminators' loss on real and made pictures of each domain."""
        self.discriminators.requires_grad_(True)
        terms, watched = {}, {}
        for name, pictures in real.items():
            logits = []
            for each in (pictures, fake[name].detach()):
                each = self._augmented(each, chances[name])
                with torch.no_grad():
                    levels = self.perception.levels(each)
                logits.append(self.discriminators[name](each, levels))
            pairs = list(zip(*logits, strict=True))
            terms[f"discriminator {name}"] = sum(discriminator_loss(*pair) for pair in pairs) / len(pairs)
            for index, kind in enumerate(("real", "fake")):
                watched[f"logit {kind} {name}"] = sum(pair[index].mean() for pair in pairs) / len(pairs)
        return Losses(terms, watched)

    def _adversarial(self, fake: Tensor, name: str, chances: Tensor | None) -> Tensor:
        self.discriminators.requires_grad_(False)
        fake = self._augmented(fake, chances)
        logits = self.discriminators[name](fake, self.perception.levels(fake))
        return self.config.adversarial_weight * sum(map(generator_loss, logits)) / len(logits)


class PairedPass(NamedTuple):
    given: Tensor  # (B, 3, H, W) in [-1, 1]
    target: Tensor
    made: Tensor  # with gradients
    texts: list[str]  # B
    strength: float
    chances: Tensor | None  # of augmentations


class PairedTask(_Task):
    """pix2pix-turbo: the picture that goes with an input and a prompt (section 3.2).

    Args:
        generator, perception, config: see `_Task`.
        pairs: what should come out, and what goes in.
        fit: what a step takes of them.
        captions: of the targets.
        empty: one row, the encoded empty prompt.
        latent: (C, h, w) of the noise.
        start: noise -> what a picture begins from without an input, see `prior_start`.
        judge: of picture and prompt; None where similarity has no weight.
        fingerprint: of data and model.
    """

    def __init__(
        self,
        generator: nn.Module,
        perception: Perception,
        config: TranslateConfig,
        pairs: Pairs,
        fit: Fitting,
        captions: Captions,
        empty: Condition,
        latent: tuple[int, int, int],
        start: Callable[[Tensor], Tensor],
        judge: Judge | None,
        fingerprint: str,
    ) -> None:
        super().__init__(generator, [FORWARD], perception, config, fingerprint)
        self.pairs, self.fit, self.captions, self.empty = pairs, fit, captions, empty
        self.latent, self.start, self.judge = latent, start, judge
        self.sample_count, self.repeats = len(pairs.targets), pairs.targets.repeats

    def forward(self, indices: Tensor, draws: Draws) -> PairedPass:
        config = self.config
        given, target = self._pictures(indices, draws)
        chosen = choose_phrasings(self.captions.first, indices, draws)
        condition, dropped = drop_prompts(self.captions.conditions[chosen], self.empty, config.drop_caption, draws)
        texts = ["" if gone else self.captions.texts[one] for one, gone in zip(chosen, dropped, strict=True)]
        noise = self.start(draws.normal(*self.latent))
        which, strength = torch.rand(2, generator=draws.generator).tolist()  # one strength for the whole batch
        strength = strength if which < config.noisy_share else 1.0
        made = self.generator(given, condition, FORWARD, strength, noise)
        return PairedPass(given, target, made, texts, strength, self._chances(draws))

    def _pictures(self, indices: Tensor, draws: Draws, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Input and target (B, 3, H, W) in [-1, 1]: of `whole` pictures, or of parts by chance where that is set."""
        stacks = [self.pairs.targets.pictures[indices]]
        if self.pairs.inputs is not None:
            stacks.append(self.pairs.inputs[indices])
        seeds = draws.uniform(3).cpu().double()
        stacks = [self.fit.middle(one) for one in stacks] if whole else self.fit.parts(draws, *stacks)
        targets = stacks[0]
        if self.pairs.inputs is None:
            inputs = []
            for row, (change, seed, kind) in enumerate(seeds.tolist()):
                picture = Image.fromarray(targets[row].permute(1, 2, 0).numpy())
                numbers = np.random.default_rng(int(seed * 2**24))
                if change < self.config.varied:
                    picture = varied(picture, numbers)
                if kind < self.config.sketched:
                    picture = bent(picture, numbers)
                    lines = sketch(np.array(picture), numbers)
                else:
                    maps = maps_of(np.array(picture))
                    lines = maps[int((kind - self.config.sketched) / (1 - self.config.sketched) * len(maps))]
                targets[row] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
                inputs.append(drawn_lines(torch.from_numpy(lines), self.config.ink))
            given = torch.stack(inputs)
        else:
            given = to_unit_range(stacks[1])
        given, target = (
            each.to(draws.device).contiguous(memory_format=torch.channels_last)
            for each in (given, to_unit_range(targets))
        )
        return given, target

    def losses(self, player: str, shared: PairedPass) -> Losses:
        config, made, target = self.config, shared.made, shared.target
        if player == "discriminators":
            return self._discriminate({FORWARD: target}, {FORWARD: made}, {FORWARD: shared.chances})
        # With noise the picture is not told by the input alone, so what compares it to one picture counts less.
        told = shared.strength
        terms = {
            "error": told * config.error_weight * per_sample_mse(made, target).mean(),
            "perceptual": told * config.perceptual_weight * self.perception.distance(made, target).mean(),
        }
        if self.judge is not None:
            named = [row for row, text in enumerate(shared.texts) if text]
            read = self.judge.read([shared.texts[row] for row in named]) if named else None
            similar = (self.judge.look(made[named]).vectors * read).sum(1).sum() if named else made.sum() * 0
            terms["similarity"] = config.similarity_weight * (len(named) - similar) / len(made)
        if config.adversarial_weight:
            terms["adversarial"] = self._adversarial(made, FORWARD, shared.chances)
        return Losses(terms)

    @torch.no_grad()
    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Rows of inputs, what is made of them, and what should be."""
        indices = torch.arange(SHOWN) * self.sample_count // SHOWN
        draws = Draws(0, 0, SHOWN, slice(None), self.device)
        given, target = self._pictures(indices, draws, whole=True)
        condition = self.captions.conditions[self.captions.first[indices]].float().to(self.device)
        made = averages["generator"](given, condition, FORWARD)
        return grid(torch.cat([given, made, target]).cpu(), SHOWN)


def drawn_lines(maps: Tensor, ink: str) -> Tensor:
    """Maps (..., H, W) uint8, 0 or 255, as pictures (..., 3, H, W) in [-1, 1] with lines of this colour."""
    return in_ink(to_unit_range(maps)[..., None, :, :].expand(*maps.shape[:-2], 3, *maps.shape[-2:]), ink)


class UnpairedPass(NamedTuple):
    real: dict[str, Tensor]  # by the direction that they go: (B, 3, H, W)
    made: dict[str, Tensor]  # of them
    returned: dict[str, Tensor]  # of what was made, the other way
    kept: dict[str, Tensor]  # what a direction makes of pictures that are of its target domain; {} if not asked
    chances: dict[str, Tensor | None]  # of augmentations


class UnpairedTask(_Task):
    """CycleGAN-Turbo: from one domain to the other and back (section 3.4).

    Args:
        generator, perception, config: see `_Task`.
        domains: pictures that go forward, and those that go back.
        fit: what a step takes of them.
        conditions: by direction, the fixed prompts, a row each.
        fingerprint: of data and model.
    """

    def __init__(
        self,
        generator: nn.Module,
        perception: Perception,
        config: TranslateConfig,
        domains: tuple[CaptionedPictures, CaptionedPictures],
        fit: Fitting,
        conditions: Mapping[str, Condition],
        fingerprint: str,
    ) -> None:
        super().__init__(generator, (FORWARD, BACK), perception, config, fingerprint)
        self.domains, self.conditions = dict(zip((FORWARD, BACK), domains, strict=True)), conditions
        self.fit = fit
        self.sample_count, self.repeats = max(map(len, domains)), None  # see `forward`

    def _go(self, direction: str, pictures: Tensor, network: nn.Module | None = None) -> Tensor:
        condition = self.conditions[direction].expand(len(pictures)).to(pictures.device)
        return (network or self.generator)(pictures, condition, direction)

    def forward(self, indices: Tensor, draws: Draws) -> UnpairedPass:
        real = {}
        for direction, domain in self.domains.items():  # each by chance, so that counterparts meet by chance alone
            chosen = _by_chance(domain, draws.uniform().cpu())
            (parts,) = self.fit.parts(draws, domain.pictures[chosen])
            real[direction] = _mirrored(to_unit_range(parts).to(draws.device), draws)
        made = {direction: self._go(direction, real[direction]) for direction in real}
        returned = {direction: self._go(_other(direction), made[direction]) for direction in real}
        kept = {}
        if self.config.identity_weight or self.config.identity_perceptual_weight:
            kept = {direction: self._go(direction, real[_other(direction)]) for direction in real}
        return UnpairedPass(real, made, returned, kept, {direction: self._chances(draws) for direction in real})

    def losses(self, player: str, shared: UnpairedPass) -> Losses:
        config, terms = self.config, {}
        if player == "discriminators":
            real = {name: shared.real[_other(name)] for name in shared.real}
            return self._discriminate(real, shared.made, shared.chances)
        for direction, real in shared.real.items():
            returned = shared.returned[direction]
            terms[f"cycle {direction}"] = (
                config.cycle_weight * F.l1_loss(returned, real)
                + config.cycle_perceptual_weight * self.perception.distance(returned, real).mean()
            )
            if shared.kept:
                kept, there = shared.kept[direction], shared.real[_other(direction)]
                terms[f"identity {direction}"] = (
                    config.identity_weight * F.l1_loss(kept, there)
                    + config.identity_perceptual_weight * self.perception.distance(kept, there).mean()
                )
            if config.adversarial_weight:
                made, chances = shared.made[direction], shared.chances[direction]
                terms[f"adversarial {direction}"] = self._adversarial(made, direction, chances)
        return Losses(terms)

    @torch.no_grad()
    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Rows of pictures of each domain and what is made of them."""
        rows = []
        for direction, pictures in self.domains.items():
            chosen = torch.arange(SHOWN) * len(pictures) // SHOWN
            given = to_unit_range(self.fit.middle(pictures.pictures[chosen])).to(self.device)
            rows += [given, self._go(direction, given, averages["generator"])]
        return grid(torch.cat(rows).cpu(), SHOWN)


def _other(direction: str) -> str:
    return BACK if direction == FORWARD else FORWARD


def _by_chance(domain: CaptionedPictures, chance: Tensor) -> Tensor:
    """Pictures of a domain by numbers (B,) in [0, 1): (B,) int64, each as likely as its repeats say."""
    if domain.repeats is None:
        return (chance * len(domain)).long()
    ends = domain.repeats.cumsum(0).double()
    return torch.searchsorted(ends, chance.double() * ends[-1], right=True)


def _mirrored(pictures: Tensor, draws: Draws) -> Tensor:
    """Half of them mirrored; (B, 3, H, W)."""
    turned = (draws.uniform() < 0.5)[:, None, None, None]
    return torch.where(turned, pictures.flip(3), pictures).contiguous(memory_format=torch.channels_last)


def fingerprint_of(digests: list[str], base: LoadedModel) -> str:
    weights = weights_fingerprint(base.network, base.autoencoder, *base.encoders)
    return f"{digest_of(digests)[:16]} {weights}"
