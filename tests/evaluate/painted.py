"""Pictures of coloured rectangles, and what finds them: for tests of whatever asks a detector."""

from dataclasses import dataclass

import torch

from wordregion.data.prompts import ABSENT
from wordregion.data.tokens import Tokenizer
from wordregion.detector import Found, Question
from wordregion.schema import Batch, Box, Grounding, Sample

TOKENIZER = Tokenizer("scenes", max_tokens=12, clean=False)
COLOURS = {"red": 0, "green": 1, "blue": 2}
CLASSES = ("red circle", "green_square", "blue star")
PLACES: tuple[Box, ...] = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 0.75), (0.25, 0.75, 0.5, 1.0))


def plain(sample: Sample, rng: object = None) -> Sample:
    return sample


def painted(number: int) -> tuple[torch.Tensor, list[tuple[str, Box]]]:
    """A picture of 40 x 20 to 40 x 32 pixels; picture n shows n % 4 of the three classes."""
    image = torch.zeros(3, 20 + 4 * (number % 4), 40)
    shown = []
    for place in range(number % 4):
        name = CLASSES[(number + place) % 3]
        box = PLACES[place]
        height, width = image.shape[1:]
        rows = slice(round(box[1] * height), round(box[3] * height))
        columns = slice(round(box[0] * width), round(box[2] * width))
        image[COLOURS[name.replace("_", " ").split()[0]], rows, columns] = 1
        shown.append((name, box))
    return image, shown


@dataclass(frozen=True)
class Detections:
    """A detection set that knows its classes; no file in COCO's layout."""

    size: int = 9
    name: str = "painted"
    classes: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return self.size

    def where(self, index: int) -> str:
        return f"painted, record {index}"

    def __getitem__(self, index: int) -> Sample:
        image, shown = painted(index)
        groundings = tuple(Grounding(text=i, boxes=(box,)) for i, (_, box) in enumerate(shown))
        return Sample(f"n{index}", (image,), tuple(name for name, _ in shown), groundings, {ABSENT: CLASSES})


@dataclass(frozen=True)
class Captions(Detections):
    """One caption that names what is shown, in spans; the types are the colours."""

    def __getitem__(self, index: int) -> Sample:
        image, shown = painted(index)
        text, groundings, types = "", [Grounding(text=0)], []
        for name, box in shown:
            text += (" above " if text else "") + name.replace("_", " ")
            groundings.append(Grounding(text=0, span=(len(text) - len(name), len(text)), boxes=(box,)))
            types.append((name.replace("_", " ").split()[0],))
        return Sample(f"n{index}", (image,), (text or "a star",), tuple(groundings), {"types": tuple(types)})


class Seeing:
    """Answers with the box around all pixels of the colour that a phrase begins with, and a poor second box.

    It counts how many pictures it was shown, as what an encoder would have to encode.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.prompts: list[str] = []

    def __call__(self, batch: Batch, questions: list[Question]) -> list[Found]:
        self.pictures += len(batch.image)
        return [self.answer(batch, *question) for question in questions]

    def answer(self, batch: Batch, place: int, prompt) -> Found:
        self.prompts.append(prompt.text)
        height, width = batch.image_size[place].tolist()
        rows = []
        for label, (begin, end) in prompt.spans.items():
            colour = prompt.text[begin:end].split()[0]
            if colour not in COLOURS:
                continue
            ys, xs = torch.nonzero(batch.image[place, COLOURS[colour], :height, :width] > 0.5, as_tuple=True)
            if len(xs):
                box = [xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height]
                rows += [(label, torch.stack(box), 0.9), (label, torch.tensor([0.0, 0.0, 0.1, 0.1]), 0.2)]
        if not rows:
            return Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
        part = Found(
            torch.stack([box for _, box, _ in rows]),
            torch.tensor([score for _, _, score in rows]),
            torch.tensor([label for label, _, _ in rows]),
        )
        return Found.joined([part])
