"""The built-in scenes as referring expressions: each thing's phrase is a text of the picture, and has a box."""

from wordregion.data.scene_graph import Split
from wordregion.data.scene_render import box_of, render
from wordregion.data.scene_text import say
from wordregion.data.scenes import Scenes, region_phrases
from wordregion.schema import Grounding, Sample


class ScenePhrases:
    """A phrase for every thing of a scene, one for two things in a relation, and captions (`Dataset`).

    Every text is a caption of the whole picture, as weak supervision reads it. A thing's phrase, which is true of no
    other thing of its scene, has a box too. ``target["proposals"]`` holds the boxes of all things.

    Args:
        split: "train" or "val".
        size: number of scenes; scene i is the one of `Scenes`.
        seed: another seed, other scenes.
        image_size: pixels of a side of the square pictures.
        captions: captions a scene, 1 to 5.

    Raises:
        UsageError: for an unknown split, or sizes out of range.
    """

    name = "scene phrases"

    def __init__(
        self, split: Split = "train", size: int = 20000, seed: int = 0, image_size: int = 128, captions: int = 1
    ) -> None:
        self.scenes = Scenes(split, size, seed, image_size, captions)

    def __len__(self) -> int:
        return len(self.scenes)

    def where(self, index: int) -> str:
        """Names a record in reports."""
        return self.scenes.where(index)

    def __getitem__(self, index: int) -> Sample:
        record = self.scenes.record(index)
        boxes = tuple(box_of(thing) for thing in record.scene.things)
        phrases = region_phrases(record, boxes)
        texts = [text for text, _ in phrases] + [say(claim).text for claim in record.captions]
        groundings = [Grounding(text=i) for i in range(len(texts))]
        groundings += [Grounding(text=i, boxes=(box,)) for i, box in enumerate(boxes)]
        return Sample(
            id=f"phrases-{self.scenes.split}-{self.scenes.seed}-{index}",
            images=(render(record.scene, self.scenes.image_size),),
            texts=tuple(texts),
            groundings=tuple(groundings),
            target={"proposals": boxes},
        )
