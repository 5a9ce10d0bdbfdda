"""What a model says of itself in words: data beside its weights, in ``words.json`` of its folder.

.. code-block:: json

    {
      "styles": {"3d": "soft shapes with light on them", "flat": "plain areas of colour"},
      "names": ["red heart", "grinning cat"],
      "words": ["kitty", "love"],
      "emoji": {"❤": "red heart"},
      "examples": ["a red heart", "a grinning cat, flat"]
    }

``styles`` are the words by which a prompt chooses a style, in the order of the page, each with a line about it; ``names``
what it draws, as people call it, offered while they type; ``words`` what its captions hold beyond these, which are known
and not offered; ``emoji`` characters and the words that they stand for; ``examples`` whole prompts that come out well, the
first of which the page opens with. Every key may be left out. `python -m train.recipes.words` makes the file from captions.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from yoso_core.requests import RequestError

FILE = "words.json"
VARIATION = "\ufe0f"  # follows many emoji characters, and means nothing here
# What prompts hold around the things that they name.
COMMON = frozenset(
    "a an the of in on at with and or to from for by is are its his her my your this that style picture emoji photo "
    "very one two three".split()
)


def words_in(text: str) -> list[str]:
    """The words of a text in lower case, each as often as it comes."""
    return re.findall(r"[^\W_]+", text.lower())


@dataclass(frozen=True)
class Words:
    """What stands in ``words.json``; empty where a model has none, which says nothing about what it knows."""

    styles: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    emoji: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @cached_property
    def known(self) -> frozenset[str]:
        """Every word that its captions hold, but for those that any sentence has."""
        named = (word for text in (*self.names, *self.words) for word in words_in(text))
        return frozenset(named) - COMMON

    def knows(self, word: str) -> bool:
        """Whether a word, in lower case, is known, be it in the plural."""
        return not self.known.isdisjoint((word, word.removesuffix("s"), word.removesuffix("es")))

    def unknown(self, prompt: str) -> list[str]:
        """The words of a prompt that are not known, styles apart; [] where nothing is told of what is."""
        if not self.known:
            return []
        asked = dict.fromkeys(words_in(self.spelled_out(prompt)))
        return [word for word in asked if not (word in COMMON or word in self.styles or self.knows(word))]

    def note(self, prompt: str) -> str:
        """A sentence where no word of a prompt is known; "" where one is, or where there are none."""
        asked = set(words_in(self.spelled_out(prompt))) - COMMON - {*self.styles}
        unknown = self.unknown(prompt)
        if not unknown or len(unknown) < len(asked):
            return ""
        listed = ", ".join(f"“{word}”" for word in unknown[:4])
        return f"The model never learned {listed}: what it draws is a guess."

    def spelled_out(self, prompt: str) -> str:
        """A prompt with its emoji characters as words: "🐼 and a 🍕" is "panda and a pizza"."""
        if not self.emoji or prompt.isascii():
            return prompt
        return self._emoji_pattern.sub(lambda found: f" {self.emoji[found[1]]} ", prompt.replace(VARIATION, "")).strip()

    @cached_property
    def _emoji_pattern(self) -> re.Pattern[str]:
        """Longest first: a sequence begins with characters that mean something alone."""
        return re.compile(" *(" + "|".join(map(re.escape, sorted(self.emoji, key=len, reverse=True))) + ") *")


NOTHING = Words()


def read_words(folder: Path) -> Words:
    """What a model's folder says in ``words.json``; nothing where there is no such file.

    Raises:
        RequestError: the file can't be read.
    """
    path = folder / FILE
    if not path.is_file():
        return NOTHING
    try:
        values = json.loads(path.read_text("utf-8"))
        known = {one.name: one for one in fields(Words)}
        made: dict[str, Any] = {name: _checked(value, name) for name, value in values.items() if name in known}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(f"{path} can't be read ({error!s:.80}); mend or remove it.") from error
    return Words(**made)


def _checked(value: Any, name: str) -> Any:
    tables = ("styles", "emoji")
    texts = [*value, *value.values()] if name in tables else list(value)
    if isinstance(value, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be {'a table' if name in tables else 'a list'} of texts")
    return {key.replace(VARIATION, ""): text for key, text in value.items()} if name in tables else tuple(value)
