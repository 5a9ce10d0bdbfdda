"""Grounds: what is behind the sprites, as numbers that a painter draws, and the words people have for them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

WEATHERS = ("day", "night", "sunset", "rain", "snow", "fog")

# Every ground is these numbers (see `painter.Painter.ground`): colours in 0..1, places in 0..1 from the top left.
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


def _places() -> dict[str, slice]:
    """Where the numbers of each field of a ground are among all of them."""
    found, start = {}, 0
    for name, value in vars(Ground()).items():
        stop = start + (len(value) if isinstance(value, tuple) else 1)
        found[name] = slice(start, stop)
        start = stop
    return found


GROUND_PLACES = _places()
GROUND_NUMBERS = len(Ground().numbers())


def mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(x + (y - x) * share for x, y in zip(a, b, strict=True))


def near(colour: Colour, picker: random.Random, reach: float = 0.08) -> Colour:
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
        top=near(picker.choice(BLUES), picker),
        bottom=near(picker.choice(PALE), picker, 0.05),
        clouds=clouds,
        disc=sun,
        stars=0.0,
        outdoors=1.0,
        texture=float(picker.randrange(64)),
    )
    return Ground(**sky | numbers)


def _hills(p: random.Random) -> Ground:
    green = near(p.choice(GREENS), p)
    return _outdoors(
        p,
        ridge=(p.uniform(0.5, 0.62), p.uniform(0.03, 0.1), p.uniform(0.5, 1.5), p.uniform(0, 6.3)),
        ridge_colour=mix(green, (0.6, 0.75, 0.7), 0.45),
        land=(p.uniform(0.62, 0.72), p.uniform(0.04, 0.12), p.uniform(0.4, 1.0), p.uniform(0, 6.3)),
        far=green,
        near=mix(green, (0.1, 0.3, 0.05), 0.3),
    )


def _meadow(p: random.Random) -> Ground:
    green = near(p.choice(GREENS), p)
    return _outdoors(
        p, land=(p.uniform(0.55, 0.7), 0.005, 1.0, 0.0), far=green, near=mix(green, (0.15, 0.35, 0.05), 0.3)
    )


def _sea(p: random.Random) -> Ground:
    blue = near((0.12, 0.45, 0.7), p)
    return _outdoors(
        p,
        land=(p.uniform(0.5, 0.65), 0.0, 1.0, 0.0),
        far=mix(blue, (0.5, 0.8, 0.9), 0.35),
        near=blue,
        waves=p.uniform(0.3, 1.0),
    )


def _beach(p: random.Random) -> Ground:
    blue = near((0.15, 0.55, 0.75), p)
    return replace(
        _sea(p),
        far=blue,
        near=mix(blue, (0.5, 0.85, 0.85), 0.5),
        land=(p.uniform(0.42, 0.52), 0.0, 1.0, 0.0),
        band=(p.uniform(0.62, 0.75), p.uniform(-0.15, 0.15)),
        band_colour=near(p.choice(SAND), p, 0.04),
    )


def _snowfield(p: random.Random) -> Ground:
    return replace(_hills(p), ridge_colour=(0.82, 0.88, 0.95), far=(0.96, 0.98, 1.0), near=(0.85, 0.9, 0.97))


def _desert(p: random.Random) -> Ground:
    sand = near((0.9, 0.7, 0.42), p, 0.05)
    return replace(
        _hills(p), ridge_colour=mix(sand, (0.8, 0.5, 0.3), 0.4), far=sand, near=mix(sand, (0.7, 0.45, 0.2), 0.3)
    )


def _mountains(p: random.Random) -> Ground:
    return replace(
        _meadow(p),
        ridge=(p.uniform(0.4, 0.5), p.uniform(0.12, 0.25), p.uniform(1.0, 2.2), p.uniform(0, 6.3)),
        jagged=1.0,
        ridge_colour=near((0.45, 0.5, 0.62), p),
        snowcaps=float(p.random() < 0.6),
    )


def _street(p: random.Random) -> Ground:
    return replace(
        _meadow(p),
        ridge=(p.uniform(0.35, 0.45), p.uniform(0.08, 0.2), p.uniform(2.0, 4.0), p.uniform(0, 6.3)),
        jagged=2.0,
        ridge_colour=near(p.choice([(0.6, 0.62, 0.7), (0.72, 0.6, 0.52), (0.5, 0.55, 0.65)]), p),
        far=near((0.62, 0.62, 0.6), p, 0.05),
        near=near((0.55, 0.56, 0.55), p, 0.05),
        road=(p.uniform(0.08, 0.2), p.uniform(0.45, 0.8), p.uniform(0.4, 0.6)),
        road_colour=near((0.35, 0.36, 0.4), p, 0.05),
    )


def _road(p: random.Random) -> Ground:
    return replace(
        _hills(p),
        road=(p.uniform(0.03, 0.1), p.uniform(0.3, 0.6), p.uniform(0.35, 0.65)),
        road_colour=(0.42, 0.42, 0.45),
    )


def _room(p: random.Random) -> Ground:
    wall = near(
        p.choice([NAMED["beige"], NAMED["light blue"], (0.85, 0.9, 0.8), (0.95, 0.85, 0.8), (0.8, 0.78, 0.9)]), p
    )
    floor = near(p.choice([(0.6, 0.42, 0.26), (0.72, 0.55, 0.36), (0.55, 0.5, 0.46)]), p)
    return Ground(
        top=wall,
        bottom=mix(wall, (1, 1, 1), 0.2),
        land=(p.uniform(0.66, 0.78), 0.0, 1.0, 0.0),
        far=floor,
        near=mix(floor, (1, 1, 1), 0.15),
    )


def _space(p: random.Random) -> Ground:
    deep = near((0.04, 0.04, 0.12), p, 0.04)
    return Ground(top=deep, bottom=near((0.12, 0.08, 0.25), p), stars=1.0, texture=float(p.randrange(64)))


def _underwater(p: random.Random) -> Ground:
    sand = near((0.75, 0.72, 0.5), p)
    there = p.random() < 0.6
    return Ground(
        top=near((0.25, 0.65, 0.85), p),
        bottom=near((0.03, 0.22, 0.5), p),
        land=(p.uniform(0.8, 0.9) if there else 2.0, 0.03, 1.0, p.uniform(0, 6.3)),
        far=mix(sand, (0.1, 0.4, 0.6), 0.4),
        near=mix(sand, (0.1, 0.4, 0.6), 0.3),
    )


def _sky(p: random.Random) -> Ground:
    return _outdoors(p)


@dataclass(frozen=True)
class Place:
    """A kind of ground, how it is spoken of, and what may be in it."""

    draw: Callable[[random.Random], Ground]
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
        (
            "on the grass",
            "in a meadow",
            "in a field",
            "in the park",
            "on grass",
            "in the garden",
            "outside",
            "in nature",
        ),
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
    "room": Place(
        _room,
        ("in a room", "indoors", "in the house", "on the floor", "at home"),
        empty=("an empty room", "a room"),
        weathers=False,
    ),
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
    "sky": Place(
        _sky,
        flies=("in the sky", "in the clouds", "in the air", "in a blue sky"),
        empty=("a blue sky", "the sky", "clouds in the sky", "sky with clouds"),
    ),
}
WEATHER_WORDS = {
    "day": ("", "", "", "on a sunny day", "during the day", "by day"),
    "night": (
        "at night",
        "at night",
        "by night",
        "in the dark",
        "under the stars",
        "under the moon",
        "in the moonlight",
    ),
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
