"""How alike pictures look: frozen networks that compare pictures, and whose features discriminators read."""

from collections.abc import Callable
from typing import Protocol

import lpips
import torch
from torch import Tensor, nn

from train.measure.evaluator import WIDTHS, Evaluator
from train.measure.lpips_weights import load_lpips

PERCEPTIONS = ("lpips", "evaluator")


class Perception(Protocol):
    """A frozen network that looks at pictures (B, 3, H, W) in [-1, 1].

    Attributes:
        channels: of its levels.
    """

    channels: tuple[int, ...]

    def levels(self, pictures: Tensor) -> list[Tensor]:
        """Features (B, C, h, w) of growing depth; gradients reach the pictures."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """How unlike pictures are: (B,), 0 for equal ones."""


class LpipsPerception(nn.Module):
    """LPIPS (arXiv 1801.03924) on AlexNet, by the `lpips` package; its weights: `train.measure.lpips_weights`."""

    channels = (64, 192, 384, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        self.network: lpips.LPIPS = load_lpips("alex").eval()

    def levels(self, pictures: Tensor) -> list[Tensor]:
        return list(self.network.net(self.network.scaling_layer(pictures)))

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return self.network(a, b).flatten()


class EvaluatorPerception(nn.Module):
    """The project's own evaluator, which comes along: it knows emoji, and no photographs."""

    channels = WIDTHS

    def __init__(self) -> None:
        super().__init__()
        self.network = Evaluator.load()

    def levels(self, pictures: Tensor) -> list[Tensor]:
        return self.network.levels(pictures)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(self.levels(a), self.levels(b), strict=True)
        apart = [(one - other).square().mean((1, 2, 3)).float() for one, other in map(normalised, pairs)]
        return sum(apart) / len(apart)


def normalised(features: tuple[Tensor, ...]) -> list[Tensor]:
    """Features (B, C, h, w) whose channels have mean square 1 at every place."""
    return [each * (each.square().mean(1, keepdim=True) + 1e-6).rsqrt() for each in features]


def load_perception(name: str, device: torch.device | str = "cpu") -> LpipsPerception | EvaluatorPerception:
    """One of `PERCEPTIONS`.

    Raises:
        ConfigError: its weights are not here.
    """
    known: dict[str, Callable[[], nn.Module]] = {"lpips": LpipsPerception, "evaluator": EvaluatorPerception}
    return known[name]().requires_grad_(False).eval().to(device)


class PictureDiscriminator(nn.Module):
    """Is this a picture of the domain? Small heads on the levels of a frozen network (arXiv 2112.09130), and one more.

    Such a network knows pictures already, so the heads are quick to learn and hard to fool by noise. What is finer than
    its first level they can't see, and a generator soon finds out; so one head looks at the pixels themselves.

    Args:
        perception: whose features are read; it is not part of this module and stays as it is.
        width: of the heads.
    """

    def __init__(self, perception: Perception, width: int = 64) -> None:
        super().__init__()

        def head(*layers: nn.Module) -> nn.Sequential:
            between = [one for layer in layers for one in (layer, nn.LeakyReLU(0.2))]
            return nn.Sequential(*between, nn.Conv2d(width, 1, 1))

        self.heads = nn.ModuleList(
            head(nn.Conv2d(channels, width, 1), nn.Conv2d(width, width, 3, padding=1))
            for channels in perception.channels
        )
        self.pixels = head(
            nn.Conv2d(3, width // 2, 4, stride=2, padding=1),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, pictures: Tensor, levels: list[Tensor]) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] and their features -> logits, (B, 1, h, w) a head."""
        found = [head(level) for head, level in zip(self.heads, normalised(tuple(levels)), strict=True)]
        return [*found, self.pixels(pictures)]
