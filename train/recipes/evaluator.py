"""The bundled evaluator: the judge that generated emoji are measured by.

    python -m train.recipes.evaluator --data data/emoji --run runs/evaluator

Learns from the pictures that are not held out, apart from any generator. At the end it measures itself: how often a
picture finds its own caption, among pictures that it has seen and among held-out ones.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn

from train.data.latents import CaptionedPictures, load_pictures, to_unit_range
from train.loop.config import RunConfig, parse, setting, with_defaults
from train.loop.console import follow, run_command
from train.loop.randomness import Draws, Use, generator_for
from train.loop.trainer import Losses, Player, Trainer
from train.measure.evaluate import POOL
from train.measure.evaluator import EVALUATOR_FOLDER, Evaluator, words_of
from train.measure.metrics import retrieval

TEMPERATURE = 0.05


@dataclass(frozen=True)
@with_defaults(steps=2000, batch=128, learning_rate=2e-3, cooldown=0.5, weight_decay=0.05, ema=0.99)
class EvaluatorConfig(RunConfig):
    data: str = setting("data/emoji", "the emoji corpus")
    out: str = setting(str(EVALUATOR_FOLDER), "where the evaluator goes")


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
    """Each picture finds its caption among one phrasing of every picture (the image side of CLIP's loss).

    Normalisation takes its statistics from a part of the batch, so here accumulation is not the same as none.
    """

    averaged = ("evaluator",)

    def __init__(self, evaluator: Evaluator, data: CaptionedPictures, config: EvaluatorConfig) -> None:
        self.evaluator, self.data = evaluator, data
        self.sample_count, self.fingerprint = len(data), data.digest[:16]
        self.players = {"evaluator": Player(evaluator, config.learning_rate)}
        if config.compile:
            evaluator.blocks.compile()
        self.tokens = evaluator.tokens([text for phrasings in data.captions for text in phrasings])
        self.first = torch.tensor([0, *map(len, data.captions)]).cumsum(0)

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Logits (B, N) over all captions, and the place of each picture's own (B,).

        One phrasing of every picture, whatever part of the batch this is. "cat" is true of a cat in all four styles;
        where it is drawn for two of them the two captions are the same vector, which moves no picture.
        """
        pictures = augment(to_unit_range(self.data.pictures[indices]).to(draws.device), draws)
        vectors = self.evaluator.project(self.evaluator.pooled(pictures))
        count = self.first.diff()
        choice = self.first[:-1] + (torch.rand(len(count), generator=draws.generator) * count).long()
        captions = self.evaluator.read_tokens(self.tokens[choice].to(draws.device))
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 can't tell near captions apart
            return vectors @ captions.T / TEMPERATURE, indices.to(draws.device)

    def losses(self, player: str, shared: tuple[Tensor, Tensor]) -> Losses:
        logits, own = shared
        hits = (logits.argmax(1) == own).float().mean()
        return Losses({"contrast": F.cross_entropy(logits, own)}, {"hits": hits})

    def preview(self, averages: dict[str, nn.Module]) -> Image.Image:
        """Similarity of 48 pictures to their captions, white for 1; a sharp diagonal is what is wanted."""
        chosen = range(0, len(self.data), max(1, len(self.data) // 48))[:48]
        pictures = to_unit_range(self.data.pictures[list(chosen)]).to(next(self.evaluator.parameters()).device)
        evaluator = averages["evaluator"]
        similarity = evaluator.look(pictures).vectors @ evaluator.read([self.data.captions[i][0] for i in chosen]).T
        return Image.fromarray(similarity.clamp(0, 1).mul(255).byte().cpu().numpy()).resize(
            (480, 480), Image.Resampling.NEAREST
        )


@torch.no_grad()
def calibrate(evaluator: Evaluator, pictures: Tensor) -> None:
    """Measure what normalisation needs over all the training pictures (N, 3, S, S) uint8, as they are.

    The weights are an average over steps, of which no batch has ever had the statistics.
    """
    norms = [module for module in evaluator.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    parts = to_unit_range(pictures[torch.randperm(len(pictures), generator=generator_for(0, Use.BATCHES))]).split(256)
    evaluator.train()
    for part in parts:
        evaluator.project(evaluator.pooled(part))
    evaluator.eval()
    pooled = torch.cat([evaluator.pooled(part) for part in parts])
    evaluator.mean.copy_(pooled.mean(0))
    evaluator.deviation.copy_(pooled.std(0).clamp_min(1e-4))


@torch.no_grad()
def hit_rates(evaluator: Evaluator, data: CaptionedPictures) -> dict[int, float]:
    """How often a real picture's own caption is first, and among the first five, of 300."""
    vectors = torch.cat([evaluator.look(to_unit_range(part)).vectors for part in data.pictures.split(256)])
    captions = evaluator.read([phrasings[0] for phrasings in data.captions])
    return retrieval(vectors, captions, POOL, generator_for(0, Use.POOLS))


def main() -> None:
    config, folder = parse(EvaluatorConfig, __doc__, "runs/evaluator")
    torch.manual_seed(config.seed)
    data = load_pictures(Path(config.data), 64)
    unseen = load_pictures(Path(config.data), 64, keep=lambda row: bool(row.get("held_out")))
    words = sorted({word for phrasings in data.captions for text in phrasings for word in words_of(text)})
    evaluator = Evaluator(words).to(PartialState().device, memory_format=torch.channels_last)
    trainer = Trainer(EvaluatorTask(evaluator, data, config), config, folder)
    if not follow(trainer):
        return
    evaluator = trainer.averages["evaluator"].cpu()
    calibrate(evaluator, data.pictures)
    evaluator.save(Path(config.out))
    evaluator = Evaluator.load(Path(config.out))  # as others will have it, rounded
    for name, part in (("seen", data), ("held-out", unseen)):
        rates = hit_rates(evaluator, part)
        print(f"{name} pictures: own caption first of {POOL} {rates[1]:.3f}, among the first five {rates[5]:.3f}")


if __name__ == "__main__":
    run_command(main)
