"""Asks a detector for the boxes of phrases: pictures are encoded once, whatever is asked of them.

Shape letters: P questions, K boxes found, L tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wordregion.data.prompts import Prompt, chunks, token_map
from wordregion.data.tokens import Tokenizer
from wordregion.models.detect import Detections, Thresholds, detect
from wordregion.models.grounder import Grounder
from wordregion.schema import Batch

Question = tuple[int, Prompt]
"""Place of a picture in its batch, and what is asked of it."""


@dataclass(frozen=True)
class Found:
    """Boxes found in one picture, best first. On the CPU.

    Attributes:
        box: (K, 4) xyxy in [0, 1] of the picture.
        score: (K,) in [0, 1].
        label: (K,) the number of each box's phrase in its prompt.
    """

    box: Float[Tensor, "K 4"]
    score: Float[Tensor, "K"]
    label: Int[Tensor, "K"]

    def __len__(self) -> int:
        return len(self.score)

    def over(self, least: float) -> "Found":
        """Those with at least this score."""
        good_K = self.score >= least
        return Found(self.box[good_K], self.score[good_K], self.label[good_K])

    @classmethod
    def joined(cls, parts: Sequence["Found"], most: int | None = None) -> "Found":
        """All boxes of some answers, best first; at most `most` of them (None = all). Ties keep their order."""
        score_K = torch.cat([part.score for part in parts])
        order_K = score_K.argsort(descending=True, stable=True)[:most]
        box_K4 = torch.cat([part.box for part in parts])
        return cls(box_K4[order_K], score_K[order_K], torch.cat([part.label for part in parts])[order_K])


Ask = Callable[[Batch, Sequence[Question]], list[Found]]
"""Pictures (texts of the batch are not read) and questions about them, to one answer each."""


class Detector:
    """Asks a `Grounder`. Pictures are encoded once a call, each different text once.

    Args:
        model: in evaluation mode.
        tokenizer: of the texts; not cleaning.
        keep: thresholds of what is found for one question; as published if None.
        at_once: questions that go through the model together.
    """

    def __init__(self, model: Grounder, tokenizer: Tokenizer, keep: Thresholds | None = None, at_once: int = 8) -> None:
        self.model, self.tokenizer, self.at_once = model, tokenizer, at_once
        self.keep = Thresholds() if keep is None else keep

    @torch.no_grad()
    def __call__(self, batch: Batch, questions: Sequence[Question]) -> list[Found]:
        """Answers in the order of the questions; `batch` on the model's device."""
        if not questions:
            return []
        height, width = batch.image.shape[2:]
        sizes = [[height, width]] * len(batch.image) if batch.image_size is None else batch.image_size.tolist()
        levels = self.model.encode_image(batch.image)
        found = []
        for part in chunks(questions, self.at_once):
            found += self._answers(levels, sizes, part)
        return found

    def _answers(
        self, levels: Sequence[Tensor], sizes: Sequence[Sequence[int]], questions: Sequence[Question]
    ) -> list[Found]:
        texts = list(dict.fromkeys(prompt.text for _, prompt in questions))
        encoded = self.tokenizer(texts)
        device = levels[0].device
        ids, mask = encoded.ids.to(device), encoded.mask.to(device)
        states = self.model.encode_text(ids, mask)
        row_P = torch.tensor([texts.index(prompt.text) for _, prompt in questions], device=device)
        image_P = torch.tensor([place for place, _ in questions], device=device)
        grounded = self.model.ground(levels, states[row_P], ids[row_P], mask[row_P], image_P)
        tokens = [
            torch.stack([token_map(encoded.offsets[row], [span]) for span in prompt.spans.values()]).to(device)
            for row, (_, prompt) in zip(row_P.tolist(), questions, strict=True)
        ]
        pictures = [(sizes[place][0], sizes[place][1]) for place, _ in questions]
        answers = detect(grounded, tokens, pictures, self.keep)
        return [_found(answer, prompt) for answer, (_, prompt) in zip(answers, questions, strict=True)]


def _found(answer: Detections, prompt: Prompt) -> Found:
    numbers = torch.tensor(list(prompt.spans), dtype=torch.long)
    box = answer.unit_box().clamp(0, 1).cpu()
    return Found.joined([Found(box, answer.score.cpu(), numbers[answer.label.cpu()])])
