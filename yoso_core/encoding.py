"""Prompts as a network reads them: the tokens of a `Prompt` with their weights, and its encoding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yoso_core.prompts import Prompt, Span

# Where the mean of an encoding is less than this part of its deviation, it is what rounding left of zero, as behind a
# normalisation, and to keep it would scale by chance.
LEAST_MEAN = 0.01


class Tokens(NamedTuple):
    """A part of a prompt.

    Attributes:
        ids: (1, L) with begin, end and padding.
        weights: (1, L) float32; 1 for what belongs to no word.
        cut: the words that there was no room for; "" if none.
    """

    ids: Tensor
    weights: Tensor
    cut: str


def tokens_of(part: tuple[Span, ...], tokenizer: Any, length: int | None = None) -> Tokens:
    """The tokens of a part: those of each span for itself, so that brackets part words.

    Args:
        part: of a `Prompt`.
        tokenizer: as transformers has it.
        length: L; None for its ``model_max_length``.
    """
    *begin, end = tokenizer("").input_ids
    room = (length or tokenizer.model_max_length) - len(begin) - 1
    ids, weights = [], []
    for span in part:
        found = tokenizer(span.text, add_special_tokens=False).input_ids
        ids += found
        weights += [span.weight] * len(found)
    cut = tokenizer.decode(ids[room:]) if len(ids) > room else ""
    ids, weights = ids[:room], weights[:room]
    empty = room - len(ids)
    return Tokens(
        torch.tensor([[*begin, *ids, end, *[tokenizer.pad_token_id] * empty]]),
        torch.tensor([[1.0] * len(begin) + weights + [1.0] * (1 + empty)]),
        cut,
    )


def weighted(encoding: Tensor, weights: Tensor) -> Tensor:
    """An encoding with each token scaled by its weight, the mean of all of it kept, as AUTOMATIC1111's web UI does.

    Args:
        encoding: (1, L, D).
        weights: (1, L); where all are 1 the encoding is returned as it is.
    """
    if (weights == 1).all():
        return encoding
    before = encoding.float()
    after = before * weights[..., None].to(before.device)
    mean, least = after.mean(), LEAST_MEAN * before.std()
    if before.mean().abs() > least and mean.abs() > least:
        after = after * (before.mean() / mean)
    return after.to(encoding.dtype)


def encode_prompt(prompt: Prompt, tokenizer: Any, encode: Callable[[Tensor], Tensor]) -> tuple[Tensor, str]:
    """The encoding (1, P L, D) of a prompt of P parts, one behind the other, and the words that did not fit.

    Args:
        prompt: what to encode.
        tokenizer: as for `tokens_of`.
        encode: token ids (1, L) to their encoding (1, L, D).
    """
    parts = [tokens_of(part, tokenizer) for part in prompt.parts]
    encodings = [weighted(encode(tokens.ids), tokens.weights) for tokens in parts]
    return torch.cat(encodings, dim=1), " ".join(filter(None, (tokens.cut for tokens in parts)))
