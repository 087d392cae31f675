"""Collation for grounding: every phrase that has boxes, as a text of its own or as a span of its caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wordregion.data.collate import Item, stack_images
from wordregion.data.tokens import Tokenizer
from wordregion.schema import Batch, Box, Sample

Phrases = Literal["alone", "in_caption"]


@dataclass(frozen=True)
class PhraseCollator:
    """The first image of each sample and its groundings with boxes, in order.

    Texts are each needed once an image, so fewer than groundings. ``Batch.grounding_tokens`` holds the phrase's tokens;
    all real tokens of the text where the phrase is the whole text, or was cut off with the end of its caption. Targets:
    ``phrase`` (G texts), ``split`` (G names or None), ``proposals`` (a tuple of boxes or None for each sample).

    Attributes:
        tokenizer: of the texts.
        phrases: ``"alone"`` = a phrase is read by itself; ``"in_caption"`` = within the caption that it stands in.
    """

    tokenizer: Tokenizer
    phrases: Phrases = "alone"

    def check(self, sample: Sample, where: str) -> None:
        """Any sample will do: a picture without boxes has nothing to find."""

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        """Collates (index in the data set, transformed sample, its generator); draws nothing."""
        rows: dict[tuple[int, str], int] = {}
        grounding_text: list[int] = []
        spans: list[tuple[int, int] | None] = []
        boxes: list[Box] = []
        box_grounding: list[int] = []
        phrases: list[str] = []
        splits: list[str | None] = []
        for position, (_, sample, _) in enumerate(items):
            named = sample.target.get("splits")
            for grounding in sample.groundings:
                if not grounding.boxes or grounding.image != 0:
                    continue
                text, span = sample.texts[grounding.text], grounding.span
                phrase = text if span is None else text[slice(*span)]
                if self.phrases == "alone":
                    text, span = phrase, None
                box_grounding.extend([len(phrases)] * len(grounding.boxes))
                boxes.extend(grounding.boxes)
                grounding_text.append(rows.setdefault((position, text), len(rows)))
                spans.append(span)
                phrases.append(phrase)
                splits.append(None if named is None else named[grounding.text])
        encoded = self.tokenizer([text for _, text in rows])
        tokens = [
            encoded.mask[row] if span is None or not (own := encoded.tokens_of_span(row, span)).any() else own
            for row, span in zip(grounding_text, spans, strict=True)
        ]
        return Batch(
            image=stack_images([image for _, s, _ in items if isinstance(image := s.images[0], Tensor)]),
            image_key=torch.tensor([index for index, _, _ in items]),
            token_ids=encoded.ids,
            token_mask=encoded.mask,
            text_image=torch.tensor([position for position, _ in rows], dtype=torch.long),
            grounding_text=torch.tensor(grounding_text, dtype=torch.long),
            grounding_tokens=torch.stack(tokens) if tokens else torch.zeros(0, encoded.ids.shape[1]).bool(),
            box=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            box_grounding=torch.tensor(box_grounding, dtype=torch.long),
            target={
                "phrase": phrases,
                "split": splits,
                "proposals": [sample.target.get("proposals") for _, sample, _ in items],
            },
            skipped=tuple(skipped),
        )
