"""Crops around an element of a picture: how X-VLM trains on regions (its data code).

Shape letters: H, W pixels.
"""

import math
import re
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from wordregion.data.randaugment import COLOURS, move_box, rand_augment
from wordregion.data.regions import region_texts
from wordregion.data.transforms import CLIP_MEAN, CLIP_STD, TrainTransform, Triple, picture_of, to_tensor
from wordregion.errors import UsageError
from wordregion.schema import Box, Grounding, Sample

_SIDES = re.compile(r"\b(left|right)(most|ward|wards)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class RegionTransform:
    """A crop drawn around one region, a careful flip, colours, normalisation.

    One region is drawn; the crop's edges are drawn between it and the edges of the picture, so that it is wholly in.
    Another box stays if more than half of it is in the crop, cut off at the edges; a grounding that loses all its boxes
    is dropped, its text with it. A sample one of whose texts says "left" or "right" isn't flipped (the original's
    ``careful_hflip``, there also for "bright").

    Attributes:
        image_size: side in pixels.
        flip: probability of a horizontal flip.
        randaugment: (operations, magnitude) of colour operations, which move nothing; or None.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
    """

    image_size: int
    flip: float = 0.5
    randaugment: tuple[int, int] | None = (2, 7)
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __post_init__(self) -> None:
        if self.image_size < 1 or min(self.std) <= 0 or not 0 <= self.flip <= 1:
            raise UsageError(f"{self}: image_size and std above 0, flip in [0, 1] must hold. Correct the recipe.")
        if self.randaugment is not None and not (self.randaugment[0] >= 0 and 0 <= self.randaugment[1] <= 10):
            raise UsageError(f"randaugment={self.randaugment}: give (operations >= 0, magnitude 0..10), or None.")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample, its one image a float tensor (3, image_size, image_size).

        Without a region the whole picture is taken.
        """
        picture = picture_of(sample.images[0])
        regions = list(region_texts(sample))
        crop = crop_around(regions[int(rng.integers(len(regions)))], picture.size, rng) if regions else None
        crop = crop or (0, 0, *picture.size)
        flip = bool(rng.random() < self.flip) and not any(_SIDES.search(text) for text in sample.texts)
        picture = picture.resize((self.image_size,) * 2, Image.Resampling.BICUBIC, box=crop, reducing_gap=2.0)
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.randaugment is not None:
            picture, _ = rand_augment(picture, [], rng, *self.randaugment, operations=COLOURS)
        size = picture_of(sample.images[0]).size
        groundings = [moved for g in sample.groundings if (moved := _moved(g, crop, size, flip)) is not None]
        pixels = to_tensor(picture, self.mean, self.std)
        return replace(sample, images=(pixels,), groundings=tuple(groundings))


@dataclass(frozen=True)
class ByKind:
    """One transform for samples whose texts have regions, and another for all others: for mixtures.

    Attributes:
        regions: of samples with a text about a region.
        images: of the others.
    """

    regions: RegionTransform
    images: TrainTransform

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample."""
        return self.regions(sample, rng) if region_texts(sample) else self.images(sample, rng)


def crop_around(box: Box, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A crop in pixels that holds a box: each edge is drawn uniformly between the box and the picture's edge.

    Args:
        box: xyxy in [0, 1].
        size: width and height of the picture in pixels.
        rng: draws the edges.
    """
    width, height = size
    left, top = math.floor(box[0] * width + 1e-6), math.floor(box[1] * height + 1e-6)
    right, bottom = math.ceil(box[2] * width - 1e-6), math.ceil(box[3] * height - 1e-6)
    x0, y0 = int(rng.integers(0, left + 1)), int(rng.integers(0, top + 1))
    x1, y1 = int(rng.integers(min(right, width), width + 1)), int(rng.integers(min(bottom, height), height + 1))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _moved(
    grounding: Grounding, crop: tuple[int, int, int, int], size: tuple[int, int], flip: bool
) -> Grounding | None:
    if not grounding.boxes:
        return grounding
    x, y = size[0] / (crop[2] - crop[0]), size[1] / (crop[3] - crop[1])
    affine = (x, 0.0, -crop[0] / size[0] * x, 0.0, y, -crop[1] / size[1] * y)
    boxes = [box for box in (move_box(box, affine) for box in grounding.boxes) if box is not None]
    if flip:
        boxes = [(1 - x1, y0, 1 - x0, y1) for x0, y0, x1, y1 in boxes]
    return replace(grounding, boxes=tuple(boxes)) if boxes else None
