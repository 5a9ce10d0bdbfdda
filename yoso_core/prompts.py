r"""Prompts as people type them elsewhere: weights of words, choices, LoRA tags, parts. Pure functions of text.

``(word)`` weighs 1.1 times as much, ``((word))`` 1.21 times, ``[word]`` 1.1 times less, ``(word:1.3)`` as it says;
``\(`` is a bracket that is meant as such. ``BREAK`` begins a part that is encoded by itself. ``{a|b}`` is one of its
choices, which the seed makes. ``<lora:NAME:0.8>`` asks for a LoRA. What other programs understand beyond this is left
out, or read as the words that it holds, and told.
"""

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from yoso_core.requests import GenerateRequest, LoraUse

EMPHASIS = 1.1  # of one pair of brackets
WEIGHT_LIMIT = 5.0  # to either side; beyond it encodings are none that a network has seen
PRODUCT_LIMIT = 1000.0  # of nested brackets, so that no product is infinite
SHARE_LIMIT = 1e6
PARTS_LIMIT = 8  # of a prompt; each lengthens what the network attends to
QUOTED = 40  # characters of a prompt in a note
TAG = re.compile(r"<(\w+):([^<>\n]*)>")
# With the spaces and commas around; the look-behind begins each run of them once, however long it is.
TAGS = re.compile(rf"(?<![\s,])[\s,]*(?:{TAG.pattern}[\s,]*)+")
LORA_KINDS = ("lora", "lyco")
ESCAPED = re.compile(r"\\([()\[\]{}<>|\\])")
# What is read at once: an escaped character, a weight that closes a bracket, a bracket, text between these.
TOKEN = re.compile(r"\\.|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)
BREAK = re.compile(r"\s*\bBREAK\b\s*")
AND = re.compile(r"\s*(?::\s*[+-]?[\d.]+\s*)?(?<!\w)AND(?!\w)\s*")
NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*")
SHARE = re.compile(r"\s*(\d+\.?\d*|\.\d+)::")  # how often a choice is made, against the others
WILDCARD = re.compile(r"__([\w./ -]+?)__")


@dataclass(frozen=True)
class Span:
    """Words that weigh the same.

    Attributes:
        text: without brackets.
        weight: 1 is as it is.
    """

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Prompt:
    """What a prompt says.

    Attributes:
        parts: each encoded by itself; one, unless the prompt has ``BREAK`` in it.
        notes: what was not understood or was changed, in words.
    """

    parts: tuple[tuple[Span, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """All that it says, without weights."""
        return " ".join(span.text for part in self.parts for span in part)

    def spelled(self, spell: Callable[[str], str]) -> "Prompt":
        """The same with the text of every span as `spell` has it."""
        parts = (tuple(Span(spell(span.text), span.weight) for span in part) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def of_parts(self, count: int) -> "Prompt":
        """The same with empty parts behind it, so that it has at least so many."""
        return replace(self, parts=self.parts + ((Span(""),),) * (count - len(self.parts)))


@dataclass(frozen=True)
class Tag:
    """A tag of another program.

    Attributes:
        kind: "lora" and the like.
        name: what it asks for.
        weight: the first number after the name; None where there is something else; 1 where there is nothing.
    """

    kind: str
    name: str
    weight: float | None = 1.0


def tags_of(text: str) -> list[Tag]:
    """The tags in a text, in their order."""
    return [_tag(kind, inside) for kind, inside in TAG.findall(text)]


def _tag(kind: str, inside: str) -> Tag:
    name, _, rest = inside.partition(":")
    first = re.split("[:,]", rest)[0]  # there may be more of them, for parts of the network
    return Tag(kind.lower(), name.strip(), number_in(first or "1"))


def number_in(text: str) -> float | None:
    """A finite number; None for other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def without_tags(text: str, which: Callable[[Tag], bool] = lambda tag: True) -> str:
    """A text without its tags, and without the commas and spaces that were there for them alone.

    Args:
        text: a prompt.
        which: those to take out.
    """

    def seam(match: re.Match) -> str:
        kept = [tag[0] for tag in TAG.finditer(match[0]) if not which(_tag(*tag.groups()))]
        comma = "," in TAG.sub("", match[0])
        ends = ("" if match.start() == 0 else ", " if comma else " ", "" if match.end() == len(text) else " ")
        if kept:
            return f"{ends[0]}{' '.join(kept)}{', ' if comma and ends[1] else ends[1]}"
        return "" if match.start() == 0 or match.end() == len(text) else ends[0]

    return TAGS.sub(seam, text)


def has_choices(text: str) -> bool:
    """Whether another seed may make another prompt of a text."""
    several = False
    while group := _choice(text):
        several |= len(group.options) > 1
        text = text[: group.start] + " ".join(group.options) + text[group.end :]
    return several


def choose(text: str, seed: int) -> str:
    """A text with one of the choices of every ``{a|b}`` in it; the same for the same seed."""
    return _chosen(text, seed)[0]


def _chosen(text: str, seed: int) -> tuple[str, list[str]]:
    """What `choose` makes of a text, and which choices it made; of nested ones the outermost."""
    numbers, made = random.Random(seed), list[tuple[int, str]]()
    while group := _choice(text):
        shares = [SHARE.match(option) for option in group.options]
        weights = [min(float(share[1]), SHARE_LIMIT) if share else 1.0 for share in shares]
        place = numbers.random() * sum(weights)
        index = next((index for index in range(len(weights)) if place < sum(weights[: index + 1])), len(weights) - 1)
        words = group.options[index][shares[index].end() if shares[index] else 0 :].strip()
        text = text[: group.start] + words + text[group.end :]
        if len(group.options) > 1:
            made = [*(one for one in made if one[0] < group.start), (group.start, words)]  # one around others ends last
    return text, [words for _, words in made]


class Choice(NamedTuple):
    """A ``{a|b}`` in a text: where it begins and ends, and what stands between its bars."""

    start: int
    end: int
    options: list[str]


def _choice(text: str) -> Choice | None:
    """The first that has none within it."""
    opened, bars, place = -1, [], 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif letter == "{":
            opened, bars = place, []
        elif letter == "|" and opened >= 0:
            bars.append(place)
        elif letter == "}" and opened >= 0:
            edges = [opened, *bars, place]
            return Choice(opened, place + 1, [text[one + 1 : other] for one, other in pairwise(edges)])
        place += 1
    return None


def called(name: str) -> str:
    """What a LoRA is found by: the last part of its name without its suffix, whatever its case, "_", "-" or spaces."""
    last = re.split(r"[/\\]", name.strip())[-1]
    return re.sub(r"[\s_-]+", "-", re.sub(r"\.safetensors$", "", last, flags=re.IGNORECASE).casefold()).strip("-")


def take_loras(prompt: str, loras: Iterable[LoraUse], offered: Mapping[str, str]) -> tuple[str, tuple[LoraUse, ...]]:
    """A prompt without the tags that name LoRAs, and these beside those that were chosen already.

    Tags that name none stay in the prompt, for `read_prompt` to tell.

    Args:
        prompt: as it was typed.
        loras: chosen by other means; a tag of the same LoRA sets its weight.
        offered: names of LoRAs by what they are `called`.

    Raises:
        RequestError: a weight that no LoRA can have.
    """
    uses = {use.name: use for use in loras}

    def named(tag: Tag) -> bool:
        return tag.kind in LORA_KINDS and called(tag.name) in offered

    for tag in filter(named, tags_of(prompt)):
        name = offered[called(tag.name)]
        uses[name] = LoraUse(name, 1.0 if tag.weight is None else tag.weight)
    return without_tags(prompt, named), tuple(uses.values())


@lru_cache(maxsize=256)
def read_prompt(text: str) -> Prompt:
    """What a prompt without choices says."""
    notes: list[str] = []
    for tag in tags_of(text):
        if tag.kind in LORA_KINDS:
            notes.append(f"There is no LoRA {_quoted(tag.name)} here to act on the prompt: left out.")
        else:
            notes.append(f"{_quoted(f'<{tag.kind}:{tag.name}>')} is of another program: left out.")
    text = without_tags(text)
    text = _without_schedules(text, notes)
    text = _as_one(text, notes)
    parts = _weighed(text, notes)
    if len(parts) > PARTS_LIMIT:
        notes.append(f"Of {len(parts)} parts with BREAK between them the first {PARTS_LIMIT} are read.")
    return Prompt(tuple(parts[:PARTS_LIMIT]), tuple(dict.fromkeys(notes)))


class Asked(NamedTuple):
    """What a request of one seed says.

    Attributes:
        prompt, negative: of as many parts each.
        notes: what was not understood or was changed, and which choices were made, in words.
    """

    prompt: Prompt
    negative: Prompt
    notes: tuple[str, ...]


def read_request(request: GenerateRequest) -> Asked:
    """The prompts of a request, with the choices that its seed makes."""
    chosen, choices = _chosen(request.prompt, request.seed)
    prompt = read_prompt(chosen)
    negative = read_prompt(without_tags(choose(request.negative, request.seed)))
    guided = (request.guidance or 1) > 1
    count = max(len(prompt.parts), len(negative.parts)) if guided else len(prompt.parts)
    notes = [f"Seed {request.seed}: {', '.join(one or 'nothing' for one in choices):.200}."] if choices else []
    notes += prompt.notes
    if guided:
        notes += negative.notes
        if tags_of(request.negative):
            notes.append("Tags act in the prompt alone: those in the negative prompt are left out.")
    return Asked(prompt.of_parts(count), negative.of_parts(count), tuple(dict.fromkeys(notes)))


def as_it_is(text: str) -> Prompt:
    """A text that nobody typed, such as a caption: every character in it is meant."""
    return Prompt(((Span(text),),))


def _as_one(text: str, notes: list[str]) -> str:
    """What joins prompts elsewhere, as one prompt; lists of words that are not here by their names."""
    if not text.isupper() and AND.search(text):
        notes.append("AND joins several prompts elsewhere: read as a comma.")
        text = re.sub(r":\s*[+-]?[\d.]+\s*$", "", AND.sub(", ", text))
    for name in WILDCARD.findall(text):
        notes.append(f"{_quoted(f'__{name}__')} is a list of words that is not here: read as it is called.")
    return WILDCARD.sub(lambda found: re.sub(r"[_/.-]", " ", found[1]), text)


def _without_schedules(text: str, notes: list[str]) -> str:
    """``[from:to:when]`` and ``[one|other]``, which change a prompt from step to step, as what they begin with."""
    opened: list[int] = []
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif letter == "[":
            opened.append(place)
        elif letter == "]" and opened:
            start = opened.pop()
            words = _first_of(text[start + 1 : place])
            if words is not None:
                notes.append(
                    f"{_quoted(text[start : place + 1])} changes from step to step elsewhere: read as {_quoted(words)}."
                )
                text = text[:start] + words + text[place + 1 :]
                place = start + len(words) - 1
        place += 1
    return text


def _first_of(inside: str) -> str | None:
    """What a schedule begins with; None where it is none."""
    bars = split_at(inside, "|")
    if len(bars) > 1:
        return next((one.strip() for one in bars if one.strip()), "")
    *words, when = split_at(inside, ":")
    if not 1 <= len(words) <= 2 or not NUMBER.fullmatch(when):
        return None
    return words[0].strip() or words[-1].strip()


def split_at(text: str, mark: str, brackets: str = "()") -> list[str]:
    """A text cut at a mark, but for escaped marks and those within brackets.

    Args:
        text: what to cut.
        mark: a character.
        brackets: pairs of an opening and a closing one.
    """
    parts, depth, place, start = [], 0, 0, 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif letter in brackets:
            depth = max(0, depth + (1 if brackets.index(letter) % 2 == 0 else -1))
        elif letter == mark and not depth:
            parts.append(text[start:place])
            start = place + 1
        place += 1
    return [*parts, text[start:]]


def _weighed(text: str, notes: list[str]) -> list[tuple[Span, ...]]:
    """The spans of each part of a text; brackets that nobody closes reach to its end."""
    pieces: list[tuple[str, float]] = []  # text and its weight
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where what stands in brackets begins, in pieces

    def weigh(start: int, factor: float) -> None:
        pieces[start:] = [(words, _within(weight * factor, PRODUCT_LIMIT)) for words, weight in pieces[start:]]

    for token in TOKEN.finditer(text):
        words, number = token[0], token[1]
        if words.startswith("\\"):
            pieces.append((ESCAPED.sub(r"\1", words), 1.0))
        elif words in opened:
            opened[words].append(len(pieces))
        elif number is not None and opened["("]:
            weigh(opened["("].pop(), _within(float(number), PRODUCT_LIMIT))
        elif words == ")" and opened["("]:
            weigh(opened["("].pop(), EMPHASIS)
        elif words == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / EMPHASIS)
        else:
            pieces.append((words, 1.0))
    for start in opened["("]:
        weigh(start, EMPHASIS)
    for start in opened["["]:
        weigh(start, 1 / EMPHASIS)
    if any(abs(weight) > WEIGHT_LIMIT for _, weight in pieces):
        notes.append(f"Weights of words go to {WEIGHT_LIMIT:g}: what was beyond is set to that.")
    return _parts([(words, _within(weight, WEIGHT_LIMIT)) for words, weight in pieces])


def _within(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _parts(pieces: list[tuple[str, float]]) -> list[tuple[Span, ...]]:
    """Pieces of text and weight as spans, neighbours of the same weight in one; BREAK begins another part."""
    parts: list[list[Span]] = [[]]
    joined: list[tuple[str, float]] = []
    for words, weight in pieces:
        weight = round(weight, 6)  # 1.1 / 1.1
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + words, weight)
        else:
            joined.append((words, weight))
    for words, weight in joined:
        first, *others = BREAK.split(words)
        if first:
            parts[-1].append(Span(first, weight))
        parts += [[Span(other, weight)] if other else [] for other in others]
    return [tuple(part) or (Span(""),) for part in parts if part] or [(Span(""),)]


def _quoted(text: str, most: int = QUOTED) -> str:
    return f"“{text[:most]}…”" if len(text) > most else f"“{text}”"
