"""Draws scenes, a batch at once, on any device: arithmetic on RGBA sprites and on the numbers of their grounds."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from train.recipes.corpus.art import SIDE
from train.recipes.corpus.colours import to_chroma
from train.recipes.corpus.grounds import GROUND_PLACES, WEATHERS
from train.recipes.corpus.scenes import SLOTS, Scenes

AT_ONCE = 1024  # scenes
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
                far = (((self.x - x - dx * width) ** 2 + ((self.y - y - dy * width) * 1.25) ** 2).sqrt()) / (
                    width + 1e-6
                )
                shape = torch.maximum(shape, ((r - far) * self.size * width).clamp(0, 1) * (width > 0))
            picture = over(picture, white, shape * 0.9)

        line = self._line(get("ridge"), get("jagged"))
        picture = over(picture, colour("ridge_colour") * light, below(line))
        caps = below(line) * (1 - below(line + 0.07 + 0.02 * (self.x * 40).sin())) * get("snowcaps")[:, :, None]
        picture = over(picture, torch.ones_like(top) * light, caps)

        line = self._line(get("land"))
        depth = ((self.y - line) / (1.02 - line).clamp_min(0.05)).clamp(0, 1)[:, None]
        tone = (colour("far") + (colour("near") - colour("far")) * depth) * light
        crest = (
            (self.y * 40 / (0.3 + self.y) + (self.x * 9 + texture[:, None, None] + self.y * 5).sin() * 0.25)
            * 2
            * math.pi
        ).sin()
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
            grey, u, v = to_chroma(rgb[turned])
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
