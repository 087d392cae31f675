"""The built-in data set: procedural scenes, drawn on the fly, with everything the tasks need to learn from them.

A record is a pure function of (seed, split, index). No two things that occur together in a validation scene's
held-out pair ever occur together in training (`scene_graph.split_of`); every single word and attribute does.
"""

from dataclasses import dataclass

from wordregion.data.scene_graph import Scene, Split, check_settings, draw_scene, generator
from wordregion.data.scene_render import box_of, render
from wordregion.data.scene_text import Claim, Mention, build_vocab, draw_captions, negatives, say, true_of
from wordregion.data.scene_views import SceneEntailment, SceneNegatives, ScenePairs, SceneQuestions
from wordregion.errors import UsageError
from wordregion.schema import Box, Grounding, Sample

__all__ = ["SceneEntailment", "SceneNegatives", "ScenePairs", "SceneQuestions", "SceneRecord", "Scenes", "build_vocab"]


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """A scene and the true claims about it."""

    scene: Scene
    captions: tuple[Claim, ...]


class Scenes:
    """Scenes with captions, phrases and boxes (`Dataset`).

    A sample holds the captions first (`Grounding(text=i)`, and one grounding with span and boxes for each phrase),
    then region phrases, one for each thing, and one for two things in a relation (`Grounding(text=i, boxes=...)`).
    In validation every caption is true of its own scene only: a scene that would share one is drawn again.

    Args:
        split: "train" or "val".
        size: number of scenes; scene i is the same for every size.
        seed: another seed, other scenes.
        image_size: pixels of a side of the square pictures.
        captions: captions a scene, all different, 1 to 5.
        negatives: most false texts a caption, in the words of the caption, as in `SceneNegatives`: they stand behind
            all other texts, linked by `Sample.negatives`. Mere lists of things have none.

    Raises:
        UsageError: for an unknown split, or sizes out of range.
    """

    name = "scenes"

    def __init__(
        self,
        split: Split = "train",
        size: int = 20000,
        seed: int = 0,
        image_size: int = 128,
        captions: int = 3,
        negatives: int = 0,
    ) -> None:
        check_settings(split, size, image_size)
        if not 1 <= captions <= 5:
            raise UsageError(f"scenes: captions is {captions}. Give 1 to 5 captions a scene.")
        if negatives < 0:
            raise UsageError(f"scenes: negatives is {negatives}. Give 0 or more false texts a caption.")
        self.negatives = negatives
        self.split, self.size, self.seed, self.image_size, self.captions = split, size, seed, image_size, captions
        self._attempts = _distinct_attempts(self) if split == "val" else None

    def __len__(self) -> int:
        return self.size

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return f"scenes ({self.split}, seed {self.seed}), index {index}"

    def record(self, index: int) -> SceneRecord:
        """The scene graph and the claims behind a sample."""
        if not 0 <= index < self.size:
            raise IndexError(f"{self.where(index)}: out of range, {self.size} scenes")
        return self._draw(index, self._attempts[index] if self._attempts is not None else 0)

    def __getitem__(self, index: int) -> Sample:
        record = self.record(index)
        boxes = tuple(box_of(thing) for thing in record.scene.things)
        texts: list[str] = []
        groundings: list[Grounding] = []
        captions: list[int] = []
        for claim in record.captions:
            said = say(claim)
            captions.append(len(texts))
            groundings.append(Grounding(text=len(texts)))
            groundings += [Grounding(text=len(texts), span=span, boxes=(boxes[thing],)) for span, thing in said.spans]
            texts.append(said.text)
        for phrase, box in region_phrases(record, boxes):
            groundings.append(Grounding(text=len(texts), boxes=(box,)))
            texts.append(phrase)
        false: dict[int, tuple[int, ...]] = {}
        if self.negatives:
            rng = generator("scenes-negatives", self.seed, self.split, index)
            for caption, claim in zip(captions, record.captions, strict=True):
                wrong = sorted({say(changed).text for _, changed in negatives(claim, record.scene)})
                drawn = rng.sample(wrong, min(self.negatives, len(wrong)))
                false[caption] = tuple(range(len(texts), len(texts) + len(drawn)))
                texts += drawn
        return Sample(
            id=f"scenes-{self.split}-{self.seed}-{index}",
            images=(render(record.scene, self.image_size),),
            texts=tuple(texts),
            groundings=tuple(groundings),
            negatives=false,
        )

    def _draw(self, index: int, attempt: int) -> SceneRecord:
        rng = generator(self.name, self.seed, self.split, index, attempt)
        scene = draw_scene(rng, self.split)
        return SceneRecord(scene, draw_captions(rng, scene, self.captions))


def region_phrases(record: SceneRecord, boxes: tuple[Box, ...]) -> list[tuple[str, Box]]:
    """A noun phrase with its box for every thing, and the first caption's related pair with the box around both."""
    phrases = []
    for index, (thing, box) in enumerate(zip(record.scene.things, boxes, strict=True)):
        texture = None if thing.texture == "plain" else thing.texture
        phrases.append((f"the {Mention(index, thing.colour, thing.shape, thing.size, texture).words()}", box))
    claim = next((c for c in record.captions if c.stated), None)
    if claim is not None:
        a, b, _, words = claim.stated[0]
        first, second = claim.mentions[a], claim.mentions[b]
        one, other = boxes[first.thing], boxes[second.thing]
        around = (min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))
        phrases.append((f"a {first.words()} {words} a {second.words()}", around))
    return phrases


def _distinct_attempts(scenes: Scenes) -> list[int]:
    """For each index the first attempt whose captions are false of all earlier scenes, and whose scene makes all
    earlier captions false."""
    attempts: list[int] = []
    by_look: dict[tuple[str, str], list[SceneRecord]] = {}
    for index in range(scenes.size):
        attempt = 0
        while not _is_new(record := scenes._draw(index, attempt), by_look):
            attempt += 1
        attempts.append(attempt)
        for thing in record.scene.things:
            by_look.setdefault((thing.colour, thing.shape), []).append(record)
    return attempts


def _is_new(record: SceneRecord, by_look: dict[tuple[str, str], list[SceneRecord]]) -> bool:
    alike = {id(r): r for t in record.scene.things for r in by_look.get((t.colour, t.shape), ())}.values()
    return not any(
        any(true_of(claim, other.scene) for claim in record.captions)
        or any(true_of(claim, record.scene) for claim in other.captions)
        for other in alike
    )
