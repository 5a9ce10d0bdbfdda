"""Scenes: sprites on grounds, with the captions that people would type, described as numbers and drawn a batch at once.

`describe` makes one scene and one caption of it out of a seed: what the caption leaves open (style, place, size,
ground, which of eight cats) the seed decides, so many pictures answer one caption. `Painter` draws descriptions on any
device. A scene can be drawn in another light or weather: day and night of one scene are truth to measure against.
"""

import math
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from train.recipes.corpus import words
from train.recipes.corpus.art import CORPUS, SIDE, STYLES, Sprite, process_pool, read_art, read_pixels

WEATHERS = ("day", "night", "sunset", "rain", "snow", "fog")
SLOTS = 5  # sprites a scene has at most
AT_ONCE = 1024  # scenes painted
SHARE_PLAIN = 0.5  # of scenes: one sprite on white, as emoji are
MIRRORED_GROUPS = ("animals-nature", "food-drink", "travel-places", "objects", "people-body")

# Every ground is these numbers (see Painter.ground): colours in 0..1, places in 0..1 from the top left.
Colour = tuple[float, float, float]


@dataclass
class Ground:
    """What is behind the sprites."""

    top: Colour = (1.0, 1.0, 1.0)  # of the sky, the wall, or the whole
    bottom: Colour = (1.0, 1.0, 1.0)
    angle: float = 0.0  # of that gradient, radians from straight down
    radial: float = 0.0  # 1: from the middle outwards instead
    ridge: tuple[float, float, float, float] = (2.0, 0.0, 0.0, 0.0)  # far line: height, amplitude, waves, phase
    jagged: float = 0.0  # 0: it rolls; 1: peaks; 2: roofs
    ridge_colour: Colour = (0.0, 0.0, 0.0)
    snowcaps: float = 0.0
    land: tuple[float, float, float, float] = (2.0, 0.0, 0.0, 0.0)  # near line, like the ridge
    far: Colour = (0.0, 0.0, 0.0)  # of the land at that line, and at the lower edge
    near: Colour = (0.0, 0.0, 0.0)
    band: tuple[float, float] = (2.0, 0.0)  # a shore: height, slope
    band_colour: Colour = (0.0, 0.0, 0.0)
    road: tuple[float, float, float] = (0.0, 0.0, 0.5)  # half widths at the land's line and at the lower edge, middle
    road_colour: Colour = (0.4, 0.4, 0.42)
    waves: float = 0.0
    disc: tuple[float, float, float] = (0.0, 0.0, 0.0)  # sun or moon: x, y, radius
    stars: float = 0.0
    clouds: tuple[float, ...] = (0.0,) * 9  # three of x, y, width; no width, no cloud
    outdoors: float = 0.0  # light and weather change it
    texture: float = 0.0  # which of the painter's textures its stars, rain and snow come from

    def numbers(self) -> list[float]:
        found: list[float] = []
        for value in vars(self).values():
            found += value if isinstance(value, tuple) else [value]
        return found


GROUND_PLACES = {}  # field of Ground: where its numbers are
_at = 0
for _name, _value in vars(Ground()).items():
    _length = len(_value) if isinstance(_value, tuple) else 1
    GROUND_PLACES[_name] = slice(_at, _at + _length)
    _at += _length
GROUND_NUMBERS = _at


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


# ---------------------------------------------------------------------------------------------------- what is drawn


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(x + (y - x) * share for x, y in zip(a, b, strict=True))


def _near(colour: Colour, picker: random.Random, reach: float = 0.08) -> Colour:
    return tuple(min(1.0, max(0.0, part + picker.uniform(-reach, reach))) for part in colour)


GREENS: list[Colour] = [(0.42, 0.68, 0.27), (0.33, 0.6, 0.3), (0.55, 0.75, 0.35), (0.45, 0.62, 0.2)]
BLUES: list[Colour] = [(0.25, 0.52, 0.86), (0.36, 0.66, 0.93), (0.45, 0.75, 0.95), (0.2, 0.45, 0.75)]
PALE: list[Colour] = [(0.75, 0.88, 0.98), (0.85, 0.93, 0.98), (0.68, 0.85, 0.96)]
SAND: list[Colour] = [(0.93, 0.82, 0.58), (0.9, 0.76, 0.5), (0.95, 0.87, 0.68)]
NAMED: dict[str, Colour] = {
    "red": (0.86, 0.2, 0.2),
    "orange": (0.96, 0.6, 0.2),
    "yellow": (0.98, 0.85, 0.3),
    "green": (0.35, 0.7, 0.35),
    "blue": (0.3, 0.52, 0.88),
    "light blue": (0.66, 0.85, 0.97),
    "purple": (0.56, 0.35, 0.75),
    "pink": (0.97, 0.66, 0.78),
    "grey": (0.6, 0.6, 0.6),
    "gray": (0.6, 0.6, 0.6),
    "black": (0.06, 0.06, 0.07),
    "brown": (0.5, 0.34, 0.22),
    "beige": (0.93, 0.88, 0.78),
    "dark": (0.14, 0.15, 0.2),
}


def _outdoors(picker: random.Random, **numbers) -> Ground:
    """A day's sky, perhaps with clouds and a sun; its land comes by `numbers`."""
    clouds: tuple[float, ...] = ()
    for _ in range(3):
        there = picker.random() < 0.4
        clouds += (picker.random(), picker.uniform(0.05, 0.35), picker.uniform(0.1, 0.22) if there else 0.0)
    sun = (picker.uniform(0.1, 0.9), picker.uniform(0.08, 0.25), picker.uniform(0.05, 0.09))
    sky = dict(
        top=_near(picker.choice(BLUES), picker),
        bottom=_near(picker.choice(PALE), picker, 0.05),
        clouds=clouds,
        disc=sun,
        stars=0.0,
        outdoors=1.0,
        texture=float(picker.randrange(64)),
    )
    return Ground(**sky | numbers)


def _hills(p: random.Random) -> Ground:
    green = _near(p.choice(GREENS), p)
    return _outdoors(
        p,
        ridge=(p.uniform(0.5, 0.62), p.uniform(0.03, 0.1), p.uniform(0.5, 1.5), p.uniform(0, 6.3)),
        ridge_colour=_mix(green, (0.6, 0.75, 0.7), 0.45),
        land=(p.uniform(0.62, 0.72), p.uniform(0.04, 0.12), p.uniform(0.4, 1.0), p.uniform(0, 6.3)),
        far=green,
        near=_mix(green, (0.1, 0.3, 0.05), 0.3),
    )


def _meadow(p: random.Random) -> Ground:
    green = _near(p.choice(GREENS), p)
    return _outdoors(
        p, land=(p.uniform(0.55, 0.7), 0.005, 1.0, 0.0), far=green, near=_mix(green, (0.15, 0.35, 0.05), 0.3)
    )


def _sea(p: random.Random) -> Ground:
    blue = _near((0.12, 0.45, 0.7), p)
    return _outdoors(
        p,
        land=(p.uniform(0.5, 0.65), 0.0, 1.0, 0.0),
        far=_mix(blue, (0.5, 0.8, 0.9), 0.35),
        near=blue,
        waves=p.uniform(0.3, 1.0),
    )


def _beach(p: random.Random) -> Ground:
    blue = _near((0.15, 0.55, 0.75), p)
    return replace(
        _sea(p),
        far=blue,
        near=_mix(blue, (0.5, 0.85, 0.85), 0.5),
        land=(p.uniform(0.42, 0.52), 0.0, 1.0, 0.0),
        band=(p.uniform(0.62, 0.75), p.uniform(-0.15, 0.15)),
        band_colour=_near(p.choice(SAND), p, 0.04),
    )


def _snowfield(p: random.Random) -> Ground:
    return replace(_hills(p), ridge_colour=(0.82, 0.88, 0.95), far=(0.96, 0.98, 1.0), near=(0.85, 0.9, 0.97))


def _desert(p: random.Random) -> Ground:
    sand = _near((0.9, 0.7, 0.42), p, 0.05)
    return replace(
        _hills(p), ridge_colour=_mix(sand, (0.8, 0.5, 0.3), 0.4), far=sand, near=_mix(sand, (0.7, 0.45, 0.2), 0.3)
    )


def _mountains(p: random.Random) -> Ground:
    return replace(
        _meadow(p),
        ridge=(p.uniform(0.4, 0.5), p.uniform(0.12, 0.25), p.uniform(1.0, 2.2), p.uniform(0, 6.3)),
        jagged=1.0,
        ridge_colour=_near((0.45, 0.5, 0.62), p),
        snowcaps=float(p.random() < 0.6),
    )


def _street(p: random.Random) -> Ground:
    return replace(
        _meadow(p),
        ridge=(p.uniform(0.35, 0.45), p.uniform(0.08, 0.2), p.uniform(2.0, 4.0), p.uniform(0, 6.3)),
        jagged=2.0,
        ridge_colour=_near(p.choice([(0.6, 0.62, 0.7), (0.72, 0.6, 0.52), (0.5, 0.55, 0.65)]), p),
        far=_near((0.62, 0.62, 0.6), p, 0.05),
        near=_near((0.55, 0.56, 0.55), p, 0.05),
        road=(p.uniform(0.08, 0.2), p.uniform(0.45, 0.8), p.uniform(0.4, 0.6)),
        road_colour=_near((0.35, 0.36, 0.4), p, 0.05),
    )


def _road(p: random.Random) -> Ground:
    return replace(
        _hills(p), road=(p.uniform(0.03, 0.1), p.uniform(0.3, 0.6), p.uniform(0.35, 0.65)), road_colour=(0.42, 0.42, 0.45)
    )


def _room(p: random.Random) -> Ground:
    wall = _near(p.choice([NAMED["beige"], NAMED["light blue"], (0.85, 0.9, 0.8), (0.95, 0.85, 0.8), (0.8, 0.78, 0.9)]), p)
    floor = _near(p.choice([(0.6, 0.42, 0.26), (0.72, 0.55, 0.36), (0.55, 0.5, 0.46)]), p)
    return Ground(
        top=wall,
        bottom=_mix(wall, (1, 1, 1), 0.2),
        land=(p.uniform(0.66, 0.78), 0.0, 1.0, 0.0),
        far=floor,
        near=_mix(floor, (1, 1, 1), 0.15),
    )


def _space(p: random.Random) -> Ground:
    deep = _near((0.04, 0.04, 0.12), p, 0.04)
    return Ground(top=deep, bottom=_near((0.12, 0.08, 0.25), p), stars=1.0, texture=float(p.randrange(64)))


def _underwater(p: random.Random) -> Ground:
    sand = _near((0.75, 0.72, 0.5), p)
    there = p.random() < 0.6
    return Ground(
        top=_near((0.25, 0.65, 0.85), p),
        bottom=_near((0.03, 0.22, 0.5), p),
        land=(p.uniform(0.8, 0.9) if there else 2.0, 0.03, 1.0, p.uniform(0, 6.3)),
        far=_mix(sand, (0.1, 0.4, 0.6), 0.4),
        near=_mix(sand, (0.1, 0.4, 0.6), 0.3),
    )


def _sky(p: random.Random) -> Ground:
    return _outdoors(p)


@dataclass(frozen=True)
class Place:
    """A kind of ground, how it is spoken of, and what may be in it."""

    draw: object
    stands: tuple[str, ...] = ()  # said of what stands on its land
    floats: tuple[str, ...] = ()  # of what is in its water
    flies: tuple[str, ...] = ()  # of what is in its sky
    empty: tuple[str, ...] = ()  # of it alone
    weathers: bool = True


PLACES = {
    "hills": Place(
        _hills,
        ("on a hill", "on a green hill", "on the hill", "in the hills", "in the countryside", "on a hilltop"),
        flies=("over the hills", "above the hills"),
        empty=("green hills", "hills", "a hill", "a landscape with hills", "countryside"),
    ),
    "meadow": Place(
        _meadow,
        ("on the grass", "in a meadow", "in a field", "in the park", "on grass", "in the garden", "outside", "in nature"),
        flies=("over a field", "over the grass"),
        empty=("a meadow", "a green field", "grass and sky", "a field"),
    ),
    "sea": Place(
        _sea,
        floats=("on the sea", "in the sea", "on the ocean", "on the water", "in the water", "at sea", "on a lake"),
        flies=("over the sea", "above the sea", "over the ocean", "over the water"),
        empty=("the sea", "the ocean", "sea", "ocean", "a lake", "water and sky"),
    ),
    "beach": Place(
        _beach,
        ("on the beach", "on a beach", "at the beach", "on the sand", "by the sea", "at the seaside"),
        flies=("over the beach",),
        empty=("a beach", "a sandy beach", "beach", "the seaside", "a tropical beach"),
    ),
    "snowfield": Place(
        _snowfield,
        ("in the snow", "on the snow", "in a snowy landscape", "in winter"),
        flies=("over the snow",),
        empty=("a snowy landscape", "snow", "a winter landscape", "snowy hills"),
    ),
    "desert": Place(
        _desert,
        ("in the desert", "in a desert", "on a dune"),
        flies=("over the desert",),
        empty=("a desert", "the desert", "sand dunes"),
    ),
    "mountains": Place(
        _mountains,
        ("in the mountains", "in front of mountains", "near the mountains", "with mountains in the background"),
        flies=("over the mountains", "above the mountains"),
        empty=("mountains", "a mountain landscape", "snowy mountains", "the mountains", "the alps"),
    ),
    "street": Place(
        _street,
        ("on the street", "in the street", "in the city", "in a city", "in town", "on a street"),
        flies=("over the city", "above the city"),
        empty=("a city street", "a street", "a city", "a town"),
    ),
    "road": Place(
        _road,
        ("on the road", "on a road", "on a country road"),
        flies=("over a road",),
        empty=("a road through the hills", "a country road", "a road"),
    ),
    "room": Place(_room, ("in a room", "indoors", "in the house", "on the floor", "at home"), empty=("an empty room", "a room"), weathers=False),
    "space": Place(
        _space,
        flies=("in space", "in outer space", "among the stars", "in the night sky"),
        empty=("outer space", "stars", "space", "a sky full of stars"),
        weathers=False,
    ),
    "underwater": Place(
        _underwater,
        flies=("under water", "underwater", "under the sea", "in the deep sea", "in an aquarium"),
        empty=("under the sea", "underwater", "the deep sea"),
        weathers=False,
    ),
    "sky": Place(_sky, flies=("in the sky", "in the clouds", "in the air", "in a blue sky"), empty=("a blue sky", "the sky", "clouds in the sky", "sky with clouds")),
}
WEATHER_WORDS = {
    "day": ("", "", "", "on a sunny day", "during the day", "by day"),
    "night": ("at night", "at night", "by night", "in the dark", "under the stars", "under the moon", "in the moonlight"),
    "sunset": ("at sunset", "at sunset", "at dusk", "at sunrise", "in the evening"),
    "rain": ("in the rain", "in the rain", "on a rainy day", "while it rains"),
    "snow": ("in the snow", "while it snows", "in snowfall", "on a snowy day"),
    "fog": ("in the fog", "in fog", "on a foggy day", "in the mist"),
}
EMPTY_WEATHER = {
    "night": ("{} at night", "night over {}", "{} under the stars", "{} by night"),
    "sunset": ("sunset over {}", "{} at sunset", "sunrise over {}", "a sunset over {}"),
    "rain": ("{} in the rain", "rain over {}"),
    "snow": ("{} in snowfall", "snow over {}"),
    "fog": ("{} in the fog", "fog over {}"),
    "day": ("{}", "{}", "{} on a sunny day"),
}
HATS = ("top hat", "crown", "billed cap", "graduation cap", "woman’s hat", "rescue worker’s helmet")
FLYING = ("transport-air", "sky-weather", "heart", "emotion", "time")
SWIMMING = ("animal-marine", "transport-water")
STANDING = {
    *("animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-bug", "plant-flower", "plant-other"),
    *("place-building", "place-religious", "place-other", "transport-ground", "hotel", "person", "person-role"),
    *("person-fantasy", "person-activity", "person-sport", "person-resting", "family", "event", "sport", "household"),
    *("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet", "drink", "dishware", "game", "tool"),
    *("musical-instrument", "book-paper", "clothing", "light-video", "phone", "computer", "other-object", "award-medal"),
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
        self.flying = [label for label in self.labels if first[label].subgroup in FLYING or label in ("bird", "butterfly", "honeybee", "eagle", "owl", "balloon", "dove", "parrot")]
        self.swimming = [label for label in self.labels if first[label].subgroup in SWIMMING or label in ("duck", "swan")]
        self.wearers = [label for label in self.labels if first[label].subgroup in ("cat-face", "monkey-face", "animal-mammal", "face-smiling", "face-costume") and (label.endswith("face") or label in ("bear", "panda", "fox", "wolf", "lion", "koala", "polar bear", "hamster", "raccoon", "robot", "alien", "ghost", "frog"))]
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
        if math.isnan(hue) or picker.random() > chance or one.group in ("flags", "symbols") and one.subgroup != "geometric":
            return "", 0.0
        colour = picker.choice(words.COLOURS)
        if picker.random() < 0.35:  # as it is
            nearest = min(words.COLOURS, key=lambda name: abs(_turn(HUES[name] - hue)))
            return (nearest, 0.0) if abs(_turn(HUES[nearest] - hue)) < 0.3 else ("", 0.0)
        return colour, _turn(HUES[colour] - hue)

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
        shade = _near(NAMED[colour], picker)
        other = _near(_mix(shade, picker.choice([(1, 1, 1), (0, 0, 0), shade]), picker.uniform(0, 0.6)), picker, 0.05)
        ground = Ground(shade, other, picker.uniform(0, 6.3), float(picker.random() < 0.25))
        name = words.article(f"{tint} {self._name(label, picker)}".strip())
        said = picker.random()
        if said < 0.6:
            article = words.article(f"{colour} background")
            name += picker.choice([f" on {article}", f" on {article}", f" in front of {article}", f", {colour} background"])
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
            return Ground(_near(NAMED[colour], picker), _near(NAMED[colour], picker)), said, "day"
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
            phrase = f"{words.article(name)} {picker.choice(['wearing', 'wearing', 'with', 'in'])} {words.article(hat_name)}"
            return Scene(self._finish(phrase + where, style, picker, 0.06), ground, placed, WEATHERS.index(weather))
        among = self.standing if ground.land[0] < 1 else None
        first, second = self._label(picker, among), self._label(picker, among)
        if first == second:
            return self._together(picker)
        a, b = self._sprite(first, style, picker), self._sprite(second, style, picker)
        size_a, size_b = picker.uniform(0.36, 0.5), picker.uniform(0.36, 0.5)
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
            form = picker.choice(["{0} and {1}", "{0} next to {1}", "{0} and {1}", "{0} beside {1}", "{0} with {1}", "{0} near {1}", "{0} left of {1}", "{1} right of {0}", "{1} next to {0}"])
            phrase = form.format(*names)
        return Scene(self._finish(phrase + where, style, picker, 0.05), ground, placed, WEATHERS.index(weather))

    def _many(self, picker: random.Random) -> Scene:
        style = self._style(picker, 0.2)
        ground, where, weather = self._background(picker)
        label = self._label(picker, self.standing if ground.land[0] < 1 else None)
        sprite = self._sprite(label, style, picker)
        count = picker.choices([2, 3, 4, 5], weights=(45, 30, 12, 13))[0]
        tint, hue = self._coloured(sprite, picker, 0.2)
        size = {2: 0.46, 3: 0.36, 4: 0.34, 5: 0.3}[count] * picker.uniform(0.85, 1.0)
        spots = {
            2: [(0.27, 0.5), (0.73, 0.5)],
            3: [(0.2, 0.5), (0.5, 0.5), (0.8, 0.5)] if picker.random() < 0.5 else [(0.5, 0.28), (0.27, 0.7), (0.73, 0.7)],
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


# In the plane of two colour differences (see `_to_chroma`), radians.
def _to_chroma(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 3, H, W) -> brightness and the two axes of an opponent plane, each (..., H, W)."""
    red, green, blue = rgb.unbind(-3)
    return (red + green + blue) / 3, (2 * red - green - blue) / 6**0.5, (green - blue) / 2**0.5


def _hue_of(colour: Colour) -> float:
    red, green, blue = colour
    return math.atan2((green - blue) / 2**0.5, (2 * red - green - blue) / 6**0.5)


def _turn(angle: float) -> float:
    """The same angle in (-pi, pi]."""
    return math.atan2(math.sin(angle), math.cos(angle))


HUES = {
    "red": _hue_of((0.9, 0.15, 0.15)),
    "orange": _hue_of((0.97, 0.55, 0.1)),
    "yellow": _hue_of((0.98, 0.83, 0.15)),
    "green": _hue_of((0.25, 0.7, 0.25)),
    "blue": _hue_of((0.2, 0.45, 0.9)),
    "purple": _hue_of((0.55, 0.25, 0.8)),
    "pink": _hue_of((0.97, 0.4, 0.65)),
}


def dominant_hues(pixels: Tensor) -> list[float]:
    """The hue of each (N, 4, H, W) uint8 sprite in radians; NaN where no one colour prevails."""
    found: list[float] = []
    for part in pixels.split(512):
        part = part.float() / 255
        _, u, v = _to_chroma(part[:, :3])
        alpha, strength = part[:, 3], (u**2 + v**2).sqrt()
        weight = alpha * (strength - 0.08).clamp_min(0)
        angle = torch.atan2(v, u)
        mean_u, mean_v = (weight * angle.cos()).sum((1, 2)), (weight * angle.sin()).sum((1, 2))
        total = weight.sum((1, 2)).clamp_min(1e-6)
        coherent = (mean_u**2 + mean_v**2).sqrt() / total > 0.9
        colourful = total / alpha.sum((1, 2)).clamp_min(1e-6) > 0.12
        hue = torch.atan2(mean_v, mean_u)
        found += torch.where(coherent & colourful, hue, torch.nan).tolist()
    return found


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
        jobs = [pool.submit(_describe, describer, seed, a, b) for a, b in zip(edges, edges[1:], strict=False)]
        parts = [job.result() for job in jobs]
    return Scenes(
        [caption for part in parts for caption in part.captions],
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("ground", "sprite", "place", "weather")),
    )


# ---------------------------------------------------------------------------------------------------- how it is drawn

LIGHT = {  # what the land and all that stands on it are multiplied by
    "day": (1.0, 1.0, 1.0),
    "night": (0.46, 0.52, 0.74),
    "sunset": (1.0, 0.78, 0.66),
    "rain": (0.72, 0.76, 0.8),
    "snow": (0.93, 0.95, 1.0),
    "fog": (0.95, 0.96, 0.97),
}
SKIES = {  # (top, bottom); the day's are the scene's own
    "night": ((0.03, 0.05, 0.16), (0.12, 0.16, 0.36)),
    "sunset": ((0.4, 0.28, 0.55), (1.0, 0.62, 0.32)),
    "rain": ((0.42, 0.47, 0.53), (0.66, 0.7, 0.74)),
    "snow": ((0.68, 0.73, 0.8), (0.86, 0.89, 0.93)),
    "fog": ((0.8, 0.82, 0.84), (0.88, 0.89, 0.9)),
}
DISCS = {"day": (1.0, 0.9, 0.45), "night": (0.95, 0.95, 0.85), "sunset": (1.0, 0.5, 0.25)}


class Painter:
    """Draws scenes on the device of its sprites.

    Args:
        pixels: (N, 4, 128, 128) uint8, the art.
        device: where to draw.
        size: side of the pictures in pixels.
    """

    def __init__(self, pixels: Tensor, device: torch.device | str = "cpu", size: int = SIDE) -> None:
        self.size, self.device = size, torch.device(device)
        # Halved copies, so that small sprites are not sampled with gaps; colours weighed by opacity.
        self.levels = [pixels.to(self.device)]
        for _ in range(2):
            self.levels.append(torch.cat([_halved(part) for part in self.levels[-1].split(1024)]))
        steps = (torch.arange(size, device=self.device) + 0.5) / size
        self.x, self.y = steps.view(1, 1, size), steps.view(1, size, 1)
        generator = torch.Generator().manual_seed(0)
        speckle = torch.rand(64, 1, size, size, generator=generator)
        self.speckle = speckle[:, 0].to(self.device)
        streaks = torch.rand(64, 1, size + 16, size, generator=generator) > 0.985
        self.streaks = (F.max_pool2d(streaks.float(), (9, 1), 1, (4, 0))[:, 0, 8:-8]).to(self.device)
        flakes = (torch.rand(64, 1, size, size, generator=generator) > 0.99).float()
        self.flakes = F.avg_pool2d(F.max_pool2d(flakes, 3, 1, 1), 3, 1, 1)[:, 0].to(self.device)
        shade = torch.tensor([LIGHT[name] for name in WEATHERS], device=self.device)
        self.light = shade
        self.skies = torch.tensor([SKIES.get(name, ((0, 0, 0), (0, 0, 0))) for name in WEATHERS], device=self.device)
        self.discs = torch.tensor([DISCS.get(name, (0, 0, 0)) for name in WEATHERS], device=self.device)
        self.has_disc = torch.tensor([float(name in DISCS) for name in WEATHERS], device=self.device)

    def __call__(self, scenes: Scenes) -> Tensor:
        """(N, 3, size, size) in [-1, 1]."""
        parts = torch.arange(len(scenes)).split(AT_ONCE)
        return torch.cat([self._paint(scenes[part]) for part in parts])

    def _paint(self, scenes: Scenes) -> Tensor:
        ground, weather = scenes.ground.to(self.device), scenes.weather.to(self.device)
        weather = torch.where(ground[:, GROUND_PLACES["outdoors"]][:, 0] > 0, weather, 0)
        picture = self.ground(ground, weather)
        light = self.light[weather][:, :, None, None]
        sprite, place = scenes.sprite.to(self.device), scenes.place.to(self.device)
        for slot in range(SLOTS):
            there = (sprite[:, slot] >= 0).nonzero()[:, 0]
            if len(there):
                picture[there] = self._placed(picture[there], sprite[there, slot], place[there, slot], light[there])
        return self._weathered(picture, ground, weather).clamp(0, 1) * 2 - 1

    def _line(self, numbers: Tensor, jagged: Tensor | None = None) -> Tensor:
        """(N, 4) height, amplitude, waves, phase -> (N, 1, W), where the line is at each x."""
        height, amplitude, waves, phase = (numbers[:, i, None, None] for i in range(4))
        angle = waves * 2 * math.pi * self.x + phase
        rolling = angle.sin()
        if jagged is None:
            return height + amplitude * rolling
        peaks = 2 / math.pi * angle.sin().asin() + 0.25 * (2 / math.pi) * (angle * 2.7).sin().asin()
        cell = (angle * 1.6).floor()
        roofs = (cell * 12.9898).sin() * 43758.5453
        roofs = 2 * (roofs - roofs.floor()) - 1
        kind = jagged[:, None]
        return height + amplitude * torch.where(kind > 1.5, roofs, torch.where(kind > 0.5, peaks, rolling))

    def ground(self, numbers: Tensor, weather: Tensor) -> Tensor:
        """(N, G) and (N,) -> (N, 3, size, size) in [0, 1]."""

        def get(name: str) -> Tensor:
            return numbers[:, GROUND_PLACES[name]]

        def colour(name: str) -> Tensor:
            return get(name)[:, :, None, None]

        def over(picture: Tensor, tone: Tensor, share: Tensor) -> Tensor:
            return picture + (tone - picture) * share[:, None]

        def below(line: Tensor) -> Tensor:
            return ((self.y - line) * self.size + 0.5).clamp(0, 1)

        outdoors, soft = get("outdoors")[:, :, None, None], self.size / 128
        changed = ((weather > 0).float()[:, None, None, None]) * outdoors
        top = colour("top") + (self.skies[weather, 0][:, :, None, None] - colour("top")) * changed
        bottom = colour("bottom") + (self.skies[weather, 1][:, :, None, None] - colour("bottom")) * changed
        angle, radial = get("angle")[:, :, None], get("radial")[:, :, None]
        along = (self.x - 0.5) * angle.sin() + (self.y - 0.5) * angle.cos()
        along = along / (angle.sin().abs() + angle.cos().abs()) + 0.5
        away = ((self.x - 0.5) ** 2 + (self.y - 0.5) ** 2).sqrt() * 1.414
        share = torch.where(radial > 0, away, along).clamp(0, 1)[:, None]
        picture = top + (bottom - top) * share
        light = self.light[weather][:, :, None, None]
        light = 1 + (light - 1) * outdoors

        texture = get("texture")[:, 0].long()
        night = ((weather == WEATHERS.index("night")).float() * outdoors[:, 0, 0, 0])[:, None, None]
        stars = (get("stars")[:, :, None] + night).clamp(max=1)
        speckle = self.speckle[texture]
        picture = over(picture, torch.ones_like(top), (((speckle - 0.988) / 0.012).clamp(0, 1) * stars))

        disc, shown = get("disc"), (self.has_disc[weather])[:, None, None]
        distance = ((self.x - disc[:, 0, None, None]) ** 2 + (self.y - disc[:, 1, None, None]) ** 2).sqrt()
        radius = disc[:, 2, None, None]
        tone = self.discs[weather][:, :, None, None]
        glow = (1 - distance / (radius * 3.5 + 1e-6)).clamp(0, 1) ** 2 * 0.45 * (radius > 0)
        picture = over(picture, tone, glow * shown)
        picture = over(picture, tone, ((radius - distance) * self.size).clamp(0, 1) * shown)

        white = torch.ones_like(top) * (0.35 + 0.65 * light)
        for cloud in get("clouds").view(-1, 3, 3).unbind(1):
            x, y, width = (cloud[:, i, None, None] for i in range(3))
            shape = torch.zeros_like(distance)
            for dx, dy, r in ((0, 0, 0.42), (-0.5, 0.12, 0.3), (0.5, 0.1, 0.34)):
                far = (((self.x - x - dx * width) ** 2 + ((self.y - y - dy * width) * 1.25) ** 2).sqrt()) / (width + 1e-6)
                shape = torch.maximum(shape, ((r - far) * self.size * width).clamp(0, 1) * (width > 0))
            picture = over(picture, white, shape * 0.9)

        line = self._line(get("ridge"), get("jagged"))
        picture = over(picture, colour("ridge_colour") * light, below(line))
        caps = below(line) * (1 - below(line + 0.07 + 0.02 * (self.x * 40).sin())) * get("snowcaps")[:, :, None]
        picture = over(picture, torch.ones_like(top) * light, caps)

        line = self._line(get("land"))
        depth = ((self.y - line) / (1.02 - line).clamp_min(0.05)).clamp(0, 1)[:, None]
        tone = (colour("far") + (colour("near") - colour("far")) * depth) * light
        crest = ((self.y * 40 / (0.3 + self.y) + (self.x * 9 + texture[:, None, None] + self.y * 5).sin() * 0.25) * 2 * math.pi).sin()
        tone = tone + ((crest - 0.55).clamp_min(0) * 0.35 * get("waves")[:, :, None])[:, None] * light
        picture = over(picture, tone, below(line))
        band = get("band")
        shore = band[:, 0, None, None] + band[:, 1, None, None] * (self.x - 0.5) + 0.008 * (self.x * 25).sin()
        foam = below(shore - 0.015)
        picture = over(picture, torch.ones_like(top) * light, foam * 0.6)
        picture = over(picture, colour("band_colour") * light, below(shore))
        road = get("road")
        nearness = ((self.y - line) / (1 - line).clamp_min(0.05)).clamp(0, 1)
        half = road[:, 0, None, None] + (road[:, 1, None, None] - road[:, 0, None, None]) * nearness
        inside = ((half - (self.x - road[:, 2, None, None]).abs()) * self.size).clamp(0, 1) * below(line)
        inside = inside * (road[:, 1, None, None] > 0)
        picture = over(picture, colour("road_colour") * light, inside)
        dash = ((half * 0.06 - (self.x - road[:, 2, None, None]).abs()) * self.size).clamp(0, 1)
        dash = dash * ((nearness.sqrt() * 18).sin() > 0) * (inside > 0)
        return over(picture, torch.ones_like(top) * light * 0.95, dash * min(1.0, soft))

    def _placed(self, picture: Tensor, sprite: Tensor, place: Tensor, light: Tensor) -> Tensor:
        x, y, size, tilt, mirrored, hue, shadow = place.unbind(1)
        if (shadow > 0).any():
            feet_y, width = (y + size * 0.47)[:, None, None], (size * 0.4)[:, None, None]
            far = (((self.x - x[:, None, None]) / width) ** 2 + ((self.y - feet_y) / (width * 0.22)) ** 2).sqrt()
            picture = picture * (1 - ((1.1 - far) * 2.5).clamp(0, 1) * shadow[:, None, None])[:, None]
        colours = torch.empty(len(sprite), 4, self.size, self.size, device=self.device)
        target = size * self.size
        level = (SIDE / target).log2().floor().clamp(0, 2).long()
        cos, sin = tilt.cos() / size, tilt.sin() / size
        sign = 1 - 2 * mirrored
        cx, cy = 2 * x - 1, 2 * y - 1
        theta = torch.stack(
            [
                torch.stack([cos * sign, sin * sign, -(cos * cx + sin * cy) * sign], 1),
                torch.stack([-sin, cos, sin * cx - cos * cy], 1),
            ],
            1,
        )
        for number, pixels in enumerate(self.levels):
            those = (level == number).nonzero()[:, 0]
            if not len(those):
                continue
            source = pixels[sprite[those]].float() / 255
            source = torch.cat([source[:, :3] * source[:, 3:], source[:, 3:]], 1)
            places = F.affine_grid(theta[those], [len(those), 4, self.size, self.size], align_corners=False)
            colours[those] = F.grid_sample(source, places, align_corners=False)
        rgb, alpha = colours[:, :3], colours[:, 3:]
        turned = (hue != 0).nonzero()[:, 0]
        if len(turned):
            grey, u, v = _to_chroma(rgb[turned])
            cos, sin = hue[turned].cos()[:, None, None], hue[turned].sin()[:, None, None]
            u, v = u * cos - v * sin, u * sin + v * cos
            red = grey + u * (2 / 6**0.5)
            green, blue = grey - u / 6**0.5 + v / 2**0.5, grey - u / 6**0.5 - v / 2**0.5
            rgb[turned] = torch.stack([red, green, blue], 1).clamp(0, 1).minimum(alpha[turned])
        return picture * (1 - alpha) + rgb * light

    def _weathered(self, picture: Tensor, numbers: Tensor, weather: Tensor) -> Tensor:
        texture = numbers[:, GROUND_PLACES["texture"]][:, 0].long()

        def where(name: str) -> Tensor:
            return (weather == WEATHERS.index(name)).float()[:, None, None]

        rain = self.streaks[texture] * 0.45 * where("rain")
        picture = picture + (0.85 - picture) * rain[:, None]
        snow = (self.flakes[texture] * 2.2).clamp(max=1) * where("snow")
        picture = picture + (1 - picture) * snow[:, None]
        fog = (0.35 + 0.35 * (1 - (self.y - 0.5).abs() * 1.2)).clamp(0, 1) * where("fog")
        return picture + (0.86 - picture) * fog[:, None]


def _halved(pixels: Tensor) -> Tensor:
    """(N, 4, H, W) uint8 at half size, colours weighed by opacity."""
    whole = pixels.float()
    alpha = whole[:, 3:]
    small_alpha = F.avg_pool2d(alpha, 2)
    colour = F.avg_pool2d(whole[:, :3] * alpha, 2) / small_alpha.clamp_min(1e-3)
    return torch.cat([colour, small_alpha], 1).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Corpus:
    """The art and who draws and describes it."""

    art: list[Sprite]
    painter: Painter
    describer: Describer
    unseen: Describer  # the held-out sprites, alone on white

    @classmethod
    def load(cls, folder: Path = CORPUS, device: torch.device | str = "cpu", size: int = SIDE) -> "Corpus":
        """Read what ``python -m train.recipes.corpus.art`` built.

        Raises:
            FileNotFoundError: nothing was built there.
        """
        art = read_art(folder)
        painter = Painter(read_pixels(art, folder), device, size)
        hues = dominant_hues(painter.levels[1])
        return cls(art, painter, Describer(art, hues), Describer(art, hues, held_out=True))
