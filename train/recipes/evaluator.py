"""The bundled evaluator: the judge that the bundled model's pictures are measured by.

    python -m train.recipes.evaluator --data data/corpus --run runs/evaluator

Learns from scenes of the sprites that are not held out, apart from any generator. At the end it measures itself: how
often a picture finds its own caption, among new scenes and among held-out sprites.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn

from train.data.latents import digest_of
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws, Use, generator_for
from train.loop.trainer import Losses, Player, Trainer
from train.measure.evaluate import POOL
from train.measure.evaluator import EVALUATOR_FOLDER, Evaluator, words_of
from train.measure.metrics import retrieval
from train.recipes.autoencoder import UNSEEN_SEED
from train.recipes.corpus.art import CORPUS, SIDE, STYLES
from train.recipes.corpus.corpus import Corpus
from train.recipes.corpus.scenes import SLOTS, Scenes, describe

TEMPERATURE = 0.05
OFTEN = 3  # captions that hold a word before the judge knows it


@dataclass(frozen=True)
@with_defaults(steps=6000, batch=256, learning_rate=2e-3, cooldown=0.5, weight_decay=0.05, ema=0.995)
class EvaluatorConfig(RunConfig):
    data: str = setting(str(CORPUS), "the corpus")
    out: str = setting(str(EVALUATOR_FOLDER), "where the evaluator goes", on_resume=True)
    scenes: int = setting(100000, "scenes to learn from")
    telling: float = setting(0.2, "weight of telling styles and counts")


def augment(pictures: Tensor, draws: Draws) -> Tensor:
    """Turn, scale, stretch, shift and tint (B, 3, S, S) in [-1, 1], each a little; what is uncovered is white.

    Neither flipped, because left and right are words, nor blurred, because blur has to show in the features.
    """
    reach = torch.tensor([0.25, 0.2, 0.1, 0.15, 0.15], device=pictures.device)
    turn, scale, stretch, right, down = ((2 * draws.uniform(5) - 1) * reach).unbind(1)
    cos, sin = turn.cos() * scale.exp(), turn.sin() * scale.exp()
    rows = [torch.stack([cos * stretch.exp(), -sin, right], 1), torch.stack([sin * stretch.exp(), cos, down], 1)]
    places = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures - 1, places, align_corners=False) + 1
    contrast, saturation = (0.35 * (2 * draws.uniform(2, 1, 1, 1) - 1)).exp().unbind(1)
    tint = 0.15 * (2 * draws.uniform(3, 1, 1) - 1)
    grey = moved.mean(1, keepdim=True)
    return (grey + (moved - grey) * saturation) * contrast + tint


class EvaluatorTask:
    """Each picture finds its caption among those of its batch, and each caption its picture (CLIP's loss).

    Normalisation takes its statistics from a part of the batch, and so do the captions to choose from: here
    accumulation is not the same as none.
    """

    averaged = ("evaluator",)
    repeats = None

    def __init__(self, evaluator: Evaluator, corpus: Corpus, scenes: Scenes, config: EvaluatorConfig) -> None:
        self.evaluator, self.corpus, self.scenes, self.config = evaluator, corpus, scenes, config
        self.sample_count, self.fingerprint = len(scenes), digest_of(scenes.captions)[:16]
        self.players = {"evaluator": Player(evaluator, config.learning_rate)}
        if config.compile:
            evaluator.blocks.compile()
        self.tokens = evaluator.tokens(scenes.captions)
        styles = torch.tensor([evaluator.styles.index(one.style) for one in corpus.art])
        first = scenes.sprite[:, 0]
        self.style = torch.where(first >= 0, styles[first.clamp_min(0)], -1)  # -1: none to be told

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """The pictures' places, what pools of them (B, 192), their vectors and their captions' (B, 128)."""
        with torch.no_grad(), torch.autocast(torch.device(draws.device).type, enabled=False):
            pictures = self.corpus.painter(self.scenes[indices]).to(draws.device)
            pictures = augment(pictures, draws)
        pooled = self.evaluator.pooled(pictures)
        captions = self.evaluator.read_tokens(self.tokens[indices].to(draws.device))
        return indices, pooled, self.evaluator.project(pooled), captions

    def losses(self, player: str, shared: tuple[Tensor, ...]) -> Losses:
        indices, pooled, vectors, captions = shared
        device = vectors.device
        with torch.autocast(device.type, enabled=False):  # bfloat16 can't tell near captions apart
            same = captions.detach() @ captions.detach().T > 0.999  # the same words are no negative
            logits = (vectors @ captions.T / TEMPERATURE).masked_fill(
                same & ~torch.eye(len(same), dtype=torch.bool, device=device), -1e4
            )
        own = torch.arange(len(logits), device=device)
        style, count = self.style[indices].to(device), self.scenes.counts[indices].to(device)
        told = self.evaluator.style_logits(pooled)
        weight = self.config.telling
        hits = (logits.argmax(1) == own).float().mean()
        right = ((told.argmax(1) == style).float().sum() / (style >= 0).sum().clamp_min(1)).detach()
        return Losses(
            {
                "contrast": (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2,
                "style": weight * F.cross_entropy(told, style, ignore_index=-1),
                "count": weight * F.cross_entropy(self.evaluator.count_logits(pooled), count),
            },
            {"hits": hits, "styles": right},
        )

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Similarity of 48 pictures to their captions, white for 1; a sharp diagonal is what is wanted."""
        shown = self.scenes[torch.arange(48)]
        evaluator = averages["evaluator"]
        vectors = evaluator.look(self.corpus.painter(shown).to(evaluator.mean.device)).vectors
        similarity = vectors @ evaluator.read(shown.captions).T
        return Image.fromarray(similarity.clamp(0, 1).mul(255).byte().cpu().numpy()).resize(
            (480, 480), Image.Resampling.NEAREST
        )


@torch.no_grad()
def calibrate(evaluator: Evaluator, pictures: Tensor) -> None:
    """Measure what normalisation needs over training pictures (N, 3, S, S) in [-1, 1], as they are.

    The weights are an average over steps, of which no batch has ever had the statistics.
    """
    norms = [module for module in evaluator.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    parts = pictures.split(256)
    evaluator.train()
    for part in parts:
        evaluator.project(evaluator.pooled(part))
    evaluator.eval()
    pooled = torch.cat([evaluator.pooled(part) for part in parts])
    evaluator.mean.copy_(pooled.mean(0))
    evaluator.deviation.copy_(pooled.std(0).clamp_min(1e-4))


@torch.no_grad()
def hit_rates(evaluator: Evaluator, pictures: Tensor, captions: list[str]) -> dict[int, float]:
    """How often a real picture's own caption is first, and among the first five, of `POOL`."""
    vectors = torch.cat([evaluator.look(part).vectors for part in pictures.split(256)])
    return retrieval(vectors, evaluator.read(captions), POOL, generator_for(0, Use.POOLS))


def main() -> None:
    config, folder = parse(EvaluatorConfig, __doc__, "runs/evaluator")
    torch.manual_seed(config.seed)
    device = PartialState().device
    corpus = Corpus.load(Path(config.data), device)
    scenes = describe(corpus.describer, config.scenes, config.seed)
    counted = Counter(word for caption in scenes.captions for word in words_of(caption))
    words = sorted(word for word, count in counted.items() if count >= OFTEN)
    evaluator = Evaluator(words, SIDE, STYLES, SLOTS).to(device, memory_format=torch.channels_last)
    trainer = Trainer(EvaluatorTask(evaluator, corpus, scenes, config), config, folder)
    if not follow(trainer):
        return
    evaluator = trainer.averages["evaluator"]
    calibrate(evaluator, corpus.painter(scenes[torch.arange(min(4000, len(scenes)))]).to(device))
    evaluator.cpu().save(Path(config.out))
    evaluator = Evaluator.load(Path(config.out)).to(device)  # as others will have it, rounded
    for name, describer in (("new scenes", corpus.describer), ("held-out sprites", corpus.unseen)):
        unseen = describe(describer, 1000, UNSEEN_SEED)
        pictures = corpus.painter(unseen).to(device)
        rates = hit_rates(evaluator, pictures, unseen.captions)
        pooled = torch.cat([evaluator.pooled(part) for part in pictures.split(256)])
        counts = (evaluator.count_logits(pooled).argmax(1).cpu() == unseen.counts).float().mean()
        print(
            f"{name}: own caption first of {POOL} {rates[1]:.3f}, among the first five {rates[5]:.3f}, "
            f"counted right {counts:.3f}"
        )


if __name__ == "__main__":
    run_command(main)
