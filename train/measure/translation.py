"""How a translator does on pictures that it is not trained on, while it trains."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.data.latents import to_unit_range
from train.measure.evaluate import FEWEST, Judge, look_at, to_levels
from train.measure.metrics import frechet_distance, structure_distance
from yoso_core.condition import Condition

TOGETHER = 8  # pictures translated at once


@dataclass(frozen=True)
class Tried:
    """One direction of a translator, tried on pictures.

    Attributes:
        name: of the direction.
        given: (N, 3, H, W) in [-1, 1], what goes in.
        wanted: (M, 3, H, W) uint8, pictures of the domain that it goes to.
        conditions: N rows, the encoded prompt of each.
        paired: whether each of `wanted` belongs to that of `given` in its place.
    """

    name: str
    given: Tensor
    wanted: Tensor
    conditions: Condition
    paired: bool


@torch.no_grad()
def measure(
    tried: Tried, go: Callable[[Tensor, Condition], Tensor], levels: Callable[[Tensor], list[Tensor]], judge: Judge
) -> dict[str, float]:
    """Figures of one direction by name; all are better when lower.

    Args:
        tried: the pictures.
        go: pictures (B, 3, H, W) in [-1, 1] and their prompts -> what is made of them.
        levels: features of pictures, from coarse to deep; the deepest say what is kept of a picture's structure.
        judge: sees for the Fréchet distance, which needs a few pictures.
    """
    made, structure = [], []
    for start in range(0, len(tried.given), TOGETHER):
        rows = slice(start, start + TOGETHER)
        given = tried.given[rows]
        one = go(given, tried.conditions[rows]).clamp(-1, 1)
        structure.append(structure_distance(levels(given.to(one.device))[-1], levels(one)[-1]).cpu())
        made.append(to_levels(one.cpu()))
    pictures, device = torch.cat(made), one.device
    figures = {"structure": torch.cat(structure).mean().item()}
    if tried.paired:
        apart = to_unit_range(pictures) - to_unit_range(tried.wanted)
        figures["squared error"] = apart.square().mean().item()
    if min(len(pictures), len(tried.wanted)) >= FEWEST:
        seen = (look_at(judge, some, device).features for some in (tried.wanted, pictures))
        figures["Fréchet"] = frechet_distance(*seen)
    return {f"{name} {tried.name}": value for name, value in figures.items()}
