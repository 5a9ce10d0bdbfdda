"""Which picture a word means: everyday words and phrases, each with the label that comes nearest.

Certain are labels, the names and things that people wrote down, and tags. Then nouns that are a kind of these by
WordNet ("corgi", a dog), then words that a sentence model puts beside a label and its tags ("influenza", a sneezing
face). What is near to nothing means nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from torch import Tensor

from train.recipes.corpus.nearby import NEARBY
from train.recipes.corpus.wordnet import Nouns
from train.recipes.corpus.words import SYNONYMS, plural

TOLD, TAG, KIND, NEAR = 4.0, 1.5, 1.0, 0.5  # how often a phrase is said, by how its meaning is known
# Labels whose sense is so wide that whatever is a kind of it looks like something else.
WIDE = frozenset({"construction", "herb", "gear", "artist palette", "station"})
# Whom no picture shows, although tags of clothes name them.
NOBODY = frozenset("man men woman women boy boys girl girls child kid kids person people guy lady human friend".split())
SENSE_LIKE_LABEL = 0.3  # cosine of a sense's gloss and a label's tags from where on the label names the sense
KIND_LIKE_LABEL = 0.3  # cosine of a word and the label that it is a kind of
NEAR_ENOUGH = 1.2  # sum of a word's cosines to one name of a label and to label and tags


class Named(Protocol):
    """What a lexicon knows of a picture."""

    label: str
    tags: tuple[str, ...]


class Sentences(Protocol):
    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D), unit length: texts of like meaning have a cosine near 1."""


@dataclass
class Lexicon:
    """Phrases in lower case and what each means.

    Attributes:
        meaning: phrase -> label.
        weight: phrase -> how often it is said.
    """

    meaning: dict[str, str] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)

    def add(self, phrase: str, label: str, weight: float) -> None:
        """What means something already keeps its meaning."""
        if phrase and phrase not in NOBODY and phrase not in self.meaning:
            self.meaning[phrase], self.weight[phrase] = label, weight

    def of(self, label: str) -> tuple[list[str], list[float]]:
        """The phrases that mean a label, and their weights."""
        return self._by_label[label]

    @cached_property
    def _by_label(self) -> dict[str, tuple[list[str], list[float]]]:
        found: dict[str, tuple[list[str], list[float]]] = {}
        for phrase, label in self.meaning.items():
            phrases, weights = found.setdefault(label, ([], []))
            phrases.append(phrase)
            weights.append(self.weight[phrase])
        return found


def told(art: Sequence[Named]) -> Lexicon:
    """What people wrote down: labels, synonyms, near things."""
    lexicon = Lexicon()
    labels = {one.label for one in art}
    for label in sorted(labels):
        lexicon.add(label.replace("\u2019", "'"), label, TOLD)
    for table in (SYNONYMS, NEARBY):
        for label, names in table.items():
            if label in labels:
                for name in names.split():
                    lexicon.add(name.replace("_", " "), label, TOLD)
    for label in sorted(labels):
        if label.endswith(" face") and not label.startswith(("smiling", "grinning")):
            lexicon.add(label.removesuffix(" face"), label, TAG)
    return lexicon


def make_lexicon(art: Sequence[Named], words: Sequence[str], nouns: Nouns, embed: Sentences) -> Lexicon:
    """Everything that is meant.

    Args:
        art: with their labels and tags; one or more of each label.
        words: common words and phrases, in lower case; those that mean no label are left out.
        nouns: of WordNet.
        embed: the sentence model.
    """
    first = {one.label: one for one in art}
    labels = list(first)
    places = {label: index for index, label in enumerate(labels)}
    names = embed(labels)
    about = embed([f"{label}: {', '.join(first[label].tags)}" for label in labels])

    lexicon = told(art)
    tagged = defaultdict(list)
    for label in labels:
        for tag in first[label].tags:
            tagged[tag.lower()].append(places[label])
    for (tag, having), vector in zip(tagged.items(), embed(list(tagged)), strict=True):
        nearest = max(having, key=lambda index: float(vector @ names[index]))
        lexicon.add(tag, labels[nearest], TAG)

    named = list(lexicon.meaning)  # and what they mean, by which other words are told
    owners = [places[lexicon.meaning[name]] for name in named]
    senses = _label_senses(lexicon, about, places, nouns, embed)
    words = [word for word in dict.fromkeys(words) if word not in lexicon.meaning]
    vectors = embed(words)
    likeness, to_about, to_names = vectors @ names.T, vectors @ about.T, vectors @ embed(named).T
    for row, word in enumerate(words):
        kind = _kind(word, nouns, senses)
        if kind is not None and likeness[row, places[kind]] > KIND_LIKE_LABEL:
            lexicon.add(word, kind, KIND)
            continue
        near = to_names[row] + to_about[row, owners]
        best = int(near.argmax())
        if near[best] > NEAR_ENOUGH:
            lexicon.add(word, labels[owners[best]], NEAR)
    for phrase, label in list(lexicon.meaning.items()):
        if lexicon.weight[phrase] != NEAR and phrase in nouns.of:
            lexicon.add(plural(phrase), label, lexicon.weight[phrase] / 3)
    return lexicon


def _label_senses(
    lexicon: Lexicon, about: Tensor, places: dict[str, int], nouns: Nouns, embed: Sentences
) -> dict[str, str]:
    """Sense -> label, for every told name that is a noun: the sense whose gloss is most like label and tags."""
    asked = [
        (name, label, order, sense)
        for name, label in lexicon.meaning.items()
        if lexicon.weight[name] == TOLD and label not in WIDE
        for order, sense in enumerate(nouns.things(name, most=6))
    ]
    if not asked:
        return {}
    glosses = embed([f"{name}: {nouns.senses[sense].gloss}" for name, _, _, sense in asked])
    best: dict[str, tuple[float, str, str]] = {}
    for (name, label, order, sense), vector in zip(asked, glosses, strict=True):
        score = float(vector @ about[places[label]]) - 0.04 * order  # the commoner first
        if score > SENSE_LIKE_LABEL and score > best.get(name, (0.0,))[0]:
            best[name] = (score, sense, label)
    found: dict[str, tuple[float, str]] = {}
    for name, (score, sense, label) in best.items():
        score += 0.2 * (name == label)
        if score > found.get(sense, (0.0,))[0]:
            found[sense] = (score, label)
    return {sense: label for sense, (_, label) in found.items()}


def _kind(word: str, nouns: Nouns, senses: dict[str, str]) -> str | None:
    """The label that a noun is a kind of, the nearest; its commonest sense first."""
    for sense in nouns.things(word):
        for _, above in nouns.above(sense):
            if above in senses:
                return senses[above]
    return None
