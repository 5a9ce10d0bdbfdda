"""How good a model is: its pictures against the real ones of a corpus, by a judge that neither was trained with.

Read from the top down: the judges, the real side (`Reference`), the model's side (`load_generator`, `make_pictures`),
one comparison (`measure`), and the whole table (`evaluate`).
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from train.data.latents import load_pictures, to_unit_range
from train.data.reader import not_held_out, read_listing
from train.loop.config import ConfigError, Settings, setting
from train.loop.randomness import Use, generator_for
from train.measure.evaluator import Evaluator, Seen
from train.measure.metrics import frechet_distance, kernel_distance, precision_recall, retrieval
from train.recipes.corpus.emoji import CORPUS
from yoso_core.autoencoder import decode, encode
from yoso_core.condition import Condition
from yoso_core.denoiser import guided
from yoso_core.loading import LoadedModel, load_model
from yoso_core.models import find_model, with_weights
from yoso_core.requests import CONSISTENCY, FEW_STEP_SAMPLERS, SAMPLERS, RequestError
from yoso_core.sampling import KNOWN, LCM_STEPS, prior_start

FEWEST = 4  # pictures that sets can be compared by
POOL = 300  # captions that a picture's own one is looked for among
KERNEL_SUBSETS, KERNEL_SIZE = 20, 1000
CLIP = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """What is measured, and by what."""

    model: str = setting("yoso-emoji", "a known model, a diffusers folder, or OWNER/NAME@COMMIT of a hub")
    weights: str = setting(
        "own", "one-step weights: own (the model's), none, a LoRA file, or the output folder of a training run"
    )
    sampler: str = setting(
        CONSISTENCY, "lcm, scm, tcd for one-step models, ddim or dpm++ for teachers", tuple(SAMPLERS)
    )
    steps: tuple[int, ...] = setting((1, 2, 4), "network evaluations a picture, guidance aside; a row each")
    guidance: float = setting(1.0, "classifier-free guidance; 1 is none, more doubles the evaluations")
    prior: bool = setting(True, "start from noise with the moments of the data (YOSO, section 4.2); lcm only")
    data: str = setting(str(CORPUS), "folder of the real pictures; those held out are measured apart")
    count: int = setting(2000, "pictures a seed; of held-out pairs as many as there are, at most")
    seeds: tuple[int, ...] = setting((0, 1, 2), "seeds; figures are their mean and standard deviation")
    batch: int = setting(50, "pictures made at once")
    features: str = setting(
        "emoji",
        "who judges: the bundled evaluator, Inception (FID, no retrieval), or CLIP",
        ("emoji", "inception", "clip"),
    )
    clip: str = setting(CLIP, "the CLIP that judges, if one does: a folder, or OWNER/NAME@COMMIT of a hub")
    ceilings: bool = setting(False, "measure the real pictures too, and the autoencoder on them: what can be reached")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "batch")
        self._at_least(FEWEST, "count")
        self._above_zero("guidance")
        if not self.steps or min(self.steps) < 1:
            self._refuse("steps", "name at least one number, each at least 1")
        if self.sampler in FEW_STEP_SAMPLERS and max(self.steps) > LCM_STEPS:
            self._refuse("steps", f"{self.sampler} has at most {LCM_STEPS}")
        if self.steps and max(self.steps) > 1000:
            self._refuse("steps", "there are 1000 timesteps")
        if not self.seeds or min(self.seeds) < 0:
            self._refuse("seeds", "name at least one, each at least 0")


class Judge(Protocol):
    """Looks at pictures and, if it can, reads captions."""

    def look(self, pictures: Tensor) -> Seen:
        """(N, 3, H, W) in [-1, 1] -> what it sees."""

    def read(self, captions: list[str]) -> Tensor | None:
        """Captions -> (N, P), unit length, in the space of the pictures' vectors."""


class InceptionJudge:
    """The network of the usual FID, by torch-fidelity; it knows no captions."""

    def __init__(self, device: torch.device) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ConfigError("features inception needs torch-fidelity; pip install torch-fidelity==0.4.0") from None
        try:
            # torch-fidelity reads the same cached file as a pickle; this fetches it, checks its hash and that it is
            # nothing but tensors.
            torch.hub.load_state_dict_from_url(INCEPTION, check_hash=True, weights_only=True, progress=False)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"Inception's weights can't be had from {INCEPTION} ({error!s:.80})") from error
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device)

    def look(self, pictures: Tensor) -> Seen:
        return Seen(self.network(to_levels(pictures))[0], None)

    def read(self, captions: list[str]) -> None:
        return None


class ClipJudge:
    """A CLIP by transformers: retrieval as it is meant, and distances by its picture embedding (arXiv 2203.06026)."""

    def __init__(self, place: str, device: torch.device) -> None:
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        name, _, revision = place.partition("@")
        options: dict[str, Any] = {"revision": revision} if revision else {"local_files_only": True}
        try:
            self.model = CLIPModel.from_pretrained(name, use_safetensors=True, **options).eval().to(device)
            self.tokenizer = CLIPTokenizer.from_pretrained(name, **options)
            self.scaling = CLIPImageProcessor.from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            cause = " ".join(str(error).split())[:80]
            raise ConfigError(f"there is no CLIP at {place} ({cause}); name a folder or OWNER/NAME@COMMIT") from error
        self.device = device

    def look(self, pictures: Tensor) -> Seen:
        side = self.model.config.vision_config.image_size
        pictures = F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(-1, 1) / 2 + 0.5
        mean, deviation = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (self.scaling.image_mean, self.scaling.image_std)
        )
        pooled = self.model.vision_model((pictures - mean) / deviation).pooler_output
        embedded = self.model.visual_projection(pooled)
        return Seen(embedded, F.normalize(embedded, dim=-1))

    def read(self, captions: list[str]) -> Tensor:
        found = []
        for start in range(0, len(captions), 256):
            tokens = self.tokenizer(captions[start : start + 256], padding=True, truncation=True, return_tensors="pt")
            pooled = self.model.text_model(**tokens.to(self.device)).pooler_output
            found.append(F.normalize(self.model.text_projection(pooled), dim=-1))
        return torch.cat(found)


def load_judge(features: str, clip: str = CLIP, device: torch.device | str = "cpu") -> Judge:
    """The judge of that name, see `EvaluateConfig.features`.

    Raises:
        ConfigError: its package or its weights are missing.
    """
    device = torch.device(device)
    if features == "emoji":
        return Evaluator.load().to(device)
    return InceptionJudge(device) if features == "inception" else ClipJudge(clip, device)


def to_levels(pictures: Tensor) -> Tensor:
    """[-1, 1] to uint8 [0, 255], as pictures are saved; values outside are clamped."""
    return ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def look_at(judge: Judge, pictures: Tensor, device: torch.device | str = "cpu") -> Seen:
    """What a judge sees in pictures (N, 3, H, W) uint8; in parts, on the CPU in the end."""
    seen = [judge.look(to_unit_range(part.to(device))) for part in pictures.split(128)]
    vectors = None if seen[0].vectors is None else torch.cat([one.vectors.cpu() for one in seen])
    return Seen(torch.cat([one.features.cpu() for one in seen]), vectors)


@dataclass(frozen=True)
class Split:
    """The real side of a comparison.

    Attributes:
        features: (M, D), of all its real pictures.
        captions: N prompts to make pictures of: the first phrasing of N of the real ones.
        vectors: (N, P), the captions as the judge reads them; None if it does not.
        pictures: (N, 3, S, S) uint8, the real pictures of the prompts.
    """

    features: Tensor
    captions: list[str]
    vectors: Tensor | None
    pictures: Tensor


@dataclass(frozen=True)
class Reference:
    """Real pictures as a judge sees them: made once, used for every model.

    Attributes:
        splits: "trained" and, if there are any, "held-out".
        judge: who looked at them, and will at the generated ones.
        device: where the judge is.
    """

    splits: dict[str, Split]
    judge: Judge
    device: torch.device

    @classmethod
    def load(
        cls,
        folder: Path,
        judge: Judge,
        count: int = 2000,
        size: int = 64,
        device: torch.device | str = "cpu",
        report: Callable[[str], None] = lambda message: None,
    ) -> "Reference":
        """Read a folder of captioned pictures, see `train.data.reader.read_listing`.

        Args:
            folder: of the corpus.
            judge: on `device`.
            count: most prompts of a split; which ones depends on the folder alone.
            size: side of the pictures in pixels; that of the generated ones.
            device: where the judge is.
            report: told what was wrong with the files.

        Raises:
            ConfigError: nothing in the folder is usable, or too little to compare.
        """
        rows = read_listing(folder, keep=lambda row: True).rows
        kinds = {"trained": not_held_out, "held-out": lambda row: not not_held_out(row)}
        splits = {}
        for name, keep in kinds.items():
            if any(map(keep, rows)):
                data = load_pictures(folder, size, keep)
                for problem in data.problems:
                    report(str(problem))
                if len(data) < FEWEST:
                    raise ConfigError(f"{folder} has {len(data)} {name} pictures; comparing sets takes {FEWEST}")
                chosen = torch.randperm(len(data), generator=generator_for(0, Use.PROMPTS))[:count].tolist()
                captions = [data.captions[index][0] for index in chosen]
                with torch.no_grad():
                    vectors = judge.read(captions)
                features = look_at(judge, data.pictures, device).features
                vectors = None if vectors is None else vectors.cpu()
                splits[name] = Split(features, captions, vectors, data.pictures[chosen])
        return cls(splits, judge, torch.device(device))


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; see `EvaluateConfig`."""

    sampler: str = CONSISTENCY
    steps: int = 1
    guidance: float = 1.0
    prior: bool = True

    @property
    def evaluations(self) -> int:
        return self.steps * (1 if self.guidance == 1 else 2)


@dataclass(frozen=True)
class Made:
    """Pictures (N, 3, S, S) uint8 and the seconds that each took, prompt to picture, in batches."""

    pictures: Tensor
    seconds: float


def load_generator(model: str, weights: str = "own", device: torch.device | str = "cpu") -> LoadedModel:
    """A model with the weights to be measured.

    Args:
        model: see `yoso_core.models.find_model`.
        weights: see `yoso_core.models.with_weights`.

    Raises:
        ConfigError: one of them is missing or does not fit.
    """
    try:
        loaded = load_model(with_weights(find_model(model), weights), device)
    except RequestError as error:
        raise ConfigError(str(error)) from error
    loaded.loras.apply([(loaded.one_step, 1.0)])
    return loaded


@torch.no_grad()
def make_pictures(model: LoadedModel, captions: list[str], seed: int, sampling: Sampling, batch: int = 50) -> Made:
    """One picture of each caption.

    Picture i starts from noise that depends on (seed, i) alone, and so does what is added between steps: rows of a
    table that differ in model or sampling share it.

    Raises:
        ConfigError: the networks returned NaN.
    """
    side = model.spec.resolution // model.pixels_per_latent
    shape = (model.channels, side, side)
    sampler = KNOWN[sampling.sampler]
    denoise = model.denoiser(sampler.consistent)
    device, dtype, made, started = model.device, model.dtype, [], time.perf_counter()

    def read(texts: list[str]) -> Condition:
        return model.encode_texts(texts).to(device, dtype)

    if sampling.guidance != 1:
        denoise = guided(denoise, sampling.guidance, read([""]))
    for start in range(0, len(captions), batch):
        texts = captions[start : start + batch]
        generators = [generator_for(seed, Use.PICTURE, start + index) for index in range(len(texts))]
        noises = [
            torch.stack([torch.randn(shape, generator=generator) for generator in generators])
            .to(device, dtype)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(sampler.noises(sampling.steps))
        ]
        if sampling.prior and sampler.fresh:
            noises[0] = prior_start(model.schedule, noises[0], model.prior_mean, model.prior_deviation)
        timesteps = sampler.timesteps(sampling.steps, model.schedule.last, len(model.schedule))
        clean = sampler.sample(denoise, model.schedule, noises[0], read(texts), timesteps, noises[1:])
        decoded = decode(model.decoder, clean.to(model.decoder.dtype))
        if not decoded.isfinite().all():
            raise ConfigError(f"{model.spec.title} returned NaN for seed {seed}; its weights are broken")
        made.append(to_levels(decoded).cpu())
    return Made(torch.cat(made), (time.perf_counter() - started) / len(captions))


@torch.no_grad()
def through_autoencoder(model: LoadedModel, pictures: Tensor, batch: int = 50) -> Made:
    """Real pictures (N, 3, S, S) uint8 encoded and decoded: the best that a network on these latents can do."""
    started = time.perf_counter()
    device, dtype = model.device, model.dtype
    parts = (to_unit_range(part).to(device, dtype) for part in pictures.split(batch))
    made = [to_levels(decode(model.decoder, encode(model.autoencoder, part))).cpu() for part in parts]
    return Made(torch.cat(made), (time.perf_counter() - started) / len(pictures))


@dataclass(frozen=True)
class Scores:
    """How near a set of pictures is to the real ones; see `train.measure.metrics`.

    Attributes:
        frechet: Fréchet distance, 0 or more; compare sets of one size only.
        kernel: kernel distance.
        precision: share of pictures that look real, 0 to 1.
        recall: share of the real ones that are covered, 0 to 1.
        first: share of pictures whose own caption is the nearest of 300, 0 to 1; None if the judge can't read.
        first_five: share where it is among the nearest five.
        seconds: a picture; None where none was made.
    """

    frechet: float
    kernel: float
    precision: float
    recall: float
    first: float | None
    first_five: float | None
    seconds: float | None


def measure(pictures: Tensor, reference: Reference, split: str, seconds: float | None = None) -> Scores:
    """Compare pictures (N, 3, H, W) uint8, of the captions of a split in their order, with its real ones."""
    real = reference.splits[split]
    seen = look_at(reference.judge, pictures, reference.device)
    rates: dict[int, float | None] = {1: None, 5: None}
    if seen.vectors is not None and real.vectors is not None:
        rates |= retrieval(seen.vectors, real.vectors, POOL, generator_for(0, Use.POOLS))
    kernel = kernel_distance(real.features, seen.features, KERNEL_SUBSETS, KERNEL_SIZE, generator_for(0, Use.SUBSETS))
    precision, recall = precision_recall(real.features, seen.features)
    distance = frechet_distance(real.features, seen.features)
    return Scores(distance, kernel, precision, recall, rates[1], rates[5], seconds)


@dataclass(frozen=True)
class Row:
    """A line of a report: one way to make pictures, on one split, a `Scores` a seed."""

    name: str
    split: str
    evaluations: int
    count: int
    scores: tuple[Scores, ...]

    def mean(self, measure: str) -> float | None:
        values = [getattr(one, measure) for one in self.scores]
        return None if None in values else statistics.fmean(values)

    def spread(self, measure: str) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        values = [getattr(one, measure) for one in self.scores]
        return None if None in values or len(values) < 2 else statistics.stdev(values)


COLUMNS = {  # measure: heading, factor, decimals
    "frechet": ("Fréchet ↓", 1, 2),
    "kernel": ("KID x 1000 ↓", 1000, 2),
    "precision": ("precision ↑", 1, 3),
    "recall": ("recall ↑", 1, 3),
    "first": ("R@1 ↑", 1, 3),
    "first_five": ("R@5 ↑", 1, 3),
    "seconds": ("ms a picture", 1000, 1),
}


@dataclass(frozen=True)
class Report:
    """What `evaluate` found."""

    config: EvaluateConfig
    rows: tuple[Row, ...]

    def to_markdown(self, measures: Sequence[str] = tuple(COLUMNS)) -> str:
        """A table a split, with a column a measure; ± is the standard deviation over seeds."""
        tables = []
        for split in dict.fromkeys(row.split for row in self.rows):
            rows = [row for row in self.rows if row.split == split]
            count = max(row.count for row in rows)
            head = ["", "evaluations", *(COLUMNS[name][0] for name in measures)]
            lines = [head, ["---", *["---:"] * (len(head) - 1)]]
            lines += [[row.name, str(row.evaluations or "-"), *(_cell(row, name) for name in measures)] for row in rows]
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            tables.append(f"{split} pairs, {count} pictures, judged by {self.config.features} features\n\n{table}\n")
        return "\n".join(tables)

    def to_json(self) -> str:
        rows = [
            dataclasses.asdict(row)
            | {"mean": {name: row.mean(name) for name in COLUMNS}}
            | {"spread": {name: row.spread(name) for name in COLUMNS}}
            for row in self.rows
        ]
        return json.dumps({"config": dataclasses.asdict(self.config), "rows": rows}, indent=1)


def _cell(row: Row, measure: str) -> str:
    _, factor, decimals = COLUMNS[measure]
    mean, spread = row.mean(measure), row.spread(measure)
    if mean is None:
        return "-"
    return f"{mean * factor:.{decimals}f}" + ("" if spread is None else f" ± {spread * factor:.{decimals}f}")


def rows_of(
    title: str,
    evaluations: int,
    make: Callable[[list[str], int], Made],
    reference: Reference,
    seeds: Sequence[int],
    report: Callable[[str], None] = lambda message: None,
) -> list[Row]:
    """Measure one way to make pictures: a row a split.

    Args:
        title: of the rows.
        evaluations: of the network, a picture.
        make: (captions, seed) -> pictures of them.
        reference: the real side.
        seeds: each makes a set of its own.
        report: told in a few words what is happening.
    """
    rows = []
    for name, split in reference.splits.items():
        scores = []
        for seed in seeds:
            report(f"{evaluations} evaluations, {name} pairs, seed {seed}")
            made = make(split.captions, seed)
            scores.append(measure(made.pictures, reference, name, made.seconds))
        rows.append(Row(title, name, evaluations, len(split.captions), tuple(scores)))
    return rows


def ceilings(model: LoadedModel, reference: Reference, batch: int = 50) -> list[Row]:
    """The real pictures of the prompts, and the same through the autoencoder, measured as if they had been made."""
    rows = []
    for name, split in reference.splits.items():
        count = len(split.captions)
        decoded = through_autoencoder(model, split.pictures, batch)
        rows.append(Row("real pictures", name, 0, count, (measure(split.pictures, reference, name),)))
        through = measure(decoded.pictures, reference, name, decoded.seconds)
        rows.append(Row("autoencoder only", name, 0, count, (through,)))
    return rows


def evaluate(config: EvaluateConfig, report: Callable[[str], None] = lambda message: None) -> Report:
    """Measure a model as `config` says.

    Args:
        config: what and how.
        report: told in a few words what is happening.

    Raises:
        ConfigError: a model, weights, a judge or pictures are missing or broken.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report(f"Loading {config.model}")
    model = load_generator(config.model, config.weights, device)
    judge = load_judge(config.features, config.clip, device)
    report(f"Looking at the real pictures of {config.data}")
    reference = Reference.load(Path(config.data), judge, config.count, model.spec.resolution, device, report)
    rows = ceilings(model, reference, config.batch) if config.ceilings else []
    for steps in config.steps:
        sampling = Sampling(config.sampler, steps, config.guidance, config.prior)
        make = functools.partial(make_pictures, model, sampling=sampling, batch=config.batch)
        title = f"{model.spec.title}, {config.sampler}"
        rows += rows_of(title, sampling.evaluations, make, reference, config.seeds, report)
    return Report(config, tuple(rows))
