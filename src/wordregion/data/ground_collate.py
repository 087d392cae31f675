"""Collation for detection as grounding: pictures of different sizes, one text each, boxes linked to tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wordregion.data.collate import Item, image_keys
from wordregion.data.prompts import Span, prompt_room, split_caption, token_count, token_map
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Batch, Box, Grounding, Sample

MULTIPLE = 32
"""Padded sides are multiples of this, the coarsest stride that backbones cut pictures into."""


@dataclass(frozen=True)
class GroundCollator:
    """The first image of each sample with one of its texts, and the boxes of that text's phrases (GLIP, section 3).

    Of several texts one is drawn, among those with boxes if there are any. A text over the tokenizer's limit is cut
    between phrases, and one piece is drawn. A box that several phrases of the text share has the tokens of all of them:
    in ``Batch.grounding_tokens`` a row is a set of tokens, and each box belongs to one row.

    Attributes:
        tokenizer: of the texts; not cleaning, with a limit of 256 tokens in GLIP.
        multiple: padded sides are multiples of this.
    """

    tokenizer: Tokenizer
    multiple: int = MULTIPLE

    def check(self, sample: Sample, where: str) -> None:
        """Raises DataError if a sample has no text and no class to ask for, or a phrase longer than the limit."""
        if not sample.texts and not sample.target:
            raise DataError(where, "texts", "has none", "Add a caption, or leave the record out.")
        for number, text in enumerate(sample.texts):
            if len(text) <= prompt_room(self.tokenizer):  # a token has at least one character
                continue
            try:
                split_caption(text, _spans(sample, number), self.tokenizer)
            except UsageError as error:
                raise DataError(where, f"texts[{number}]", str(error).rstrip("."), "Shorten the phrase.") from error

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator); the generators draw texts and pieces."""
        chosen = [self._one_text(sample, rng) for _, sample, rng in items]
        encoded = self.tokenizer([text for text, _ in chosen])
        rows: dict[tuple[int, frozenset[Span]], int] = {}
        boxes: list[Box] = []
        box_row: list[int] = []
        for number, (text, groundings) in enumerate(chosen):
            spans_of: dict[Box, set[Span]] = {}
            for grounding in groundings:
                for box in grounding.boxes:
                    spans_of.setdefault(box, set()).add(grounding.span or (0, len(text)))
            for box, spans in spans_of.items():
                boxes.append(box)
                box_row.append(rows.setdefault((number, frozenset(spans)), len(rows)))
        tokens = [token_map(encoded.offsets[number], sorted(spans)) for number, spans in rows]
        image, size = padded([_tensor(sample) for _, sample, _ in items], self.multiple)
        return Batch(
            image=image,
            image_size=size,
            image_key=image_keys([(index, replace(s, images=s.images[:1]), rng) for index, s, rng in items]),
            token_ids=encoded.ids,
            token_mask=encoded.mask,
            text_image=torch.arange(len(items)),
            grounding_text=torch.tensor([number for number, _ in rows], dtype=torch.long),
            grounding_tokens=torch.stack(tokens) if tokens else torch.zeros(0, encoded.ids.shape[1]).bool(),
            box=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            box_grounding=torch.tensor(box_row, dtype=torch.long),
            skipped=tuple(skipped),
        )

    def _one_text(self, sample: Sample, rng: np.random.Generator) -> tuple[str, list[Grounding]]:
        grounded = sorted({g.text for g in sample.groundings if g.boxes and g.image == 0})
        number = int(rng.choice(grounded or range(len(sample.texts))))
        text = sample.texts[number]
        groundings = [g for g in sample.groundings if g.text == number and g.boxes and g.image == 0]
        if token_count(self.tokenizer, text) <= prompt_room(self.tokenizer):
            return text, groundings
        pieces = split_caption(text, _spans(sample, number), self.tokenizer)
        begin, end = pieces[int(rng.integers(len(pieces)))]
        inside = [
            g if g.span is None else replace(g, span=(g.span[0] - begin, g.span[1] - begin))
            for g in groundings
            if g.span is None or begin <= g.span[0] < end
        ]
        return text[begin:end], inside


@dataclass(frozen=True)
class PictureCollator:
    """The first image of each sample, without texts. What the sample said is in ``target``, a list each:
    ``id``, ``texts``, ``groundings``, ``types`` (None where a sample has none).

    Attributes:
        tokenizer: of the texts that will be asked for.
        multiple: padded sides are multiples of this.
    """

    tokenizer: Tokenizer
    multiple: int = MULTIPLE

    def check(self, sample: Sample, where: str) -> None:
        """Any sample will do."""

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator); draws nothing."""
        image, size = padded([_tensor(sample) for _, sample, _ in items], self.multiple)
        return Batch(
            image=image,
            image_size=size,
            image_key=torch.tensor([index for index, _, _ in items]),
            token_ids=torch.zeros(0, 1, dtype=torch.long),
            token_mask=torch.zeros(0, 1, dtype=torch.bool),
            text_image=torch.zeros(0, dtype=torch.long),
            target={
                "id": [sample.id for _, sample, _ in items],
                "texts": [sample.texts for _, sample, _ in items],
                "groundings": [sample.groundings for _, sample, _ in items],
                "types": [sample.target.get("types") for _, sample, _ in items],
            },
            skipped=tuple(skipped),
        )


def padded(
    images: Sequence[Float[Tensor, "3 _ _"]], multiple: int = MULTIPLE
) -> tuple[Float[Tensor, "I 3 H W"], Int[Tensor, "I 2"]]:
    """Pictures in the upper left corner of one zero tensor, and their heights and widths."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = (int(-(-side // multiple) * multiple) for side in sizes.amax(0))
    joined = images[0].new_zeros(len(images), 3, height, width)
    for row, image in zip(joined, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return joined, sizes


def _tensor(sample: Sample) -> Tensor:
    image = sample.images[0]
    if not isinstance(image, Tensor):
        raise TypeError("this sample's image is a picture still: a transform must make it a tensor first")
    return image


def _spans(sample: Sample, text: int) -> list[Span]:
    return [g.span for g in sample.groundings if g.text == text and g.span is not None and g.boxes]
