"""Image, boxes and text changed together.

Shape letters: H, W pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from wordregion.data.randaugment import move_box, rand_augment
from wordregion.errors import UsageError
from wordregion.schema import Box, Grounding, Sample

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Triple = tuple[float, float, float]
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class EvalTransform:
    """Resizes to a square (aspect not kept, as ALBEF does) and normalises. Boxes and texts stay as they are.

    Attributes:
        image_size: side in pixels.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
    """

    image_size: int
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __post_init__(self) -> None:
        _check_pixels(self.image_size, self.std)

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """The sample with float images (3, image_size, image_size)."""
        size = (self.image_size, self.image_size)
        images = tuple(
            to_tensor(picture_of(image).resize(size, Image.Resampling.BICUBIC), self.mean, self.std)
            for image in sample.images
        )
        return replace(sample, images=images)

    def without_pixels(self, sample: Sample) -> Sample:
        """The same, in no time, with images of NaN: for records whose pixels are needed no more."""
        blank = torch.full((1, 1, 1), torch.nan).expand(3, self.image_size, self.image_size)
        return replace(sample, images=(blank,) * len(sample.images))


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop, flip, RandAugment, normalisation; boxes and texts move along (ALBEF, section 4).

    A flip exchanges the words "left" and "right" in texts and answers. A box survives a crop if more than half of it
    does; a grounding that loses all its boxes is dropped, never widened to the whole image. Texts are never dropped.

    Attributes:
        image_size: side in pixels.
        scale: share of the picture's area that a crop keeps, drawn uniformly.
        flip: probability of a horizontal flip.
        randaugment: (operations, magnitude), or None.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
    """

    image_size: int
    scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    randaugment: tuple[int, int] | None = (2, 7)
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __post_init__(self) -> None:
        _check_pixels(self.image_size, self.std)
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 <= self.flip <= 1:
            raise UsageError(f"{self}: 0 < scale <= 1 and 0 <= flip <= 1 must hold. Correct the recipe.")
        if self.randaugment is not None and not (self.randaugment[0] >= 0 and 0 <= self.randaugment[1] <= 10):
            raise UsageError(f"randaugment={self.randaugment}: give (operations >= 0, magnitude 0..10), or None.")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample with float images (3, image_size, image_size)."""
        images: list[Tensor] = []
        texts, groundings = sample.texts, sample.groundings
        flip = bool(rng.random() < self.flip)  # all images of a sample together, since their texts are shared
        for index, image in enumerate(sample.images):
            picture = picture_of(image)
            crop = random_crop(picture.width, picture.height, self.scale, rng)
            picture = picture.resize((self.image_size,) * 2, Image.Resampling.BICUBIC, box=crop, reducing_gap=2.0)
            boxes = [box for g in groundings if g.image == index for box in g.boxes]
            moved = _crop_boxes(boxes, crop, picture_of(image).size)
            if flip:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                moved = [None if b is None else (1 - b[2], b[1], 1 - b[0], b[3]) for b in moved]
            if self.randaugment is not None:
                kept = [b for b in moved if b is not None]
                picture, augmented = rand_augment(picture, kept, rng, *self.randaugment)
                rest = iter(augmented)
                moved = [None if b is None else next(rest) for b in moved]
            groundings = _replace_boxes(groundings, index, moved)
            images.append(to_tensor(picture, self.mean, self.std))
        if flip:
            groundings = tuple(
                g if g.span is None else replace(g, span=swapped_span(texts[g.text], g.span)) for g in groundings
            )
            texts = tuple(swap_sides(text) for text in texts)
        target = _swapped_answers(sample.target) if flip else sample.target
        return replace(sample, images=tuple(images), texts=texts, groundings=groundings, target=target)


def random_crop(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A crop box in pixels of random area share and aspect ratio 3/4 to 4/3 (Inception crop).

    Ten draws are tried; then the largest centred crop of a legal aspect ratio is taken.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return (left, top, left + w, top + h)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return (left, top, left + w, top + h)


def swap_sides(text: str) -> str:
    """Exchanges the words left and right, keeping their case."""
    return _SIDE.sub(lambda found: _other_side(found[0]), text)


def to_tensor(picture: Image.Image, mean: Triple, std: Triple) -> Float[Tensor, "3 H W"]:
    """RGB picture to float32 (3, H, W), ``(pixel / 255 - mean) / std``."""
    planes = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))  # as bytes: a third of the time
    scale, shift = 1 / (255 * torch.tensor(std)), torch.tensor(mean) / torch.tensor(std)
    return torch.from_numpy(planes).to(torch.float32).mul_(scale[:, None, None]).sub_(shift[:, None, None])


def _check_pixels(image_size: int, std: Triple) -> None:
    if image_size < 1 or min(std) <= 0:
        raise UsageError(f"image_size={image_size}, std={std}: all must be above 0. Correct the recipe.")


def picture_of(image: Image.Image | Tensor) -> Image.Image:
    """An image of a sample that no transform has seen yet. Raises TypeError for a tensor."""
    if isinstance(image, Tensor):
        raise TypeError("this sample's images are tensors already: a transform runs once, on decoded pictures")
    return image


def _other_side(word: str) -> str:
    other = "right" if word.lower() == "left" else "left"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def _swapped_answers(target: Mapping[str, Any]) -> Mapping[str, Any]:
    answers = target.get("answers")
    return target if not answers else {**target, "answers": {swap_sides(text): w for text, w in answers.items()}}


def swapped_span(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Where a span lies after `swap_sides`: every "left" before an end moves it by +1, every "right" by -1."""

    def moved(position: int) -> int:
        shift = 0
        for found in _SIDE.finditer(text):
            change = len(_other_side(found[0])) - len(found[0])
            if found.end() <= position:
                shift += change
            elif found.start() < position:  # inside the word: keep within its replacement
                return min(position, found.start() + len(_other_side(found[0]))) + shift
        return position + shift

    return moved(span[0]), moved(span[1])


def _crop_boxes(boxes: list[Box], crop: tuple[float, float, float, float], size: tuple[int, int]) -> list[Box | None]:
    left, top, right, bottom = crop[0] / size[0], crop[1] / size[1], crop[2] / size[0], crop[3] / size[1]
    width, height = right - left, bottom - top
    return [move_box(box, (1 / width, 0, -left / width, 0, 1 / height, -top / height)) for box in boxes]


def _replace_boxes(groundings: tuple[Grounding, ...], image: int, moved: list[Box | None]) -> tuple[Grounding, ...]:
    result, rest = [], iter(moved)
    for grounding in groundings:
        if grounding.image != image or not grounding.boxes:
            result.append(grounding)
            continue
        kept = tuple(box for box in (next(rest) for _ in grounding.boxes) if box is not None)
        if kept:
            result.append(replace(grounding, boxes=kept))
    return tuple(result)
