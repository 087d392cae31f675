"""Samples to a flat, index-linked batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wordregion.data.regions import region_texts
from wordregion.data.tokens import Masking, Tokenizer, WordMasking
from wordregion.errors import DataError, UsageError
from wordregion.schema import Batch, Box, Sample

Item = tuple[int, Sample, np.random.Generator]
IMAGES_APART = 1 << 40
"""Between the keys of two images of a record."""


@runtime_checkable
class Collates(Protocol):
    """Turns samples into a batch: `Collator` for captions and groundings, `SentenceCollator` for one sentence each."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the texts."""
        ...

    def check(self, sample: Sample, where: str) -> None:
        """Raises DataError if a sample, before its transform, lacks what the batch needs."""
        ...

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator)."""
        ...


@dataclass(frozen=True)
class Collator:
    """Draws captions and texts of regions, tokenises, masks and links.

    Attributes:
        tokenizer: turns texts to ids.
        masking: how words are masked; None = no masked copy.
        texts_per_image: different captions drawn of each image; all if it has fewer; None = all, in their order.
        pad_to_max: pad to the tokenizer's `max_tokens` instead of the longest text (one shape: for compilation).
        negatives: false texts drawn of each caption from `Sample.negatives`; all if it has fewer.
        regions: regions drawn of each image, each with one of its texts; a drawn caption takes the place of one
            (X-VLM's code: 5). With regions, a sample needs a caption or a region.
        pairs: how many texts a batch has exactly, as processes that exchange them need it: too many are left out at
            random, too few are repeated (X-VLM: 128 a GPU); None = as many as there are.
    """

    tokenizer: Tokenizer
    masking: Masking | WordMasking | None = None
    texts_per_image: int | None = 1
    pad_to_max: bool = False
    negatives: int = 0
    regions: int = 0
    pairs: int | None = None

    def __post_init__(self) -> None:
        if self.regions < 0 or (self.pairs is not None and self.pairs < 1):
            raise UsageError(f"Collator: regions={self.regions}, pairs={self.pairs} is too small. Correct the recipe.")
        if self.negatives < 0:
            raise UsageError(f"Collator: negatives={self.negatives} is below 0. Correct the recipe.")
        if self.texts_per_image is not None and self.texts_per_image < 1:
            raise UsageError(f"texts_per_image={self.texts_per_image}: must be at least 1. Correct the recipe.")

    def check(self, sample: Sample, where: str) -> None:
        """Raises DataError if a sample has no caption of the whole image; where regions are drawn, neither of one."""
        if not self.regions or not region_texts(sample):
            different_captions(sample, where)

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator); the generators draw texts and masks."""
        owner = [(position, text) for position, item in enumerate(items) for text in self._drawn(item)]
        owner = self._exactly(owner, items)
        texts = [items[position][1].texts[text] for position, text in owner]
        counts = torch.tensor([len(sample.images) for _, sample, _ in items])
        first_image = (counts.cumsum(0) - counts).tolist()
        text_image = [first_image[position] for position, _ in owner]
        images = [image for _, sample, _ in items for image in sample.images if isinstance(image, Tensor)]
        false, false_of = self._negatives(items, owner)
        everything = self.tokenizer([*texts, *false], self.pad_to_max)  # together: all are equally long
        encoded = everything.rows(0, len(texts))
        masked, labels = encoded.ids, None
        if self.masking is not None:
            rows = [
                self.masking(ids, self.tokenizer, items[position][2])
                for ids, (position, _) in zip(encoded.ids, owner, strict=True)
            ]
            masked, labels = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        grounding_text: list[int] = []
        grounding_tokens: list[Tensor] = []
        boxes: list[Box] = []
        box_grounding: list[int] = []
        for row, (position, text) in enumerate(owner):
            for grounding in items[position][1].groundings:
                span = grounding.span
                if grounding.text != text or (span is None and not grounding.boxes):  # a caption of the whole image
                    continue
                tokens = encoded.mask[row] if span is None else encoded.tokens_of_span(row, span)
                if not tokens.any():  # the phrase was cut off with the end of its text
                    continue
                box_grounding.extend([len(grounding_text)] * len(grounding.boxes))
                boxes.extend(grounding.boxes)
                grounding_text.append(row)
                grounding_tokens.append(tokens)
        length = encoded.ids.shape[1]
        special = torch.tensor(sorted(self.tokenizer.special_ids))
        return Batch(
            image=stack_images(images),
            image_key=image_keys(items),
            token_ids=encoded.ids,
            token_mask=encoded.mask,
            text_image=torch.tensor(text_image),
            masked_ids=masked if labels is not None else None,
            labels=labels,
            words=None if labels is None else encoded.mask & ~torch.isin(encoded.ids, special),
            negative_ids=everything.ids[len(texts) :] if self.negatives else None,
            negative_mask=everything.mask[len(texts) :] if self.negatives else None,
            negative_text=torch.tensor(false_of, dtype=torch.long) if self.negatives else None,
            grounding_text=torch.tensor(grounding_text, dtype=torch.long),
            grounding_tokens=torch.stack(grounding_tokens) if grounding_tokens else torch.zeros(0, length).bool(),
            box=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            box_grounding=torch.tensor(box_grounding, dtype=torch.long),
            target=targets([sample for _, sample, _ in items]),
            skipped=tuple(skipped),
        )

    def _drawn(self, item: Item) -> list[int]:
        """Texts of one sample: captions, then a text of each drawn region."""
        _, sample, rng = item
        regions = list(region_texts(sample).values()) if self.regions else []
        captions = different_captions(sample, sample.id) if sample.captions() or not self.regions else []
        if self.texts_per_image is not None:
            count = min(self.texts_per_image, len(captions))
            captions = [int(text) for text in rng.choice(captions, count, replace=False)] if count else []
        count = min(max(self.regions - len(captions), 0), len(regions))
        chosen = rng.choice(len(regions), count, replace=False) if count else ()
        return captions + [int(rng.choice(regions[number])) for number in chosen]

    def _exactly(self, owner: list[tuple[int, int]], items: Sequence[Item]) -> list[tuple[int, int]]:
        """As many texts as `pairs` says, by draws of a child of the first record's generator."""
        if self.pairs is None or len(owner) == self.pairs:
            return owner
        rng = items[0][2].spawn(1)[0]
        if len(owner) > self.pairs:
            return [owner[i] for i in sorted(rng.choice(len(owner), self.pairs, replace=False).tolist())]
        more = rng.choice(len(owner), self.pairs - len(owner), replace=self.pairs > 2 * len(owner))
        return owner + [owner[int(i)] for i in more]

    def _negatives(self, items: Sequence[Item], owner: Sequence[tuple[int, int]]) -> tuple[list[str], list[int]]:
        """False texts of the drawn captions, and the row of the caption that each belongs to.

        Drawn by a child of a record's generator: captions and masks are the same with negatives and without.
        """
        false: list[str] = []
        rows: list[int] = []
        draws = [rng.spawn(1)[0] for _, _, rng in items] if self.negatives else []
        for row, (position, text) in enumerate(owner if self.negatives else ()):
            sample = items[position][1]
            choices = sample.negatives.get(text, ())
            if len(choices) > self.negatives:
                choices = tuple(draws[position].choice(choices, self.negatives, replace=False))
            false += [sample.texts[choice] for choice in choices]
            rows += [row] * len(choices)
        return false, rows


def different_captions(sample: Sample, where: str) -> list[int]:
    """Indices of the captions of the whole image, the first of each wording. Raises DataError if there is none."""
    first: dict[str, int] = {}
    for text in sample.captions():
        first.setdefault(sample.texts[text], text)
    if not first:
        raise DataError(where, "texts", "no caption of the whole image", "Add one, or leave the record out")
    return list(first.values())


def stack_images(images: Sequence[Tensor]) -> Float[Tensor, "I 3 H W"]:
    """The images of a batch; those without pixels take no memory if all are (`EvalTransform.without_pixels`)."""
    if all(image.stride() == (0, 0, 0) for image in images):
        return torch.stack([image[:, :1, :1] for image in images]).expand(-1, *images[0].shape)
    return torch.stack(list(images))


def image_keys(items: Sequence[Item]) -> Tensor:
    """(I,) identity of each image: the record's index; for its j-th further image j x `IMAGES_APART` more."""
    return torch.tensor(
        [index + number * IMAGES_APART for index, sample, _ in items for number in range(len(sample.images))]
    )


def targets(samples: Sequence[Sample]) -> dict[str, Any]:
    """Labels by name, one entry a sample (None where it has none): a tensor if all are numbers, else a list."""
    columns = {name: [s.target.get(name) for s in samples] for name in sorted({n for s in samples for n in s.target})}
    return {
        name: torch.tensor(column) if all(isinstance(value, bool | int | float) for value in column) else column
        for name, column in columns.items()
    }
