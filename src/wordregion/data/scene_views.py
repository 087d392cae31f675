"""Questions, entailment, image pairs and hard negatives on the procedural scenes: one small `Dataset` each.

Samples come in groups that say exactly the same words about different pictures and have different labels, so that
no model of the text alone can do better than chance. In the groups of the kinds "relation", "binding" and "spatial"
the pictures also show the same attributes: a bag of words with a bag of attributes can't answer either.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from PIL.Image import Image

from wordregion.data.scene_graph import (
    COLOURS,
    OPPOSITE,
    SHAPES,
    Scene,
    Split,
    Thing,
    check_settings,
    draw_scene,
    generator,
    place,
    relations,
    valid,
)
from wordregion.data.scene_render import render
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
from wordregion.schema import Grounding, Sample

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2
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


Draw = Callable[[Random, Split, str], tuple[Item, ...] | None]


@dataclass(frozen=True, slots=True)
class Groups:
    """The records of a view: `each` samples a group, the groups take the `kinds` in turn.

    `draw(rng, split, kind)` makes a group, or None when the scene that it drew has no room for one.
    """

    name: str
    each: int
    kinds: tuple[str, ...]
    draw: Draw
    split: Split
    size: int
    seed: int
    image_size: int

    def __post_init__(self) -> None:
        check_settings(self.split, self.size, self.image_size)

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return f"{self.name} ({self.split}, seed {self.seed}), index {index}"

    def kind(self, index: int) -> str:
        """The kind of a sample."""
        return self.kinds[index // self.each % len(self.kinds)]

    def item(self, index: int) -> Item:
        """The texts, scenes and label behind a sample: the same in every process and in any order of access."""
        if not 0 <= index < self.size:
            raise IndexError(f"{self.where(index)}: out of range, {self.size} samples")
        rng = generator(self.name, self.seed, self.split, index // self.each)
        while True:
            items = self.draw(rng, self.split, self.kind(index))
            if items is not None and all(valid(s.things, self.split) for item in items for s in item.scenes):
                return items[index % self.each]

    def identity(self, index: int) -> str:
        """The id of a sample."""
        return f"{self.name}-{self.split}-{self.seed}-{index}"

    def images(self, item: Item) -> tuple[Image, ...]:
        """The pictures of a sample."""
        return tuple(render(scene, self.image_size) for scene in item.scenes)


class SceneQuestions:
    """Questions with one answer (`Dataset`): target {"answers": {answer: 1.0}, "kind": str}.

    Samples 2k and 2k + 1 ask the same question of two pictures and have different answers.

    Args:
        split: "train" or "val".
        size: number of samples.
        seed: another seed, other samples.
        image_size: pixels of a side of the square pictures.

    Raises:
        UsageError: for an unknown split, or sizes out of range.
    """

    name = "scene_questions"
    kinds = tuple(QUESTIONS)

    def __init__(self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128) -> None:
        self.groups = Groups(self.name, 2, self.kinds, _draw_questions, split, size, seed, image_size)

    def __len__(self) -> int:
        return self.groups.size

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.groups.where(index)

    def __getitem__(self, index: int) -> Sample:
        item = self.groups.item(index)
        target = {"answers": {item.answer: 1.0}, "kind": self.groups.kind(index)}
        return Sample(self.groups.identity(index), self.groups.images(item), item.texts, target=target)


class SceneEntailment:
    """Does the picture entail the sentence (`Dataset`)? target {"label": 0 entailment | 1 neutral | 2 contradiction}.

    Neutral is what a closed gift box in the picture may hide. Two things of a scene never share colour and shape, in
    the box or out of it. Samples 3k to 3k + 2 have the same sentence and the labels 0, 1, 2. The target also has
    "kind", and "premise", a true caption of what is visible. Arguments and errors are those of `SceneQuestions`.
    """

    name = "scene_entailment"
    kinds = tuple(HYPOTHESES)

    def __init__(self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128) -> None:
        self.groups = Groups(self.name, 3, self.kinds, _draw_entailment, split, size, seed, image_size)

    def __len__(self) -> int:
        return self.groups.size

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.groups.where(index)

    def __getitem__(self, index: int) -> Sample:
        item = self.groups.item(index)
        target = {"label": item.answer, "kind": self.groups.kind(index), "premise": item.texts[1]}
        return Sample(self.groups.identity(index), self.groups.images(item), item.texts[:1], target=target)


class ScenePairs:
    """Is the sentence true of the two pictures (left, right; `Dataset`)? target {"label": 1 true | 0 false, "kind"}.

    Samples 2k and 2k + 1 have the same sentence, the first is true. Arguments and errors: see `SceneQuestions`.
    """

    name = "scene_pairs"
    kinds = tuple(STATEMENTS)

    def __init__(self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128) -> None:
        self.groups = Groups(self.name, 2, self.kinds, _draw_pairs, split, size, seed, image_size)

    def __len__(self) -> int:
        return self.groups.size

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.groups.where(index)

    def __getitem__(self, index: int) -> Sample:
        item = self.groups.item(index)
        target = {"label": item.answer, "kind": self.groups.kind(index)}
        return Sample(self.groups.identity(index), self.groups.images(item), item.texts, target=target)


class SceneNegatives:
    """A true caption, texts[0], and a false one in the same words, texts[1] (`Dataset`): target {"label": 0, "kind"}.

    Kind "attribute": two things have exchanged a colour, shape, size or texture; "relation": they have changed places.
    Only the true caption is a grounding of the picture. Arguments and errors: see `SceneQuestions`.
    """

    name = "scene_negatives"
    kinds = ("attribute", "relation")

    def __init__(self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128) -> None:
        self.groups = Groups(self.name, 1, self.kinds, _draw_negatives, split, size, seed, image_size)

    def __len__(self) -> int:
        return self.groups.size

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.groups.where(index)

    def __getitem__(self, index: int) -> Sample:
        item = self.groups.item(index)
        target = {"label": item.answer, "kind": self.groups.kind(index)}
        images = self.groups.images(item)
        return Sample(self.groups.identity(index), images, item.texts, (Grounding(text=0),), target)


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


def _draw_questions(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
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


def _draw_entailment(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
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


def _draw_pairs(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
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


def _draw_negatives(rng: Random, split: Split, kind: str) -> tuple[Item, ...] | None:
    scene = draw_scene(rng, split)
    claim = draw_claim(rng, scene)
    false = [wrong for named, wrong in negatives(claim, scene) if named == kind]
    return (Item((say(claim).text, say(rng.choice(false)).text), (scene,), 0),) if false else None
