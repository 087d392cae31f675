"""Samples to a flat, index-linked batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from wordregion.data.tokens import Masking, Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Batch, Box, Sample

Item = tuple[int, Sample, np.random.Generator]


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
    """Draws captions, tokenises, masks and links.

    Attributes:
        tokenizer: turns texts to ids.
        masking: how words are masked; None = no masked copy.
        texts_per_image: different captions drawn of each image; all if it has fewer; None = all, in their order.
        pad_to_max: pad to the tokenizer's `max_tokens` instead of the longest text (one shape: for compilation).
        negatives: false texts drawn of each caption from `Sample.negatives`; all if it has fewer.
    """

    tokenizer: Tokenizer
    masking: Masking | None = None
    texts_per_image: int | None = 1
    pad_to_max: bool = False
    negatives: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise UsageError(f"Collator: negatives={self.negatives} is below 0. Correct the recipe.")
        if self.texts_per_image is not None and self.texts_per_image < 1:
            raise UsageError(f"texts_per_image={self.texts_per_image}: must be at least 1. Correct the recipe.")

    def check(self, sample: Sample, where: str) -> None:
        """Raises DataError if a sample has no caption of the whole image."""
        different_captions(sample, where)

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator); the generators draw texts and masks."""
        texts: list[str] = []
        text_image: list[int] = []
        owner: list[tuple[int, int]] = []
        images: list[Tensor] = []
        for position, (_, sample, rng) in enumerate(items):
            captions = different_captions(sample, sample.id)
            if self.texts_per_image is not None:
                count = min(self.texts_per_image, len(captions))
                captions = [int(text) for text in rng.choice(captions, count, replace=False)]
            for text in captions:
                texts.append(sample.texts[text])
                text_image.append(len(images))
                owner.append((position, text))
            images.extend(image for image in sample.images if isinstance(image, Tensor))
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
            image=torch.stack(images),
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


def image_keys(items: Sequence[Item]) -> Tensor:
    """(I,) identity of each image: the record's index; the j-th further image of a record has j x 2^40 added."""
    return torch.tensor([index + (number << 40) for index, sample, _ in items for number in range(len(sample.images))])


def targets(samples: Sequence[Sample]) -> dict[str, Any]:
    """Labels by name, one entry a sample (None where it has none): a tensor if all are numbers, else a list."""
    columns = {name: [s.target.get(name) for s in samples] for name in sorted({n for s in samples for n in s.target})}
    return {
        name: torch.tensor(column) if all(isinstance(value, bool | int | float) for value in column) else column
        for name, column in columns.items()
    }
