"""Draws the groups of `scene_views`: samples in the same words about different scenes, with different labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from wordregion.data.scene_graph import (
    COLOURS,
    OPPOSITE,
    SHAPES,
    Scene,
    Split,
    Thing,
    draw_scene,
    place,
    relations,
)
from wordregion.data.scene_text import (
    HYPOTHESES,
    PREMISE_BOX,
    QUESTIONS,
    RELATION_WORDS,
    STATEMENTS,
    draw_claim,
    negatives,
    say,
)

NEAREST: dict[str, tuple[Literal["x", "y"], int]] = {
    "left": ("x", -1),
    "right": ("x", 1),
    "top": ("y", -1),
    "bottom": ("y", 1),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One sample before it is drawn: its texts (the asked one first), its scenes, its label or answer."""

    texts: tuple[str, ...]
    scenes: tuple[Scene, ...]
    answer: str | int


def _named(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _with(scene: Scene, index: int, **look: str) -> Scene:
    """The scene with one thing's attributes changed."""
    things = list(scene.things)
    things[index] = replace(things[index], **look)  # type: ignore[arg-type]
    return replace(scene, things=tuple(things))


def _other(rng: Random, values: tuple[str, ...], value: str) -> str:
    return rng.choice([v for v in values if v != value])


def _sideways(rng: Random, scene: Scene) -> tuple[int, int, str] | None:
    """Two things of which one is clearly left of, right of, above or below the other: (a, b, relation)."""
    a, b = rng.sample(range(len(scene.things)), 2)
    found = [r for r in relations(scene, a, b) if r in ("left", "right", "above", "below")]
    return (a, b, found[0]) if found else None


def _mirrored(scene: Scene, relation: str) -> Scene:
    return scene.mirrored("x" if relation in ("left", "right") else "y")


def draw_questions(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
    """The same question about two scenes, with different answers."""
    scene = draw_scene(rng, split)
    asked = _ASK[kind](rng, scene, rng.choice(QUESTIONS[kind]))
    if asked is None:
        return None
    question, answer, twin, other = asked
    items = [Item((question,), (scene,), answer), Item((question,), (twin,), other)]
    rng.shuffle(items)
    return tuple(items)


Asked = tuple[str, str, Scene, str]  # question, answer, the twin scene, its answer


def _ask_colour(rng: Random, scene: Scene, template: str) -> Asked | None:
    i = rng.randrange(len(scene.things))
    thing = scene.things[i]
    if sum(t.shape == thing.shape for t in scene.things) > 1:
        return None
    other = _other(rng, COLOURS, thing.colour)
    return template.format(s=thing.shape), thing.colour, _with(scene, i, colour=other), other


def _ask_shape(rng: Random, scene: Scene, template: str) -> Asked | None:
    i = rng.randrange(len(scene.things))
    thing = scene.things[i]
    if sum(t.colour == thing.colour for t in scene.things) > 1:
        return None
    other = _other(rng, SHAPES, thing.shape)
    return template.format(c=thing.colour), thing.shape, _with(scene, i, shape=other), other


def _ask_count(rng: Random, scene: Scene, template: str) -> Asked | None:
    i = rng.randrange(len(scene.things))
    colour = rng.choice([*(t.colour for t in scene.things), rng.choice(COLOURS)])
    mine = scene.things[i].colour == colour
    twin = _with(scene, i, colour=_other(rng, COLOURS, colour) if mine else colour)
    count, other = (str(sum(t.colour == colour for t in s.things)) for s in (scene, twin))
    return template.format(c=colour), count, twin, other


def _ask_exists(rng: Random, scene: Scene, template: str) -> Asked | None:
    i = rng.randrange(len(scene.things))
    thing = scene.things[i]
    change = {"colour": COLOURS} if rng.random() < 0.5 else {"shape": SHAPES}
    twin = _with(scene, i, **{field: _other(rng, values, getattr(thing, field)) for field, values in change.items()})
    return template.format(a=_named(thing)), "yes", twin, "no"


def _ask_relation(rng: Random, scene: Scene, template: str) -> Asked | None:
    pair = _sideways(rng, scene)
    if pair is None:
        return None
    a, b, relation = pair
    asked = relation if rng.random() < 0.5 else OPPOSITE[relation]
    words = rng.choice(RELATION_WORDS[asked])
    question = template.format(a=_named(scene.things[a]), b=_named(scene.things[b]), r=words)
    answers = ("yes", "no") if asked == relation else ("no", "yes")
    return question, answers[0], _mirrored(scene, relation), answers[1]


def _ask_binding(rng: Random, scene: Scene, template: str) -> Asked | None:
    i, j = rng.sample(range(len(scene.things)), 2)
    a, b = scene.things[i], scene.things[j]
    field = rng.choice(("colour", "colour", "texture"))
    p, q = getattr(a, field), getattr(b, field)
    if p == q or any(sum(t.shape == s for t in scene.things) > 1 for s in (a.shape, b.shape)):
        return None
    twin = _with(_with(scene, i, **{field: q}), j, **{field: p})
    if rng.random() < 0.5:
        return template.format(s=a.shape, p=p, t=b.shape, q=q), "yes", twin, "no"
    return template.format(s=a.shape, p=q, t=b.shape, q=p), "no", twin, "yes"


def _ask_spatial(rng: Random, scene: Scene, template: str) -> Asked | None:
    side = rng.choice(tuple(NEAREST))
    axis, sign = NEAREST[side]
    along = sorted(scene.things, key=lambda t: sign * getattr(t, axis))
    places = [getattr(t, axis) for t in along]
    if abs(places[-1] - places[-2]) < 0.1 or abs(places[0] - places[1]) < 0.1 or along[0].colour == along[-1].colour:
        return None
    return template.format(side=side), along[-1].colour, scene.mirrored(axis), along[0].colour


_ASK: dict[str, Callable[[Random, Scene, str], Asked | None]] = {
    "colour": _ask_colour,
    "shape": _ask_shape,
    "count": _ask_count,
    "exists": _ask_exists,
    "relation": _ask_relation,
    "binding": _ask_binding,
    "spatial": _ask_spatial,
}


def _boxed(scene: Scene, index: int) -> Scene:
    """The scene with a closed gift box in the place of a thing."""
    thing = scene.things[index]
    half = 0.7 * max(thing.radius, 0.13)
    return replace(scene, things=scene.things[:index] + scene.things[index + 1 :], present=(thing.x, thing.y, half))


def draw_entailment(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
    """The same sentence about three scenes: entailed, neutral, contradicted."""
    scene = draw_scene(rng, split, count=rng.choice((3, 4)))
    template = rng.choice(HYPOTHESES[kind])
    pair = _sideways(rng, scene)
    if pair is None or any(t.host is not None for t in scene.things):
        return None
    a, b, relation = pair
    thing = scene.things[a]
    spare = rng.choice([i for i in range(len(scene.things)) if i not in (a, b)])
    hide = rng.random() < 0.5  # a box in the pictures where it makes no difference
    if kind == "relation":
        words = rng.choice(RELATION_WORDS[relation])
        text = template.format(a=_named(thing), b=_named(scene.things[b]), r=words)
        mirror = _mirrored(scene, relation)
        scenes = [scene, _boxed(scene, b), mirror]
        if hide:
            scenes[0], scenes[2] = _boxed(scene, spare), _boxed(mirror, spare)
    else:
        other = _with(scene, a, colour=_other(rng, COLOURS, thing.colour))
        if kind == "exists":
            text = template.format(a=_named(thing))
            scenes = [_boxed(scene, spare) if hide else scene, _boxed(scene, a), other]
        else:
            text = template.format(c=thing.colour)
            scenes = [other, _boxed(other, spare), _boxed(scene, spare) if hide else scene]
            if any(t.colour == thing.colour for t in other.things):
                return None
    return tuple(Item((text, _premise(rng, s)), (s,), label) for label, s in enumerate(scenes))


def _premise(rng: Random, scene: Scene) -> str:
    """A true caption of what is visible."""
    return say(draw_claim(rng, scene)).text + (PREMISE_BOX if scene.present is not None else "")


def draw_pairs(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
    """The same sentence about two pairs of scenes: true, false."""
    scene, template = draw_scene(rng, split), rng.choice(STATEMENTS[kind])
    pair = _sideways(rng, scene)
    if pair is None:
        return None
    a, b, relation = pair
    if kind in ("count", "order"):
        second = draw_scene(rng, split)
        if kind == "count":
            if len(scene.things) == len(second.things):
                return None
            more = "left" if len(scene.things) > len(second.things) else "right"
            text = template.format(side=more, other=OPPOSITE[more])
        else:
            c = rng.choice(second.things)
            looks, others = ({_named(t) for t in s.things} for s in (scene, second))
            if _named(scene.things[a]) in others or _named(c) in looks:
                return None
            text = template.format(a=_named(scene.things[a]), b=_named(c))
        return Item((text,), (scene, second), 1), Item((text,), (second, scene), 0)
    words = rng.choice(RELATION_WORDS[relation])
    text = template.format(a=_named(scene.things[a]), b=_named(scene.things[b]), r=words)
    again = Scene(place(rng, scene.things), background=rng.randrange(1 << 16))
    if relation not in relations(again, a, b):
        return None
    right = (scene, again)
    wrong = (_mirrored(scene, relation), again) if rng.random() < 0.5 else (scene, _mirrored(again, relation))
    first, second_pair = (right, wrong) if kind == "both" else (wrong, right)
    return Item((text,), first, 1), Item((text,), second_pair, 0)


def draw_negatives(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
    """A scene with a true caption and a false one in the same words."""
    scene = draw_scene(rng, split)
    claim = draw_claim(rng, scene)
    false = [wrong for named, wrong in negatives(claim, scene) if named == kind]
    return (Item((say(claim).text, say(rng.choice(false)).text), (scene,), 0),) if false else None
