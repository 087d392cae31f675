"""RandAugment (Cubuk et al., 2020) with ALBEF's operations, moving boxes along with the pixels."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from wordregion.schema import Box

Affine = tuple[float, float, float, float, float, float]
"""Rows (a, b, c), (d, e, f) of the map from input to output positions, in units of the image's sides."""

_FILL = (128, 128, 128)
_COLOUR: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, level: image,
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * level),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * level),
}
_GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
COLOURS = tuple(_COLOUR)
"""Operations that leave every pixel in its place."""
OPERATIONS = (*COLOURS, *_GEOMETRY)


def rand_augment(
    image: Image.Image,
    boxes: list[Box],
    rng: np.random.Generator,
    count: int,
    magnitude: int,
    operations: tuple[str, ...] = OPERATIONS,
) -> tuple[Image.Image, list[Box | None]]:
    """Applies `count` operations, drawn with replacement, each with probability 1/2.

    Args:
        image: RGB.
        boxes: xyxy in [0, 1].
        rng: the only source of chance.
        count: operations to draw (ALBEF: 2).
        magnitude: strength in 0..10 (ALBEF: 7).
        operations: those to draw from.

    Returns:
        The image, and each box after the geometry: the enclosing box of its moved corners, or None when less than half
        of that is still in the picture.
    """
    moved: list[Box | None] = list(boxes)
    for name in rng.choice(operations, count):
        if rng.random() < 0.5:
            continue
        level = magnitude / 10
        if name in _COLOUR:
            image = _COLOUR[name](image, level)
            continue
        affine = _affine(name, level if rng.random() < 0.5 else -level, image.size)
        image = _warp(image, affine)
        moved = [None if box is None else move_box(box, affine) for box in moved]
    return image, moved


def move_box(box: Box, affine: Affine) -> Box | None:
    """The enclosing box of a box's moved corners, clipped; None if less than half of it stays in the picture."""
    a, b, c, d, e, f = affine
    corners = [(box[i], box[j]) for i in (0, 2) for j in (1, 3)]
    xs = [a * x + b * y + c for x, y in corners]
    ys = [d * x + e * y + f for x, y in corners]
    x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
    inside = max(clipped[2] - clipped[0], 0.0) * max(clipped[3] - clipped[1], 0.0)
    return clipped if inside > 0.5 * (x1 - x0) * (y1 - y0) else None


def _affine(name: str, level: float, size: tuple[int, int]) -> Affine:
    """The forward map about the picture's centre, `level` in -1..1; `size` = (width, height) in pixels.

    The strongest shift is ALBEF's 10 pixels whatever the size, the strongest shear 0.3, the strongest turn 30 degrees.
    """
    width, height = size
    if name == "translate_x":
        return (1, 0, 10 * level / width, 0, 1, 0)
    if name == "translate_y":
        return (1, 0, 0, 0, 1, 10 * level / height)
    aspect = width / height
    if name == "rotate":
        angle = np.deg2rad(30 * level)
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        a, b, d, e = cos, -sin / aspect, sin * aspect, cos
    elif name == "shear_x":
        a, b, d, e = 1.0, 0.3 * level / aspect, 0.0, 1.0
    else:
        a, b, d, e = 1.0, 0.0, 0.3 * level * aspect, 1.0
    return (a, b, 0.5 - 0.5 * (a + b), d, e, 0.5 - 0.5 * (d + e))


def _warp(image: Image.Image, affine: Affine) -> Image.Image:
    """PIL wants the map from output pixels to input pixels."""
    a, b, c, d, e, f = affine
    width, height = image.size
    forward = np.array([[a, b * width / height, c * width], [d * height / width, e, f * height], [0, 0, 1]])
    inverse = np.linalg.inv(forward)[:2].ravel()
    return image.transform(
        image.size, Image.Transform.AFFINE, tuple(inverse), Image.Resampling.BILINEAR, fillcolor=_FILL
    )
