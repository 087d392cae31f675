"""Any data set with boxes as texts of regions, each read by itself: what X-VLM trains on."""

from wordregion.schema import Box, Dataset, Grounding, Sample


class RegionTexts:
    """The captions of a data set, and a text of its own for everything that has boxes (`Dataset`).

    - A phrase of a caption ("two dogs") becomes the text of the region around all its boxes.
    - A whole text with several boxes, a class name of a detection set ("dog"), becomes one text for each box.

    Captions keep their place and their false captions, and lose their phrases; what is said twice of the same box is
    said once.

    Args:
        dataset: Flickr30k Entities, COCO's or OpenImages' boxes, ODVG, ...: whatever has boxes.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.name = dataset, dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def where(self, index: int) -> str:
        """As the data set says."""
        return self.dataset.where(index)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        texts = [sample.texts[text] for text in sample.captions()]
        groundings = [Grounding(text=row, image=_image_of(sample, text)) for row, text in enumerate(sample.captions())]
        seen: set[tuple[int, str, Box]] = set()
        for grounding in sample.groundings:
            text = sample.texts[grounding.text]
            phrase = text if grounding.span is None else text[slice(*grounding.span)].strip()
            boxes = grounding.boxes
            if grounding.span is not None and boxes:
                boxes = (around(boxes),)
            for box in boxes:
                if phrase and (key := (grounding.image, phrase.lower(), box)) not in seen:
                    seen.add(key)
                    groundings.append(Grounding(text=len(texts), boxes=(box,), image=grounding.image))
                    texts.append(phrase)
        negatives = {}
        for row, caption in enumerate(sample.captions()):
            if false := [sample.texts[text] for text in sample.negatives.get(caption, ())]:
                negatives[row] = tuple(range(len(texts), len(texts) + len(false)))
                texts += false
        return Sample(sample.id, sample.images, tuple(texts), tuple(groundings), negatives=negatives)


def around(boxes: tuple[Box, ...]) -> Box:
    """The smallest box that holds all of some boxes."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def region_texts(sample: Sample) -> dict[Box, list[int]]:
    """Texts that describe a region, by their box (around all boxes of the text), in order."""
    found: dict[Box, list[int]] = {}
    for grounding in sample.groundings:
        if grounding.span is None and grounding.boxes:
            found.setdefault(around(grounding.boxes), []).append(grounding.text)
    return found


def _image_of(sample: Sample, text: int) -> int:
    return next(g.image for g in sample.groundings if g.text == text and g.span is None and not g.boxes)
