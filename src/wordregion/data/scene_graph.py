"""What is in a procedural scene: coloured things at places, the relations between them, and the train/validation rule.

Coordinates are in [0, 1] of the picture, x to the right, y down. Everything is a pure function of a `random.Random`.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Literal

from wordregion.errors import UsageError

Split = str
"""``"train"`` or ``"val"``; the data sets refuse anything else with a `UsageError`."""

COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond", "hexagon", "moon")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted", "checkered")
OPPOSITE = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "inside": "around",
    "around": "inside",
    "on": "behind",
    "behind": "on",
    "near": "near",
    "far": "far",
}
"""Relation -> the relation seen from the other thing: a is left of b, so b is right of a."""

HELD_OUT_SHARE = 8  # one pair of compositions in eight is never seen in training
COUNTS = (2, 2, 2, 3, 3, 3, 3, 4, 4, 4)
REPEAT = 0.3  # chance that a colour or a shape is taken from another thing of the scene
NESTED = 0.2  # chance that a small thing lies in or on a large one
CLEAR = 0.15  # distance between centres from which left/right/above/below is beyond doubt


def check_settings(split: str, size: int, image_size: int) -> None:
    """Raises UsageError for a split, size or image size that makes no sense."""
    if split not in ("train", "val"):
        raise UsageError(f"scenes: split is {split!r}. Use 'train' or 'val'.")
    if size < 1:
        raise UsageError(f"scenes: size is {size}. Give at least 1 scene.")
    if not 16 <= image_size <= 1024:
        raise UsageError(f"scenes: image_size is {image_size}. Give 16 to 1024 pixels.")


def generator(view: str, seed: int, split: str, index: int, attempt: int = 0) -> Random:
    """The random numbers of one record: the same in every process and in any order of access."""
    return Random(f"{view} {seed} {split} {index} {attempt}")


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: what it is, where its centre is, its circumscribed radius, its tilt in degrees."""

    colour: str
    shape: str
    size: str
    texture: str
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0
    tilt: float = 0.0
    host: int | None = None  # index of the thing that this one lies in or on

    def look(self) -> tuple[str, str, str, str]:
        """Its attributes, without its place."""
        return self.colour, self.shape, self.size, self.texture


@dataclass(frozen=True, slots=True)
class Scene:
    """Things on a background (an index into the renderer's palette); `present` is where a closed gift box stands."""

    things: tuple[Thing, ...]
    background: int
    present: tuple[float, float, float] | None = None

    def mirrored(self, axis: Literal["x", "y"]) -> "Scene":
        """The same things with left and right (x) or top and bottom (y) exchanged; the things are not flipped."""
        flipped = tuple(replace(t, **{axis: 1 - getattr(t, axis)}) for t in self.things)
        return replace(self, things=flipped)


def relations(scene: Scene, a: int, b: int) -> tuple[str, ...]:
    """The relations of thing `a` to thing `b` that nobody would doubt, the plainest first."""
    first, second = scene.things[a], scene.things[b]
    if first.host == b:
        return ("inside",) if second.shape == "ring" else ("on",)
    if second.host == a:
        return ("around",) if first.shape == "ring" else ("behind",)
    dx, dy = second.x - first.x, second.y - first.y
    clear = []
    if abs(dx) > CLEAR and abs(dx) > abs(dy):
        clear.append("left" if dx > 0 else "right")
    if abs(dy) > CLEAR and abs(dy) > abs(dx):
        clear.append("above" if dy > 0 else "below")
    distance = math.hypot(dx, dy)
    if distance < 0.36:
        clear.append("near")
    if distance > 0.62:
        clear.append("far")
    return tuple(clear)


def may_hold(scene: Scene, a: int, relation: str, b: int) -> bool:
    """Whether somebody could say that `a` stands in `relation` to `b`: the generous counterpart of `relations`."""
    first, second = scene.things[a], scene.things[b]
    distance = math.hypot(second.x - first.x, second.y - first.y)
    return {
        "left": first.x < second.x,
        "right": first.x > second.x,
        "above": first.y < second.y,
        "below": first.y > second.y,
        "inside": first.host == b,
        "on": first.host == b,
        "around": second.host == a,
        "behind": second.host == a,
        "near": distance < 0.5,
        "far": distance > 0.45,
    }[relation]


@cache
def held_out(colours: tuple[str, str], shapes: tuple[str, str]) -> bool:
    """Whether two things with these (sorted) colours and shapes are kept for validation.

    The rule sees the two colours and the two shapes, not which goes with which, so that a scene and the same scene
    with the two colours exchanged are on the same side.
    """
    digest = hashlib.sha256(" ".join(colours + shapes).encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def valid(things: tuple[Thing, ...], split: Split) -> bool:
    """Whether the things make a scene of this side of the split: no two share both colour and shape."""
    return len({(t.colour, t.shape) for t in things}) == len(things) and split_of(things) == split


def split_of(things: tuple[Thing, ...]) -> Split:
    """The side of a scene: "val" as soon as two of its things are never seen together in training."""
    for i, a in enumerate(things):
        for b in things[:i]:
            colours = (a.colour, b.colour) if a.colour < b.colour else (b.colour, a.colour)
            shapes = (a.shape, b.shape) if a.shape < b.shape else (b.shape, a.shape)
            if held_out(colours, shapes):
                return "val"
    return "train"


def draw_scene(rng: Random, split: Split, count: int | None = None) -> Scene:
    """A scene of `count` things (2 to 5; drawn when None) on the given side of the split.

    No two things of a scene share both colour and shape, so that "the red circle" always names one thing.
    """
    while True:
        looks = _draw_looks(rng, count or rng.choice(COUNTS))
        if valid(looks, split):
            return Scene(place(rng, looks), background=rng.randrange(1 << 16))


def place(rng: Random, looks: tuple[Thing, ...], nested: float = NESTED) -> tuple[Thing, ...]:
    """The things at fresh places where they don't touch, except for one that may lie in or on another."""
    while True:
        placed = _try_place(rng, looks, nest=rng.random() < nested)
        if placed is not None:
            return placed


def _draw_looks(rng: Random, count: int) -> tuple[Thing, ...]:
    colours = _with_repeats(rng, COLOURS, count)
    shapes = _with_repeats(rng, SHAPES, count)
    large_at_most = {2: 2, 3: 3, 4: 2, 5: 1}[count]
    sizes = ["large" if rng.random() < 0.5 else "small" for _ in range(large_at_most)]
    sizes += ["small"] * (count - large_at_most)
    rng.shuffle(sizes)
    textures = [rng.choice(TEXTURES) if rng.random() < 0.6 else "plain" for _ in range(count)]
    return tuple(Thing(c, s, z, t) for c, s, z, t in zip(colours, shapes, sizes, textures, strict=True))


def _with_repeats(rng: Random, values: tuple[str, ...], count: int) -> list[str]:
    """`count` values, sometimes one of them twice, in random order (every order is equally likely)."""
    drawn = rng.sample(values, count)
    if rng.random() < REPEAT:
        drawn[1] = drawn[0]
    rng.shuffle(drawn)
    return drawn


def _try_place(rng: Random, looks: tuple[Thing, ...], nest: bool) -> tuple[Thing, ...] | None:
    guest = next((i for i, t in enumerate(looks) if t.size == "small"), None) if nest else None
    hosts = [i for i, t in enumerate(looks) if t.size == "large" and t.shape in ("ring", "circle", "square", "hexagon")]
    guest = guest if hosts else None
    placed: dict[int, Thing] = {}
    for i in sorted(range(len(looks)), key=lambda i: (i == guest, looks[i].size)):
        thing, tilt = looks[i], rng.uniform(-12, 12)
        if i == guest:
            host = rng.choice(hosts)
            x, y = placed[host].x, placed[host].y
            placed[i] = replace(thing, x=x, y=y, radius=0.45 * placed[host].radius, tilt=tilt, host=host)
            continue
        radius = rng.uniform(0.19, 0.215) if thing.size == "large" else rng.uniform(0.11, 0.13)
        for _ in range(30):
            x, y = (rng.uniform(radius + 0.02, 0.98 - radius) for _ in "xy")
            if all(math.hypot(x - o.x, y - o.y) > radius + o.radius + 0.02 for o in placed.values()):
                placed[i] = replace(thing, x=x, y=y, radius=radius, tilt=tilt, host=None)
                break
        else:
            return None
    return tuple(placed[i] for i in range(len(looks)))
