"""A translator without a pretrained backbone: the generator of CycleGAN (arXiv 1703.10593), for comparison."""

import torch
from torch import Tensor, nn

from yoso_core.condition import Condition


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels), nn.ReLU()),
            *(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PlainNetwork(nn.Module):
    """Two strided convolutions, residual blocks, and back: pictures (B, 3, H, W) to pictures.

    Args:
        width: channels at full size.
        blocks: residual ones.
        context: width of encoded prompts, whose mean scales and shifts the innermost features, as the original's
            generator has no way to be told anything; 0 for none.
    """

    def __init__(self, width: int = 32, blocks: int = 6, context: int = 0) -> None:
        super().__init__()

        def layer(convolution: nn.Module, channels: int) -> list[nn.Module]:
            return [convolution, nn.InstanceNorm2d(channels), nn.ReLU()]

        w2, w4 = 2 * width, 4 * width
        self.down = nn.Sequential(
            *layer(nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect"), width),
            *layer(nn.Conv2d(width, w2, 3, 2, 1), w2),
            *layer(nn.Conv2d(w2, w4, 3, 2, 1), w4),
        )
        self.told = nn.Linear(context, 2 * w4) if context else None
        self.body = nn.Sequential(*(_Residual(w4) for _ in range(blocks)))
        self.up = nn.Sequential(
            *layer(nn.ConvTranspose2d(w4, w2, 3, 2, 1, 1), w2),
            *layer(nn.ConvTranspose2d(w2, width, 3, 2, 1, 1), width),
            nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )

    def forward(self, pictures: Tensor, condition: Condition) -> Tensor:
        hidden = self.down(pictures)
        if self.told is not None:
            scale, shift = self.told(condition.context.mean(1))[:, :, None, None].chunk(2, 1)
            hidden = hidden * (1 + scale) + shift
        return self.up(self.body(hidden))


class PlainGenerator(nn.Module):
    """One network a direction, called as `train.tasks.translate.Generator` is; strength and noise are not for it.

    Args:
        directions: their names.
        context: see `PlainNetwork`.
    """

    def __init__(self, directions: tuple[str, ...], context: int = 0) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: PlainNetwork(context=context) for name in directions})
        self.to(memory_format=torch.channels_last)

    def forward(
        self, pictures: Tensor, condition: Condition, direction: str, strength: float = 1.0, noise: Tensor | None = None
    ) -> Tensor:
        return self.networks[direction](pictures, condition)
