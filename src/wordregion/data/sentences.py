"""Collation for tasks with one sentence a sample: entailment, questions, statements about two pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wordregion.data.collate import Item, image_keys, stack_images, targets
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Batch, Sample


@dataclass(frozen=True)
class SentenceCollator:
    """The first text of each sample, all its images, and its targets.

    `Batch.text_image` points at the first image of the sample; further images follow it in order. With `answers`, the
    target ``"answers"`` ({answer: weight}) becomes four tensors, A answers over all samples: ``answer_ids`` (A, M) and
    ``answer_mask`` (A, M) of the tokenised answers, ``answer_weight`` (A,), ``answer_text`` (A,) the question's row.

    Attributes:
        tokenizer: of the sentences.
        needs: names of the targets that every sample must have.
        answers: tokenizer of the answers, or None.
        images: how many images every sample must have.
        pad_to_max: pad to the tokenizer's `max_tokens` instead of the longest text (one shape: for compilation).
    """

    tokenizer: Tokenizer
    needs: tuple[str, ...] = ()
    answers: Tokenizer | None = None
    images: int = 1
    pad_to_max: bool = False

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UsageError(f"images={self.images}: must be at least 1. Correct the recipe.")

    def check(self, sample: Sample, where: str) -> None:
        """Raises DataError unless the sample has a sentence, the right number of images and its targets."""
        if not sample.texts:
            raise DataError(where, "texts", "no sentence", "Add one, or leave the record out")
        if len(sample.images) != self.images:
            problem = f"{len(sample.images)} images instead of {self.images}"
            raise DataError(where, "images", problem, "Correct the record, or use the task that fits it")
        for name in (*self.needs, *(("answers",) if self.answers else ())):
            if not sample.target.get(name) and sample.target.get(name) != 0:
                raise DataError(where, name, "is missing or empty", "Add it, or leave the record out")

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator); draws nothing."""
        samples = [sample for _, sample, _ in items]
        encoded = self.tokenizer([sample.texts[0] for sample in samples], self.pad_to_max)
        images = [image for sample in samples for image in sample.images if isinstance(image, Tensor)]
        counts = torch.tensor([len(sample.images) for sample in samples])
        return Batch(
            image=stack_images(images),
            image_key=image_keys(items),
            token_ids=encoded.ids,
            token_mask=encoded.mask,
            text_image=counts.cumsum(0) - counts,
            target=targets(samples) | (self._answers(samples) if self.answers else {}),
            skipped=tuple(skipped),
        )

    def _answers(self, samples: Sequence[Sample]) -> dict[str, Any]:
        assert self.answers is not None
        rows = [(row, text, weight) for row, s in enumerate(samples) for text, weight in s.target["answers"].items()]
        encoded = self.answers([text for _, text, _ in rows])
        return {
            "answer_ids": encoded.ids,
            "answer_mask": encoded.mask,
            "answer_weight": torch.tensor([float(weight) for _, _, weight in rows]),
            "answer_text": torch.tensor([row for row, _, _ in rows]),
        }
