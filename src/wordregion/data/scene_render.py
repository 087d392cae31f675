"""Draws a `Scene`: filled, textured, anti-aliased shapes with an outline and a soft shadow, on a varied background."""

import math
from functools import cache
from random import Random

from PIL import Image, ImageDraw

from wordregion.data.scene_graph import Scene, Thing
from wordregion.schema import Box

Point = tuple[float, float]
Rgb = tuple[int, int, int]

SUPERSAMPLE = 4
PAINT: dict[str, Rgb] = {
    "red": (222, 38, 42),
    "yellow": (252, 208, 26),
    "green": (46, 160, 58),
    "cyan": (50, 208, 222),
    "blue": (40, 84, 220),
    "purple": (132, 52, 190),
    "pink": (255, 132, 190),
    "brown": (128, 74, 32),
    "black": (34, 34, 40),
    "white": (250, 250, 250),
}
BACKGROUNDS: tuple[Rgb, ...] = (
    (214, 222, 230),
    (230, 222, 206),
    (206, 224, 210),
    (226, 212, 222),
    (196, 200, 206),
    (222, 222, 222),
    (204, 212, 232),
    (236, 228, 190),
)
RING_HOLE = 0.62  # radius of the hole of a ring


@cache
def outline(shape: str) -> tuple[Point, ...]:
    """The closed outline of a shape, upright, within the unit circle (y down)."""
    if shape in ("circle", "ring"):
        return _regular(40, 0)
    if shape == "square":
        return ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
    if shape == "triangle":
        return _regular(3, -90)
    if shape == "diamond":
        return ((0, -1), (0.72, 0), (0, 1), (-0.72, 0))
    if shape == "hexagon":
        return _regular(6, 0)
    if shape == "star":
        tips, dents = _regular(5, -90), _regular(5, -54)
        return tuple(p for tip, dent in zip(tips, dents, strict=True) for p in (tip, (0.45 * dent[0], 0.45 * dent[1])))
    if shape == "cross":
        a, b = 0.32, 0.94
        quarter = ((a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b))
        return quarter + tuple((-x, -y) for x, y in quarter)
    if shape == "heart":
        turn = [math.radians(9 * k) for k in range(40)]
        curve = [(16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) for t in turn]
        return tuple((x / 17, -(y + 2.5 - math.cos(4 * t)) / 17) for (x, y), t in zip(curve, turn, strict=True))
    if shape == "moon":
        outer = [math.radians(a) for a in range(50, 311, 10)]
        inner = [math.radians(a) for a in range(290, 69, -10)]
        tip = math.sin(math.radians(50))
        reach = [(0.42 + 0.82 * math.cos(a), 0.82 * math.sin(a) / math.sin(math.radians(70)) * tip) for a in inner]
        return tuple((math.cos(a) + 0.15, math.sin(a)) for a in outer) + tuple((x + 0.15, y) for x, y in reach)
    raise KeyError(shape)


def box_of(thing: Thing) -> Box:
    """The tight box around a thing, xyxy in [0, 1] of the picture."""
    xs, ys = zip(*_turned(outline(thing.shape), thing.tilt), strict=True)
    box = (min(xs), min(ys), max(xs), max(ys))
    x0, y0, x1, y1 = (thing.radius * edge + middle for edge, middle in zip(box, 2 * (thing.x, thing.y), strict=True))
    return x0, y0, x1, y1


def render(scene: Scene, size: int) -> Image.Image:
    """The picture of a scene, RGB, `size` x `size` pixels."""
    canvas = _background(scene.background, size)
    for thing in sorted(scene.things, key=lambda t: t.host is not None):
        _draw_thing(canvas, thing, size)
    if scene.present is not None:
        _draw_present(canvas, *scene.present, size)
    return canvas


def _regular(corners: int, first: float) -> tuple[Point, ...]:
    turns = [math.radians(first + 360 * k / corners) for k in range(corners)]
    return tuple((math.cos(t), math.sin(t)) for t in turns)


def _turned(points: tuple[Point, ...], degrees: float) -> list[Point]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(c * x - s * y, s * x + c * y) for x, y in points]


def _mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _second_tone(colour: str) -> Rgb:
    if colour == "white":
        return 186, 186, 192
    if colour == "black":
        return 112, 112, 122
    if colour in ("yellow", "cyan", "pink"):
        return _mix(PAINT[colour], (70, 50, 60), 0.35)
    return _mix(PAINT[colour], (255, 255, 255), 0.45)


def _background(key: int, size: int) -> Image.Image:
    """A quiet background by number: a tint, shaded along one direction, sometimes with a floor."""
    rng = Random(key)
    tint = rng.choice(BACKGROUNDS)
    tint = _mix(tint, (255, 255, 255), rng.uniform(-0.25, 0.35))
    corners = [_mix(tint, (70, 76, 90), rng.uniform(0.0, 0.22)) for _ in range(4)]
    canvas = Image.new("RGB", (2, 2))
    canvas.putdata(corners)
    canvas = canvas.resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.35:
        level = round(size * rng.uniform(0.55, 0.8))
        floor = canvas.crop((0, level, size, size)).point([round(0.88 * v) for v in range(256)] * 3)
        canvas.paste(floor, (0, level))
    return canvas


def _draw_thing(canvas: Image.Image, thing: Thing, size: int) -> None:
    """Draws one thing on its own enlarged patch and lays the patch on the picture."""
    middle_x, middle_y, radius = thing.x * size, thing.y * size, thing.radius * size
    left, top = math.floor(middle_x - radius) - 1, math.floor(middle_y - radius) - 1
    side = math.ceil(2 * radius) + 3
    scale = SUPERSAMPLE
    points = [
        ((x * radius + middle_x - left) * scale, (y * radius + middle_y - top) * scale)
        for x, y in _turned(outline(thing.shape), thing.tilt)
    ]
    middle = ((middle_x - left) * scale, (middle_y - top) * scale)
    paint = PAINT[thing.colour]
    patch = _texture(thing, side * scale, radius * scale)
    mask = Image.new("L", patch.size)
    ImageDraw.Draw(mask).polygon(points, fill=255)
    pen, edge = ImageDraw.Draw(patch), _mix(paint, (0, 0, 0), 0.5)
    width = max(2, round(0.016 * size * scale))
    pen.line([*points, points[0], points[1]], fill=edge, width=2 * width)
    if thing.shape == "ring":
        hole = RING_HOLE * radius * scale
        around = (middle[0] - hole, middle[1] - hole, middle[0] + hole, middle[1] + hole)
        ImageDraw.Draw(mask).ellipse(around, fill=0)
        pen.ellipse([v + d for v, d in zip(around, (-width, -width, width, width), strict=True)], fill=edge)
    mask = mask.reduce(scale)
    shadow, drop = mask.point([round(0.28 * v) for v in range(256)]), max(1, round(0.016 * size))
    canvas.paste((30, 30, 45), (left + drop, top + drop), shadow)
    canvas.paste(patch.reduce(scale), (left, top), mask)


def _texture(thing: Thing, side: int, radius: float) -> Image.Image:
    paint, tone = PAINT[thing.colour], _second_tone(thing.colour)
    patch = Image.new("RGB", (side, side), paint)
    pen = ImageDraw.Draw(patch)
    step = 0.36 * radius if thing.size == "large" else 0.5 * radius
    lines = range(math.ceil(side / step) + 1)
    if thing.texture == "striped":
        for k in lines[::2]:
            pen.rectangle((0, k * step, side, (k + 1) * step - 1), fill=tone)
        return patch.rotate(45 + thing.tilt, resample=Image.Resampling.NEAREST, fillcolor=paint)
    if thing.texture == "checkered":
        for row in lines:
            for column in lines[row % 2 :: 2]:
                pen.rectangle((column * step, row * step, (column + 1) * step - 1, (row + 1) * step - 1), fill=tone)
    if thing.texture == "dotted":
        dot = 0.3 * step
        for row in lines:
            for column in lines:
                x, y = (column + 0.5 * (row % 2)) * step, row * step
                pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=tone)
    return patch


def _draw_present(canvas: Image.Image, x: float, y: float, half: float, size: int) -> None:
    """A closed gift box: what is in it can't be seen."""
    scale, side = SUPERSAMPLE, round(2 * half * size)
    patch = Image.new("RGB", (side * scale, side * scale), (196, 164, 112))
    pen, unit = ImageDraw.Draw(patch), side * scale
    pen.rectangle((0, 0, unit, 0.28 * unit), fill=(176, 142, 92))
    pen.rectangle((0.42 * unit, 0, 0.58 * unit, unit), fill=(120, 88, 52))
    pen.rectangle((0, 0.26 * unit, unit, 0.30 * unit), fill=(120, 88, 52))
    pen.rectangle((0, 0, unit - 1, unit - 1), outline=(84, 60, 34), width=max(2, round(0.04 * unit)))
    canvas.paste(patch.reduce(scale), (round(x * size - side / 2), round(y * size - side / 2)))
