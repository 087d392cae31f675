"""Pictures at their own aspect ratio: what detectors train on and look at (GLIP, appendix B).

Shape letters: H, W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from wordregion.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Triple,
    picture_of,
    swap_sides,
    swapped_span,
    to_tensor,
)
from wordregion.errors import UsageError
from wordregion.schema import Sample

Prompter = Callable[[Sample, np.random.Generator], Sample]


def fitted_size(width: int, height: int, shorter: int, longest: int) -> tuple[int, int]:
    """Width and height with the shorter side at `shorter`, or below it where the longer side would pass `longest`.

    The ratio is kept; fractions are cut off, as GLIP's code does.
    """
    low, high = min(width, height), max(width, height)
    if high / low * shorter > longest:
        shorter = max(1, round(longest * low / high))
    if low == shorter:
        return width, height
    if width < height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


@dataclass(frozen=True)
class GroundTransform:
    """Training: prompt, flip, resize to a drawn size, normalise. Boxes in [0, 1] don't change when a picture scales.

    A flip exchanges the words "left" and "right" in texts.

    Attributes:
        prompter: makes prompts of detection samples (`DetectionPrompts`), or None.
        shorter: pixels of the shorter side, one of which is drawn for each picture.
        longest: pixels of the longer side, at most.
        flip: probability of a horizontal flip.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
    """

    prompter: Prompter | None = None
    shorter: tuple[int, ...] = (480, 560, 640, 720, 800)
    longest: int = 1333
    flip: float = 0.5
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        _check(self.shorter, self.longest)
        if not 0 <= self.flip <= 1:
            raise UsageError(f"flip={self.flip}: give a probability, 0 to 1. Correct the recipe.")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample with float images (3, H, W), each of its own size."""
        if self.prompter is not None:
            sample = self.prompter(sample, rng)
        if rng.random() < self.flip:
            sample = flipped(sample)
        side = int(rng.choice(self.shorter))
        images = tuple(_resized(picture_of(image), side, self.longest, self.mean, self.std) for image in sample.images)
        return replace(sample, images=images)


@dataclass(frozen=True)
class GroundEvalTransform:
    """Resizes to one size and normalises. Boxes and texts stay as they are.

    Attributes:
        shorter: pixels of the shorter side.
        longest: pixels of the longer side, at most.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
    """

    shorter: int = 800
    longest: int = 1333
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        _check((self.shorter,), self.longest)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """The sample with float images (3, H, W), each of its own size."""
        images = tuple(
            _resized(picture_of(image), self.shorter, self.longest, self.mean, self.std) for image in sample.images
        )
        return replace(sample, images=images)


def flipped(sample: Sample) -> Sample:
    """A sample seen in a mirror: pictures, boxes, and the words "left" and "right" in its texts."""
    images = tuple(picture_of(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in sample.images)
    groundings = tuple(
        replace(
            g,
            boxes=tuple((1 - x1, y0, 1 - x0, y1) for x0, y0, x1, y1 in g.boxes),
            span=None if g.span is None else swapped_span(sample.texts[g.text], g.span),
        )
        for g in sample.groundings
    )
    return replace(sample, images=images, texts=tuple(map(swap_sides, sample.texts)), groundings=groundings)


def _resized(picture: Image.Image, shorter: int, longest: int, mean: Triple, std: Triple) -> Tensor:
    size = fitted_size(*picture.size, shorter, longest)
    return to_tensor(picture.resize(size, Image.Resampling.BILINEAR), mean, std)


def _check(shorter: tuple[int, ...], longest: int) -> None:
    if not shorter or min(shorter) < 1 or longest < max(shorter):
        raise UsageError(
            f"shorter={shorter}, longest={longest}: 1 <= shorter <= longest must hold. Correct the recipe."
        )
