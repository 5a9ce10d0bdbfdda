"""Settings of a translator's training, and what its folders decide of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from train.data.fitting import FITTINGS, SQUARE
from train.data.gathering import FIXED_PROMPTS, SIDE
from train.data.listings import read_captions
from train.data.reader import list_files
from train.loop.config import ConfigError, setting, with_defaults
from train.measure.evaluate import CLIP
from train.measure.evaluator import words_of
from train.tasks.augmentation import CHANGES, POLICY
from train.tasks.base import ModelRunConfig
from train.tasks.perception import PERCEPTIONS
from yoso_core.requests import TRANSLATION_INPUTS
from yoso_core.translate import BACK, FORWARD, INKS

TRAINED = ("all", "no-skips", "no-lora", "first-conv")
SIMILARITIES = ("emoji", "clip")
JUDGES = ("emoji", "inception", "clip")
AUTO = "auto"


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
        if self.data and (not all(map(words_of, self.domains)) or len(set(map(worded, self.domains))) < 2):
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
        if not paired and sides_in(Path(config.pairs)) is not None:
            raise ConfigError(
                f"{config.pairs} holds two domains whose files have other names, so no pairs; train on them with "
                "--domains in place of --pairs"
            )
        return replace(config, input="picture" if paired else "lines")
    if config.domains and not config.data:
        folders = tuple(map(Path, config.domains))
        if len(folders) == 1:
            sides = sides_in(folders[0])
            if sides is None:
                raise ConfigError(f"there are no folders train_A and train_B in {folders[0]}; name two folders")
            folders = sides
        prompts = config.prompts or fixed_prompts_beside(folders)
        if len(config.domains) == 1 and not prompts:
            raise ConfigError(
                f"{config.domains[0]} has no fixed_prompt_a.txt and fixed_prompt_b.txt, which say what the pictures of "
                "each domain are; write them, or name both with --prompts, that of train_B first"
            )
        return replace(config, domains=tuple(map(str, folders)), prompts=prompts)
    return config


def sides_in(folder: Path, split: str = "train") -> tuple[Path, Path] | None:
    """The folders train_A and train_B of a folder, or those of tests, in any case; None where one is missing."""
    if not folder.is_dir():
        return None
    matches = ((SIDE.fullmatch(path.name.lower()), path) for path in sorted(folder.iterdir()) if path.is_dir())
    sides = {match["side"]: path for match, path in matches if match is not None and match["split"] == split}
    return (sides["a"], sides["b"]) if len(sides) == 2 else None


def fixed_prompts_beside(folders: Sequence[Path]) -> tuple[str, ...]:
    """Those of the second and the first domain, which lie beside the folders train_A and train_B; () if they do not."""
    if sides_in(folders[0].resolve().parent) != tuple(folder.resolve() for folder in folders):
        return ()
    files = [folders[0].resolve().parent / FIXED_PROMPTS[side] for side in "ba"]
    return tuple(read_captions(file)[0] for file in files) if all(file.is_file() for file in files) else ()


def worded(text: str) -> str:
    """The words of a text between single blanks."""
    return f" {' '.join(words_of(text))} "
