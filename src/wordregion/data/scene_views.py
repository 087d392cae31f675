"""Questions, entailment, image pairs and hard negatives on the procedural scenes: one small `Dataset` each.

Samples come in groups that say exactly the same words about different pictures and have different labels, so that
no model of the text alone can do better than chance. In the groups of the kinds "relation", "binding" and "spatial"
the pictures also show the same attributes: a bag of words with a bag of attributes can't answer either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from PIL.Image import Image

from wordregion.data.datasets.snli_ve import RELATIONS
from wordregion.data.scene_graph import Split, check_settings, generator, valid
from wordregion.data.scene_groups import Item, draw_entailment, draw_negatives, draw_pairs, draw_questions
from wordregion.data.scene_render import render
from wordregion.data.scene_text import HYPOTHESES, QUESTIONS, STATEMENTS
from wordregion.schema import Grounding, Sample

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
        self.groups = Groups(self.name, 2, self.kinds, draw_questions, split, size, seed, image_size)

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
    """Does the picture entail the sentence (`Dataset`)? target {"label": 0 contradiction | 1 neutral | 2 entailment}.

    Neutral is what a closed gift box in the picture may hide. Two things of a scene never share colour and shape, in
    the box or out of it. Samples 3k to 3k + 2 have the same sentence and the labels 2, 1, 0. The target also has
    "kind", and "premise", a true caption of what is visible. Arguments and errors are those of `SceneQuestions`.
    """

    name = "scene_entailment"
    kinds = tuple(HYPOTHESES)

    def __init__(self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128) -> None:
        self.groups = Groups(self.name, 3, self.kinds, draw_entailment, split, size, seed, image_size)

    def __len__(self) -> int:
        return self.groups.size

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.groups.where(index)

    def __getitem__(self, index: int) -> Sample:
        item = self.groups.item(index)
        label = RELATIONS.index(("entailment", "neutral", "contradiction")[int(item.answer)])
        target = {"label": label, "kind": self.groups.kind(index), "premise": item.texts[1]}
        return Sample(self.groups.identity(index), self.groups.images(item), item.texts[:1], target=target)


class ScenePairs:
    """Is the sentence true of the two pictures (left, right; `Dataset`)? target {"label": 1 true | 0 false, "kind"}.

    Samples 2k and 2k + 1 have the same sentence, the first is true; the target's "sentence" is its number, k.
    Arguments and errors: see `SceneQuestions`.
    """

    name = "scene_pairs"
    kinds = tuple(STATEMENTS)

    def __init__(self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128) -> None:
        self.groups = Groups(self.name, 2, self.kinds, draw_pairs, split, size, seed, image_size)

    def __len__(self) -> int:
        return self.groups.size

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.groups.where(index)

    def __getitem__(self, index: int) -> Sample:
        item = self.groups.item(index)
        target = {"label": item.answer, "kind": self.groups.kind(index), "sentence": index // self.groups.each}
        return Sample(self.groups.identity(index), self.groups.images(item), item.texts, target=target)


class SceneNegatives:
    """A true caption, texts[0], and a false one in the same words, texts[1] (`Dataset`): target {"label": 0, "kind"}.

    Kind "attribute": two things have exchanged a colour, shape, size or texture; "relation": they have changed places.
    Only the true caption is a grounding of the picture. Arguments and errors: see `SceneQuestions`.
    """

    name = "scene_negatives"
    kinds = ("attribute", "relation")

    def __init__(self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128) -> None:
        self.groups = Groups(self.name, 1, self.kinds, draw_negatives, split, size, seed, image_size)

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
