"""The built-in scenes as a detection set of a hundred classes, some of whose names training never says."""

from wordregion.data.prompts import ABSENT
from wordregion.data.scene_graph import COLOURS, SHAPES, Split
from wordregion.data.scene_render import box_of, render
from wordregion.data.scenes import Scenes
from wordregion.errors import UsageError
from wordregion.schema import Box, Grounding, Sample

Names = str
"""``"seen"``, ``"unseen"`` or ``"all"``; anything else is refused with a `UsageError`."""
_PAIRS = tuple((c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES)))
_KEPT_BACK = 5


def scene_classes(names: Names = "all") -> tuple[str, ...]:
    """ "red circle" and so on. "unseen" is every fifth: each colour and each shape occurs in "seen" ones too."""
    chosen = {"seen": (False,), "unseen": (True,), "all": (False, True)}
    if names not in chosen:
        raise UsageError(f"scene classes: names is {names!r}. Use 'seen', 'unseen' or 'all'.")
    return tuple(f"{COLOURS[c]} {SHAPES[s]}" for c, s in _PAIRS if ((c + s) % _KEPT_BACK == 0) in chosen[names])


class SceneDetections:
    """Boxes by class name (`Dataset`): a text is a colour and a shape, its grounding holds the box of that thing.

    Things of other classes than `names` stand in the pictures too, but have no box and are not asked for.

    Args:
        split: "train" or "val".
        size: number of scenes; scene i is the one of `Scenes`.
        seed: another seed, other scenes.
        image_size: pixels of a side of the square pictures.
        names: which classes.

    Attributes:
        classes: their names.

    Raises:
        UsageError: for an unknown split or choice of classes, or sizes out of range.
    """

    name = "scene detections"

    def __init__(
        self,
        split: Split = "train",
        size: int = 20000,
        seed: int = 0,
        image_size: int = 128,
        names: Names = "all",
    ) -> None:
        self.scenes, self.classes = Scenes(split, size, seed, image_size, captions=1), scene_classes(names)

    def __len__(self) -> int:
        return len(self.scenes)

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.scenes.where(index)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes.record(index).scene
        boxes: dict[str, Box] = {f"{thing.colour} {thing.shape}": box_of(thing) for thing in scene.things}
        shown = {name: box for name, box in boxes.items() if name in self.classes}
        return Sample(
            id=f"detections-{self.scenes.split}-{self.scenes.seed}-{index}",
            images=(render(scene, self.scenes.image_size),),
            texts=tuple(shown),
            groundings=tuple(Grounding(text=i, boxes=(box,)) for i, box in enumerate(shown.values())),
            target={ABSENT: tuple(name for name in self.classes if name not in shown)},
        )
