"""The built-in scenes as a detection set, by names that training says and by names that it never does."""

from wordregion.data.prompts import ABSENT
from wordregion.data.scene_graph import COLOURS, SHAPES, Split
from wordregion.data.scene_render import box_of, render
from wordregion.data.scenes import Scenes
from wordregion.errors import UsageError
from wordregion.schema import Box, Grounding, Sample

Names = str
"""A key of `NAMES`; anything else is refused with a `UsageError`."""
_KEPT_BACK = 5
_RENAMED = ("disc", "tile", "delta", "spark", "hoop", "plus", "love", "gem", "nut", "crescent")
_PAIRS = {(c, s): f"{c} {s}" for c in COLOURS for s in SHAPES}
_UNSEEN = {(c, s) for i, c in enumerate(COLOURS) for j, s in enumerate(SHAPES) if (i + j) % _KEPT_BACK == 0}

NAMES: dict[Names, dict[tuple[str, str], str]] = {
    "all": _PAIRS,
    "seen": {look: name for look, name in _PAIRS.items() if look not in _UNSEEN},
    "unseen": {look: name for look, name in _PAIRS.items() if look in _UNSEEN},
    "shapes": {(c, s): s for c, s in _PAIRS},
    "renamed": {(c, s): _RENAMED[SHAPES.index(s)] for c, s in _PAIRS},
}
"""The class of a thing by its colour and shape.

``"all"`` are the hundred of "red circle" and so on; ``"unseen"`` is every fifth of them, so that each colour and each
shape occurs in ``"seen"`` ones too. ``"shapes"`` are the ten of "circle" and so on, and ``"renamed"`` the same by other
words, none of which any other text of the scenes has: "disc".
"""


def scene_classes(names: Names = "all") -> tuple[str, ...]:
    """The names of the classes, each once. Raises UsageError for an unknown choice."""
    return tuple(dict.fromkeys(_named(names).values()))


def _named(names: Names) -> dict[tuple[str, str], str]:
    if names not in NAMES:
        raise UsageError(f"scene classes: names is {names!r}. Use one of: {', '.join(NAMES)}.")
    return NAMES[names]


class SceneDetections:
    """Boxes by class name (`Dataset`): a text is a class, its grounding holds the boxes of the things of that class.

    Things of other classes than `names` stand in the pictures too, but have no box and are not asked for.

    Args:
        split: "train" or "val".
        size: number of scenes; scene i is the one of `Scenes`.
        seed: another seed, other scenes.
        image_size: pixels of a side of the square pictures.
        names: which classes, a key of `NAMES`.

    Attributes:
        name: says which classes.
        classes: their names.

    Raises:
        UsageError: for an unknown split or choice of classes, or sizes out of range.
    """

    def __init__(
        self,
        split: Split = "train",
        size: int = 20000,
        seed: int = 0,
        image_size: int = 128,
        names: Names = "all",
    ) -> None:
        self._class_of, self.classes = _named(names), scene_classes(names)
        self.name = f"scene detections ({names})"
        self.scenes = Scenes(split, size, seed, image_size, captions=1)

    def __len__(self) -> int:
        return len(self.scenes)

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.scenes.where(index)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes.record(index).scene
        shown: dict[str, list[Box]] = {}
        for thing in scene.things:
            if name := self._class_of.get((thing.colour, thing.shape)):
                shown.setdefault(name, []).append(box_of(thing))
        return Sample(
            id=f"detections-{self.scenes.split}-{self.scenes.seed}-{index}",
            images=(render(scene, self.scenes.image_size),),
            texts=tuple(shown),
            groundings=tuple(Grounding(text=i, boxes=tuple(boxes)) for i, boxes in enumerate(shown.values())),
            target={ABSENT: tuple(name for name in self.classes if name not in shown)},
        )
