"""Scenes: sprites on grounds, with the captions that people would type.

`Describer` makes one scene and one caption of it out of a seed: what the caption leaves open (style, place, size,
ground, which of eight cats) the seed decides, so many pictures answer one caption. A scene can be drawn in another
light or weather: day and night of one scene are truth to measure against.
"""

import math
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from train.recipes.corpus import words
from train.recipes.corpus.art import STYLES, Sprite, process_pool
from train.recipes.corpus.colours import HUES, turn
from train.recipes.corpus.grounds import (
    EMPTY_WEATHER,
    NAMED,
    PLACES,
    WEATHER_WORDS,
    WEATHERS,
    Ground,
    Place,
    mix,
    near,
)

SLOTS = 5  # sprites a scene has at most
SHARE_PLAIN = 0.5  # of scenes: one sprite on white, as emoji are
MIRRORED_GROUPS = ("animals-nature", "food-drink", "travel-places", "objects", "people-body")
HATS = ("top hat", "crown", "billed cap", "graduation cap", "woman\u2019s hat")
FLYING = ("transport-air", "sky-weather", "heart", "emotion", "time")
HEADS = ("cat-face", "monkey-face", "animal-mammal", "face-smiling", "face-costume")
ALL_HEAD = (
    "bear",
    "panda",
    "fox",
    "wolf",
    "lion",
    "koala",
    "polar bear",
    "hamster",
    "raccoon",
    "robot",
    "alien",
    "frog",
)
SWIMMING = ("animal-marine", "transport-water")
STANDING = {
    *(
        "animal-mammal",
        "animal-bird",
        "animal-amphibian",
        "animal-reptile",
        "animal-bug",
        "plant-flower",
        "plant-other",
    ),
    *("place-building", "place-religious", "place-other", "transport-ground", "hotel", "person", "person-role"),
    *("person-fantasy", "person-activity", "person-sport", "person-resting", "family", "event", "sport", "household"),
    *("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet", "drink", "dishware", "game", "tool"),
    *(
        "musical-instrument",
        "book-paper",
        "clothing",
        "light-video",
        "phone",
        "computer",
        "other-object",
        "award-medal",
    ),
    *("cat-face", "monkey-face", "face-costume", "face-smiling", "science", "lock", "money", "arts-crafts"),
}
# How much more often than once a sprite is drawn: what people ask for.
DEMAND = {
    "animals-nature": 3.0,
    "food-drink": 2.5,
    "travel-places": 2.0,
    "smileys-emotion": 1.5,
    "objects": 1.3,
    "activities": 1.3,
    "people-body": 0.5,
    "symbols": 0.4,
    "flags": 0.3,
}


@dataclass
class Placed:
    """A sprite in a scene: centre, side and tilt; hue in radians that its colours are turned by."""

    sprite: int
    x: float = 0.5
    y: float = 0.5
    size: float = 0.9
    tilt: float = 0.0
    mirrored: bool = False
    hue: float = 0.0
    shadow: float = 0.0


@dataclass
class Scene:
    caption: str
    ground: Ground
    placed: list[Placed]
    weather: int = 0  # of WEATHERS


@dataclass(frozen=True)
class Scenes:
    """Descriptions of N scenes.

    Attributes:
        captions: what one would type for each.
        ground: (N, G) float32, see `Ground`.
        sprite: (N, S) int64, place in the art; -1: none.
        place: (N, S, 7) float32: x, y, size, tilt, mirrored, hue, shadow.
        weather: (N,) int64, of `WEATHERS`.
    """

    captions: list[str]
    ground: Tensor
    sprite: Tensor
    place: Tensor
    weather: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, chosen: Tensor) -> "Scenes":
        return Scenes(
            [self.captions[i] for i in chosen.tolist()],
            self.ground[chosen],
            self.sprite[chosen],
            self.place[chosen],
            self.weather[chosen],
        )

    def under(self, weather: str) -> "Scenes":
        """The same scenes in another light or weather; captions stay."""
        return replace(self, weather=torch.full_like(self.weather, WEATHERS.index(weather)))

    @property
    def counts(self) -> Tensor:
        """(N,) sprites in each."""
        return (self.sprite >= 0).sum(1)

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> "Scenes":
        sprite = torch.full((len(scenes), SLOTS), -1)
        place = torch.zeros(len(scenes), SLOTS, 7)
        for row, scene in enumerate(scenes):
            for slot, one in enumerate(scene.placed):
                sprite[row, slot] = one.sprite
                place[row, slot] = torch.tensor(
                    [one.x, one.y, one.size, one.tilt, float(one.mirrored), one.hue, one.shadow]
                )
        return cls(
            [scene.caption for scene in scenes],
            torch.tensor([scene.ground.numbers() for scene in scenes]),
            sprite,
            place,
            torch.tensor([scene.weather for scene in scenes]),
        )


@dataclass
class Describer:
    """Makes scenes of art.

    Args:
        art: all sprites; the held-out ones are never placed, unless they alone are asked for.
        hues: (N,) dominant hue of each sprite in radians, NaN where it has no one colour.
        held_out: place the held-out sprites, alone on white, and nothing else.
    """

    art: list[Sprite]
    hues: list[float]
    held_out: bool = False
    weights: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.usable = [i for i, one in enumerate(self.art) if one.held_out == self.held_out]
        by_label = defaultdict(list)
        for i in self.usable:
            by_label[self.art[i].label].append(i)
        self.labels = list(by_label)
        self.by_label = by_label
        first = {label: self.art[found[0]] for label, found in by_label.items()}
        self.names = {label: words.names(one) for label, one in first.items()}
        self.first = first
        self.weights, total = [], 0.0
        for label, one in first.items():
            total += DEMAND[one.group] * (2.5 if label in words.SYNONYMS else 1.0) * len(by_label[label]) ** 0.5
            self.weights.append(total)
        self.standing = [label for label in self.labels if first[label].subgroup in STANDING]
        self.flying = [
            label
            for label in self.labels
            if first[label].subgroup in FLYING
            or label in ("bird", "butterfly", "honeybee", "eagle", "owl", "balloon", "dove", "parrot")
        ]
        self.swimming = [
            label for label in self.labels if first[label].subgroup in SWIMMING or label in ("duck", "swan")
        ]
        self.wearers = [
            label
            for label in self.labels
            if (first[label].subgroup in HEADS and label.endswith("face")) or label in ALL_HEAD
        ]
        self.hats = [label for label in HATS if label in by_label]

    def _label(self, picker: random.Random, among: Sequence[str] | None = None) -> str:
        if among is None:
            return picker.choices(self.labels, cum_weights=self.weights)[0]
        # Every second time what people ask for most.
        label = picker.choice(among)
        return label if label in words.SYNONYMS or picker.random() < 0.5 else picker.choice(among)

    def _sprite(self, label: str, style: str | None, picker: random.Random) -> int:
        found = self.by_label[label]
        if style is not None:
            found = [i for i in found if self.art[i].style == style] or found
        return picker.choice(found)

    def _name(self, label: str, picker: random.Random) -> str:
        return words.one_of(self.names[label], picker)

    def _coloured(self, index: int, picker: random.Random, chance: float) -> tuple[str, float]:
        """A colour's name for the sprite and the turn that gives it that colour; or none."""
        hue = self.hues[index]
        one = self.art[index]
        if (
            math.isnan(hue)
            or picker.random() > chance
            or (one.group in ("flags", "symbols") and one.subgroup != "geometric")
        ):
            return "", 0.0
        colour = picker.choice(words.COLOURS)
        if picker.random() < 0.35:  # as it is
            nearest = min(words.COLOURS, key=lambda name: abs(turn(HUES[name] - hue)))
            return (nearest, 0.0) if abs(turn(HUES[nearest] - hue)) < 0.3 else ("", 0.0)
        return colour, turn(HUES[colour] - hue)

    def __call__(self, picker: random.Random) -> Scene:
        kind = 0.0 if self.held_out else picker.random()
        if kind < SHARE_PLAIN:
            return self._plain(picker)
        if kind < 0.6:
            return self._on_colour(picker)
        if kind < 0.8:
            return self._in_place(picker)
        if kind < 0.9:
            return self._together(picker)
        if kind < 0.96:
            return self._many(picker)
        return self._empty(picker)

    def _style(self, picker: random.Random, chance: float = 0.3) -> str | None:
        return picker.choice(STYLES) if picker.random() < chance else None

    def _finish(self, phrase: str, style: str | None, picker: random.Random, fluff: float = 0.12) -> str:
        if picker.random() < fluff:
            phrase = picker.choice(words.FLUFF).format(phrase)
        if style is not None:
            phrase = words.styled(phrase, style, picker)
        if picker.random() < 0.03:
            phrase = words.misspelt(phrase, picker)
        return phrase

    def _plain(self, picker: random.Random) -> Scene:
        label = self._label(picker)
        sprite = self._sprite(label, None, picker)
        one = self.art[sprite]
        colour, hue = self._coloured(sprite, picker, 0.12)
        if self.held_out:
            placed = Placed(sprite, size=0.92)
            return Scene(f"{self.names[label][0]}, {one.style}", Ground(), [placed])
        placed = Placed(
            sprite,
            x=0.5 + picker.uniform(-0.03, 0.03),
            y=0.5 + picker.uniform(-0.03, 0.03),
            size=picker.uniform(0.8, 0.96),
            mirrored=one.group in MIRRORED_GROUPS and picker.random() < 0.25,
            hue=hue,
        )
        style = one.style if picker.random() < 0.35 else None
        roll = picker.random()
        if roll < 0.06 and not colour:
            text = one.emoji if picker.random() < 0.5 else one.emoji.replace("\ufe0f", "")
            return Scene(text if style is None else f"{text}, {style}", Ground(), [placed])
        name = self._name(label, picker)
        tags = [tag.lower() for tag in one.tags if len(tag) > 2]
        if roll < 0.12:
            name = ", ".join([name, *picker.sample(tags, min(len(tags), 2))])
        elif roll < 0.16 and tags:
            name = picker.choice(tags)
        elif roll < 0.22:
            name = f"{picker.choice(words.PRAISE)} {name}"
        if colour:
            name = f"{colour} {name}"
        form = picker.random()
        phrase = name if form < 0.5 or "," in name else words.article(name) if form < 0.9 else f"the {name}"
        if picker.random() < 0.05:
            phrase += picker.choice([" on a white background", " on white", ", white background", ", isolated"])
        return Scene(self._finish(phrase, style, picker), Ground(), [placed])

    def _on_colour(self, picker: random.Random) -> Scene:
        label = self._label(picker)
        style = self._style(picker)
        sprite = self._sprite(label, style, picker)
        tint, hue = self._coloured(sprite, picker, 0.1)
        size = picker.uniform(0.5, 0.9)
        placed = Placed(
            sprite,
            x=picker.uniform(size / 2, 1 - size / 2),
            y=picker.uniform(size / 2, 1 - size / 2),
            size=size,
            tilt=picker.gauss(0, 0.12) if picker.random() < 0.3 else 0.0,
            mirrored=self.art[sprite].group in MIRRORED_GROUPS and picker.random() < 0.4,
            hue=hue,
        )
        colour = picker.choice(list(NAMED))
        shade = near(NAMED[colour], picker)
        other = near(mix(shade, picker.choice([(1, 1, 1), (0, 0, 0), shade]), picker.uniform(0, 0.6)), picker, 0.05)
        ground = Ground(shade, other, picker.uniform(0, 6.3), float(picker.random() < 0.25))
        name = words.article(f"{tint} {self._name(label, picker)}".strip())
        said = picker.random()
        if said < 0.6:
            article = words.article(f"{colour} background")
            name += picker.choice(
                [f" on {article}", f" on {article}", f" in front of {article}", f", {colour} background"]
            )
        elif said < 0.75:
            name += picker.choice([" on a coloured background", " on a gradient", ", colourful background"])
        return Scene(self._finish(name, style, picker), ground, [placed])

    def _weather(self, place: Place, picker: random.Random) -> str:
        if not place.weathers:
            return "day"
        return picker.choices(WEATHERS, weights=(50, 18, 12, 8, 7, 5))[0]

    def _land_line(self, ground: Ground, x: float) -> float:
        height, amplitude, waves, phase = ground.land
        return height + amplitude * math.sin(waves * 2 * math.pi * x + phase) if height < 1 else 0.7

    def _stand(self, ground: Ground, sprite: int, size: float, x: float, picker: random.Random) -> Placed:
        line = self._land_line(ground, x)
        feet = picker.uniform(line + 0.06, min(0.98, line + 0.3))
        return Placed(sprite, x=x, y=feet - size / 2, size=size, shadow=0.35)

    def _in_place(self, picker: random.Random) -> Scene:
        name = picker.choice(list(PLACES))
        place = PLACES[name]
        ways = [way for way in ("stands", "floats", "flies") if getattr(place, way)]
        way = picker.choices(ways, weights=[{"stands": 3, "floats": 2, "flies": 1}[w] for w in ways])[0]
        among = {"stands": self.standing, "floats": self.swimming, "flies": self.flying}[way]
        if name == "underwater":
            among = self.swimming
        label = self._label(picker, among)
        style = self._style(picker, 0.25)
        sprite = self._sprite(label, style, picker)
        tint, hue = self._coloured(sprite, picker, 0.12)
        ground = place.draw(picker)
        big = self.first[label].subgroup in ("place-building", "place-religious", "place-other", "transport-water")
        size = picker.uniform(0.45, 0.8) if big else picker.uniform(0.32, 0.68)
        adjective = ""
        if picker.random() < 0.12:
            small = picker.random() < 0.5
            size = picker.uniform(0.18, 0.3) if small else picker.uniform(0.7, 0.85)
            adjective = picker.choice(words.SMALL if small else words.LARGE)
        x = picker.uniform(0.1 + size / 3, 0.9 - size / 3)
        if way == "stands":
            placed = self._stand(ground, sprite, size, x, picker)
        elif way == "floats":
            line = self._land_line(ground, x)
            placed = Placed(sprite, x=x, y=picker.uniform(line + 0.02, line + 0.2) - size * 0.3, size=size)
        else:
            low = 0.9 if name in ("space", "underwater", "sky") else max(0.35, self._land_line(ground, x))
            placed = Placed(sprite, x=x, y=picker.uniform(size / 2, max(size / 2, low - size / 2)), size=size)
        placed.mirrored = self.art[sprite].group in MIRRORED_GROUPS and picker.random() < 0.4
        placed.hue = hue
        weather = self._weather(place, picker)
        thing = " ".join(part for part in (adjective, tint, self._name(label, picker)) if part)
        phrase = words.article(thing) if picker.random() < 0.8 else thing
        said = picker.random()
        when = picker.choice(WEATHER_WORDS[weather])
        if said < 0.85:
            phrase += f" {words.one_of(getattr(place, way), picker, 0.3)}"
        if said < 0.7 or said > 0.95:
            phrase += f" {when}" if when else ""
        return Scene(self._finish(phrase, style, picker, 0.06), ground, [placed], WEATHERS.index(weather))

    def _background(self, picker: random.Random) -> tuple[Ground, str, str]:
        """Where several things are together: mostly white, sometimes a place; and its words."""
        roll = picker.random()
        if roll < 0.5:
            return Ground(), "", "day"
        if roll < 0.65:
            colour = picker.choice(list(NAMED))
            said = f" on {words.article(colour + ' background')}" if picker.random() < 0.5 else ""
            return Ground(near(NAMED[colour], picker), near(NAMED[colour], picker)), said, "day"
        name = picker.choice(["hills", "meadow", "beach", "snowfield", "desert", "street", "room", "mountains"])
        place = PLACES[name]
        weather = self._weather(place, picker)
        said = f" {words.one_of(place.stands, picker, 0.3)}" if picker.random() < 0.7 else ""
        when = picker.choice(WEATHER_WORDS[weather])
        return place.draw(picker), f"{said} {when}".rstrip() if picker.random() < 0.7 else said, weather

    def _together(self, picker: random.Random) -> Scene:
        style = self._style(picker, 0.2)
        ground, where, weather = self._background(picker)
        roll = picker.random()
        base = self._land_line(ground, 0.5) + 0.2 if ground.land[0] < 1 else 0.85
        if roll < 0.3 and self.wearers and self.hats:
            label, hat = picker.choice(self.wearers), picker.choice(self.hats)
            wearer, worn = self._sprite(label, style, picker), self._sprite(hat, style, picker)
            size = picker.uniform(0.5, 0.66)
            y = min(base, 0.95) - size / 2 if ground.land[0] < 1 else picker.uniform(0.58, 0.64)
            placed = [
                Placed(wearer, x=0.5, y=y, size=size, shadow=0.3 if ground.land[0] < 1 else 0.0),
                Placed(worn, x=0.5 + picker.uniform(-0.02, 0.02), y=y - size * 0.55, size=size * 0.66),
            ]
            hat_name = "hat" if picker.random() < 0.4 and hat != "crown" else words.one_of(self.names[hat], picker)
            name = words.one_of(self.names[label], picker)
            if picker.random() < 0.2:
                name = f"{picker.choice(words.PRAISE)} {name}"
            phrase = (
                f"{words.article(name)} {picker.choice(['wearing', 'wearing', 'with', 'in'])} {words.article(hat_name)}"
            )
            return Scene(self._finish(phrase + where, style, picker, 0.06), ground, placed, WEATHERS.index(weather))
        among = self.standing if ground.land[0] < 1 else None
        first, second = self._label(picker, among), self._label(picker, among)
        if first == second:
            return self._together(picker)
        a, b = self._sprite(first, style, picker), self._sprite(second, style, picker)
        size_a, size_b = picker.uniform(0.42, 0.54), picker.uniform(0.42, 0.54)
        names = [words.article(words.one_of(self.names[label], picker)) for label in (first, second)]
        shadow = 0.35 if ground.land[0] < 1 else 0.0
        if roll < 0.42 and not shadow:  # above each other
            placed = [
                Placed(a, x=picker.uniform(0.42, 0.58), y=0.27, size=size_a),
                Placed(b, x=picker.uniform(0.42, 0.58), y=0.73, size=size_b),
            ]
            phrase = f"{names[0]} {picker.choice(['above', 'over', 'on top of', 'on'])} {names[1]}"
            if picker.random() < 0.5:
                phrase = f"{names[1]} {picker.choice(['under', 'below', 'beneath'])} {names[0]}"
        else:
            feet = min(base, 0.95)
            placed = [
                Placed(a, x=0.27 + picker.uniform(-0.03, 0.03), y=feet - size_a / 2, size=size_a, shadow=shadow),
                Placed(b, x=0.73 + picker.uniform(-0.03, 0.03), y=feet - size_b / 2, size=size_b, shadow=shadow),
            ]
            if not shadow:
                for one in placed:
                    one.y = 0.5 + picker.uniform(-0.06, 0.06)
            form = picker.choice(
                [
                    "{0} and {1}",
                    "{0} next to {1}",
                    "{0} and {1}",
                    "{0} beside {1}",
                    "{0} with {1}",
                    "{0} near {1}",
                    "{0} left of {1}",
                    "{1} right of {0}",
                    "{1} next to {0}",
                ]
            )
            phrase = form.format(*names)
        return Scene(self._finish(phrase + where, style, picker, 0.05), ground, placed, WEATHERS.index(weather))

    def _many(self, picker: random.Random) -> Scene:
        style = self._style(picker, 0.2)
        ground, where, weather = self._background(picker)
        label = self._label(picker, self.standing if ground.land[0] < 1 else None)
        sprite = self._sprite(label, style, picker)
        count = picker.choices([2, 3, 4, 5], weights=(45, 30, 12, 13))[0]
        tint, hue = self._coloured(sprite, picker, 0.2)
        size = {2: 0.5, 3: 0.4, 4: 0.38, 5: 0.34}[count] * picker.uniform(0.85, 1.0)
        spots = {
            2: [(0.27, 0.5), (0.73, 0.5)],
            3: [(0.2, 0.5), (0.5, 0.5), (0.8, 0.5)]
            if picker.random() < 0.5
            else [(0.5, 0.28), (0.27, 0.7), (0.73, 0.7)],
            4: [(0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)],
            5: [(0.22, 0.25), (0.78, 0.25), (0.5, 0.5), (0.22, 0.76), (0.78, 0.76)],
        }[count]
        if ground.land[0] < 1:
            line = self._land_line(ground, 0.5)
            spots = [(x, line + 0.08 + (y - 0.25) * 0.35 - size / 2 + 0.05) for x, y in spots]
        shadow = 0.3 if ground.land[0] < 1 else 0.0
        mirrored = self.art[sprite].group in MIRRORED_GROUPS
        placed = [
            Placed(
                sprite if picker.random() < 0.8 else self._sprite(label, style, picker),
                x=x + picker.uniform(-0.02, 0.02),
                y=y + picker.uniform(-0.02, 0.02),
                size=size,
                mirrored=mirrored and picker.random() < 0.3,
                hue=hue,
                shadow=shadow,
            )
            for x, y in spots
        ]
        if tint and hue:
            for one in placed:
                one.sprite = sprite
        name = words.plural(f"{tint} {words.one_of(self.names[label], picker)}".strip())
        said = words.NUMBERS[count] if count < 5 else picker.choice(["many", "many", "five", "lots of", "some"])
        if picker.random() < 0.15:
            said = picker.choice(["", "some", "several"]) if count > 2 else picker.choice(["a pair of", "2", "two"])
        if picker.random() < 0.1:
            said = str(count)
        phrase = f"{said} {name}".strip()
        return Scene(self._finish(phrase + where, style, picker, 0.06), ground, placed, WEATHERS.index(weather))

    def _empty(self, picker: random.Random) -> Scene:
        place = picker.choice([place for place in PLACES.values() if place.empty])
        weather = self._weather(place, picker)
        phrase = picker.choice(EMPTY_WEATHER[weather]).format(words.one_of(place.empty, picker))
        return Scene(self._finish(phrase, None, picker, 0.08), place.draw(picker), [], WEATHERS.index(weather))


def _describe(describer: Describer, seed: int, start: int, stop: int) -> Scenes:
    # A scene is a function of (seed, index), whatever process describes it.
    return Scenes.of([describer(random.Random(f"{seed}/{index}")) for index in range(start, stop)])


def describe(describer: Describer, count: int, seed: int, start: int = 0) -> Scenes:
    """Scenes number `start` to `start + count` of `seed`; on all cores where they are many."""
    workers = os.cpu_count() or 1
    if count < 4000 or workers == 1:
        return _describe(describer, seed, start, start + count)
    edges = torch.linspace(start, start + count, workers + 1).long().tolist()
    with process_pool() as pool:
        jobs = [pool.submit(_describe, describer, seed, a, b) for a, b in pairwise(edges)]
        parts = [job.result() for job in jobs]
    return Scenes(
        [caption for part in parts for caption in part.captions],
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("ground", "sprite", "place", "weather")),
    )
