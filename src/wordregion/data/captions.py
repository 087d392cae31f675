"""Collation for captioning: a prompt, then a caption, as one text to predict from left to right."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from wordregion.data.collate import Item, different_captions, stack_images, targets
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.schema import Batch, Sample

PROMPT = "a picture of"
"""X-VLM's and BLIP's."""


@dataclass(frozen=True)
class CaptionCollator:
    """One caption of each sample, drawn, behind the prompt; the sample's first image.

    ``Batch.labels`` holds the caption's own tokens and its end; the prompt is given, not predicted. The target
    ``references`` holds all different captions of each image.

    Attributes:
        tokenizer: one that ends texts with [SEP].
        prompt: how every caption begins; may be empty.
    """

    tokenizer: Tokenizer
    prompt: str = PROMPT

    def __post_init__(self) -> None:
        if not self.tokenizer.sep:
            raise UsageError("captions need an end to predict. Build the Tokenizer with sep=True.")
        if len(self.prompt_ids) + 2 > self.tokenizer.max_tokens:
            raise UsageError(
                f"max_tokens={self.tokenizer.max_tokens} leaves no room behind the prompt '{self.prompt}'. Raise it."
            )

    @cached_property
    def prompt_ids(self) -> Tensor:
        """(M,) tokens that every caption begins with, [CLS] first."""
        return prompt_tokens(self.tokenizer, self.prompt)

    def check(self, sample: Sample, where: str) -> None:
        """Raises DataError if a sample has no caption of the whole image."""
        different_captions(sample, where)

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator); the generators draw the captions."""
        samples = [sample for _, sample, _ in items]
        captions = [different_captions(sample, sample.id) for sample in samples]
        drawn = [int(rng.choice(own)) for own, (_, _, rng) in zip(captions, items, strict=True)]
        texts = [f"{self.prompt} {s.texts[text]}" for s, text in zip(samples, drawn, strict=True)]
        encoded = self.tokenizer(texts)
        own = encoded.mask & (torch.arange(encoded.ids.shape[1]) >= len(self.prompt_ids))
        references = [tuple(s.texts[text] for text in found) for s, found in zip(samples, captions, strict=True)]
        return Batch(
            image=stack_images([image for s in samples if isinstance(image := s.images[0], Tensor)]),
            image_key=torch.tensor([index for index, _, _ in items]),
            token_ids=encoded.ids,
            token_mask=encoded.mask,
            text_image=torch.arange(len(samples)),
            labels=torch.where(own, encoded.ids, -100),
            target=targets(samples) | {"references": references, "id": [s.id for s in samples]},
            skipped=tuple(skipped),
        )


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> Int[Tensor, "M"]:
    """The tokens that every caption begins with, [CLS] first, without an end."""
    encoded = tokenizer([prompt])
    return encoded.ids[0, : -1 if tokenizer.sep else None]
