"""Lines of pictures, which ControlNets and translators learn to follow: edges, scribbles and sketches as by hand.

What people draw differs from the edges of a picture: pens are thick or thin, hands shake, little is drawn inside, and
nobody's shapes are those of the training data. Maps are (S, S) uint8, lines 255 on 0.
"""

import cv2
import numpy as np
from PIL import Image

from yoso_core.conditioning import INK

CANNY_THRESHOLDS = ((100, 200), (40, 100))  # what people leave as it is, and what they turn it down to
LARGE_SHAPES = (30, 80)  # thresholds for blurred pictures
SCRIBBLE_BLUR = 1 / 48  # of the side; what a quick drawing leaves out
TURN = 20  # degrees to either side
SIZES = (0.65, 1.05)  # of a varied picture
SHIFT = 0.12  # of the side, to either side
BEND = 0.025  # of the side, standard deviation: how far shapes are from those of the picture
SKETCH_BLUR = (1 / 128, 1 / 32)  # of the side
FAINT_SHAPES = (20, 60)  # who draws a white ghost draws its outline
PENS = (0.012, 0.05)  # of the side, widths
SHAKE = 0.006  # of the side, standard deviation
LEFT_OUT = 0.3  # of the strokes but the longest
PAPER = 256  # pixels of the side that sketches are drawn at, at least


def scribble(picture: np.ndarray) -> np.ndarray:
    """What somebody would draw of a picture in a hurry: thick lines of its large shapes.

    Args:
        picture: (S, S, 3) uint8.
    """
    side = len(picture)
    smooth = cv2.GaussianBlur(picture, (0, 0), side * SCRIBBLE_BLUR)
    edges = cv2.Canny(smooth, *LARGE_SHAPES)
    return cv2.dilate(edges, np.ones((max(2, side // 32),) * 2, np.uint8))


def maps_of(picture: np.ndarray) -> np.ndarray:
    """The maps that one picture is learned with: (M, S, S)."""
    return np.stack([*(cv2.Canny(picture, *pair) for pair in CANNY_THRESHOLDS), scribble(picture)])


def sketch(picture: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    """What a hand would draw of a picture: strokes of one pen along its shapes, rounded, shaken, some left out.

    Args:
        picture: (S, S, 3) uint8.
        numbers: where the amounts come from.
    """
    side = len(picture)
    scale = max(1.0, PAPER / side)
    smooth = cv2.GaussianBlur(picture, (0, 0), side * numbers.uniform(*SKETCH_BLUR))
    strokes, _ = cv2.findContours(cv2.Canny(smooth, *FAINT_SHAPES), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    longest = max(map(len, strokes), default=0)
    shake = _field(side, SHAKE * side, 10, numbers)
    paper = np.zeros((round(side * scale),) * 2, np.uint8)
    pen = max(1, round(numbers.uniform(*PENS) * len(paper)))
    for stroke in strokes:
        if len(stroke) < longest and numbers.random() < LEFT_OUT:
            continue
        corners = stroke[:, 0]
        points = _rounded(corners, max(1, side // 24)) + shake[corners[:, 1], corners[:, 0]]
        points = np.round((points + 0.5) * scale * 16).astype(np.int32)  # 4 bits after the point
        cv2.polylines(paper, [points], True, 255, pen, cv2.LINE_AA, shift=4)
    # As the lines of a canvas are found: what differs from the paper by that much is ink.
    return np.where(cv2.resize(paper, (side, side), interpolation=cv2.INTER_AREA) > INK, 255, 0).astype(np.uint8)


def _rounded(points: np.ndarray, reach: int) -> np.ndarray:
    """Points (P, 2) of a closed path, each the mean of those up to `reach` before and after it."""
    reach = min(reach, (len(points) - 1) // 2)
    return np.mean([np.roll(points, step, axis=0) for step in range(-reach, reach + 1)], axis=0)


def _field(side: int, deviation: float, knots: int, numbers: np.random.Generator) -> np.ndarray:
    """Smooth displacements (S, S, 2) of this standard deviation in pixels at the knots."""
    coarse = numbers.normal(scale=deviation, size=(knots, knots, 2)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def bent(picture: Image.Image, numbers: np.random.Generator) -> Image.Image:
    """A picture on white with its shapes bent.

    Args:
        picture: RGB, S x S.
        numbers: where the amounts come from.
    """
    side = picture.width
    places = _field(side, BEND * side, 4, numbers) + np.indices((side, side), np.float32)[::-1].transpose(1, 2, 0)
    white = (255, 255, 255)
    found = cv2.remap(np.asarray(picture), places, None, cv2.INTER_LANCZOS4, borderValue=white)
    return Image.fromarray(found)


def varied(picture: Image.Image, numbers: np.random.Generator) -> Image.Image:
    """A picture on white turned, scaled, shifted and perhaps mirrored.

    Args:
        picture: RGB, S x S.
        numbers: where the amounts come from.
    """
    side = picture.width
    angle, scale = np.deg2rad(numbers.uniform(-TURN, TURN)), numbers.uniform(*SIZES)
    mirror = numbers.choice([-1.0, 1.0])
    shift = numbers.uniform(-SHIFT, SHIFT, 2) * side
    turn = np.array([[np.cos(angle) * mirror, np.sin(angle)], [-np.sin(angle) * mirror, np.cos(angle)]]) / scale
    origin = np.full(2, side / 2) - turn @ (np.full(2, side / 2) + shift)
    affine = (*turn[0], origin[0], *turn[1], origin[1])
    return picture.transform(picture.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC, fillcolor="white")
