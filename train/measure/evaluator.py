"""The judge of the bundled model: pictures and captions in one space, and features to compare sets of pictures by.

Inception and CLIP judge photographs and need weights of hundreds of megabytes; this one has seen what the bundled model
draws, and comes along. It also tells styles and counts.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.loop.config import ConfigError
from yoso_core.models import MODELS_FOLDER

EVALUATOR_FOLDER = MODELS_FOLDER / "evaluator"
WIDTHS = (24, 48, 96, 144)
SHARED = 128  # numbers of the space that pictures and captions share


class Seen(NamedTuple):
    """What a judge sees in pictures.

    Attributes:
        features: (N, D), to compare distributions by.
        vectors: (N, P), unit length, to compare with captions; None where the judge knows no captions.
    """

    features: Tensor
    vectors: Tensor | None


class Block(nn.Module):
    """A residual block; stride 2 halves height and width."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        change = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(change + self.skip(F.avg_pool2d(x, self.stride) if self.stride > 1 else x))


class Evaluator(nn.Module):
    """A small contrastive network of pictures and captions (CLIP, arXiv 2103.00020).

    A caption is the mean of its words' vectors. Captions are lists of names, so order says little, and a sum makes
    "cat, 3d" out of "cat, flat" and "dog, 3d", which is what captions of held-out pictures ask for. A plural that no
    training caption has is read as its singular; other words that none has are left out.

    Args:
        words: that captions are made of.
        side: pixels of the pictures that it looks at; others are resized.
        styles: that it tells apart.
        most: things that it counts up to; 0: it counts none.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, words: Sequence[str], side: int = 64, styles: Sequence[str] = (), most: int = 0) -> None:
        super().__init__()
        self.side, self.styles, self.most = side, tuple(styles), most
        self.words = {word: index for index, word in enumerate(words, 1)}  # 0 fills short captions up
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, stride=2, padding=1)
        channels = zip((WIDTHS[0], *WIDTHS[:-1]), WIDTHS, (1, 2, 2, 2), strict=True)
        self.blocks = nn.ModuleList(Block(*sizes) for sizes in channels)
        width = WIDTHS[1] + WIDTHS[3]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.projection = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, SHARED))
        self.style_head = nn.Linear(width, len(self.styles)) if styles else None
        self.count_head = nn.Linear(width, most + 1) if most else None
        self.word_vectors = nn.EmbeddingBag(len(self.words) + 1, SHARED, mode="mean", padding_idx=0)
        nn.init.normal_(self.word_vectors.weight, std=0.3)

    def levels(self, pictures: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> features of growing depth, (N, C, h, w) with C of `WIDTHS`."""
        if pictures.shape[-2:] != (self.side, self.side):
            pictures = F.interpolate(pictures, (self.side, self.side), mode="bicubic", antialias=True).clamp(-1, 1)
        x = F.relu(self.stem(pictures.contiguous(memory_format=torch.channels_last)))
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def pooled(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, 192), means over the picture.

        Of two depths: the deep half says what is drawn, the shallow half how, so that blur and noise show.
        """
        levels = self.levels(pictures)
        return torch.cat([levels[index].mean((2, 3)).float() for index in (1, 3)], 1)

    def project(self, pooled: Tensor) -> Tensor:
        """(N, 192) -> (N, 128), unit length."""
        return F.normalize(self.projection(pooled).float(), dim=-1)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """(N, L) int64, the known words of each caption."""
        known = [[found for word in words_of(caption) if (found := self._index(word))] for caption in captions]
        longest = max(1, *map(len, known))
        return torch.tensor([indices + [0] * (longest - len(indices)) for indices in known])

    def _index(self, word: str) -> int:
        """Of a word or what it is the plural of; 0 for one that is not known."""
        readings = [word, word.removesuffix("s"), word.removesuffix("es")]
        if word.endswith("ies"):
            readings.append(word.removesuffix("ies") + "y")
        return next((self.words[one] for one in readings if one in self.words), 0)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """(N, L) -> (N, 128), unit length; zero for a caption of unknown words alone."""
        return F.normalize(self.word_vectors(tokens).float(), dim=-1)

    def read(self, captions: Sequence[str]) -> Tensor:
        """Captions -> (N, 128), unit length, in the space of `look`'s vectors."""
        return self.read_tokens(self.tokens(captions).to(self.mean.device))

    def look(self, pictures: Tensor) -> Seen:
        """(N, 3, H, W) in [-1, 1] -> features (N, 192) and vectors (N, 128)."""
        pooled = self.pooled(pictures)
        return Seen((pooled - self.mean) / self.deviation, self.project(pooled))

    def style_logits(self, pooled: Tensor) -> Tensor:
        """(N, 192) of `pooled` -> (N, S), of `styles`."""
        return self.style_head(pooled)

    def count_logits(self, pooled: Tensor) -> Tensor:
        """(N, 192) of `pooled` -> (N, most + 1), of 0 to `most` things."""
        return self.count_head(pooled)

    def features(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, 192); each has mean 0 and variance 1 over the training pictures."""
        return self.look(pictures).features

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (fp16) and ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        counters = ("num_batches_tracked",)
        weights = {
            name: value.half().contiguous() for name, value in self.state_dict().items() if not name.endswith(counters)
        }
        save_file(weights, folder / "model.safetensors")
        about = {"words": list(self.words), "side": self.side, "styles": self.styles, "most": self.most}
        (folder / "config.json").write_text(json.dumps(about) + "\n")

    @classmethod
    def load(cls, folder: Path = EVALUATOR_FOLDER) -> "Evaluator":
        """Read what `save` wrote; in float32, ready to look.

        Raises:
            ConfigError: the folder holds no evaluator.
        """
        try:
            about = json.loads((folder / "config.json").read_text())
            evaluator = cls(**about)
            weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
            evaluator.load_state_dict(evaluator.state_dict() | weights)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ConfigError(
                f"{folder} holds no evaluator ({error!s:.100}); train it with python -m train.recipes.evaluator"
            ) from error
        return evaluator.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def words_of(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())
