"""Answering questions about images: the decoder learns weighted answers, with a teacher's help (ALBEF section 4).

Shape letters: A answers, M their tokens, N predicted tokens of all answers, V vocabulary, I images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.losses.answers import weighted_answer_loss
from wordregion.losses.tokens import masked_word_loss
from wordregion.models.fusion import FusionModel
from wordregion.models.questions import answer_decoder, encode_questions
from wordregion.schema import Batch
from wordregion.tasks.distilled import Distilled, DistilledTask
from wordregion.tasks.protocol import StepOutput


@dataclass(frozen=True, kw_only=True)
class Answer(Distilled):
    """Settings of `AnswerTask`."""

    def build(self, model: FusionModel) -> "AnswerTask":
        """The trainable task around a model with an ``answer`` head."""
        return AnswerTask(model, self)


class AnswerTask(DistilledTask):
    """Learns the weighted answers of a batch.

    Args:
        model: with an ``answer`` head.
        settings: of the teacher.

    Raises:
        UsageError: if the model has no such head.
    """

    def __init__(self, model: FusionModel, settings: Answer) -> None:
        if "answer" not in model.heads:
            raise UsageError("Answer: the model has no answer decoder. Build it with zoo.for_questions.")
        super().__init__(model, settings)

    def counts(self, batch: Batch) -> Tensor:
        """(2,) questions and predicted tokens of a micro-batch."""
        return torch.tensor([float(len(batch.token_ids)), float(batch.target["answer_mask"][:, 1:].sum())])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Loss of one micro-batch over the questions of the step (each has one image, as published)."""
        totals = totals.to(batch.image.device)
        ids_AM, mask_AM = batch.target["answer_ids"], batch.target["answer_mask"]
        answer_N, position_N = mask_AM[:, 1:].nonzero(as_tuple=True)
        labels_N = ids_AM[answer_N, position_N + 1]
        image = self.image_tokens.student(self.model, batch)
        logits_NV = _logits(self.model, batch, image, answer_N, position_N)
        distill, opinion_NV = self.distill_weight(), None
        if distill > 0:
            assert self.teacher is not None
            with torch.no_grad():
                image = self.image_tokens.teacher(self.model, self.teacher, batch, image)
                opinion_NV = _logits(self.teacher, batch, image, answer_N, position_N)
        losses_N = masked_word_loss(logits_NV, labels_N, opinion_NV, distill)
        loss = weighted_answer_loss(losses_N, answer_N, batch.target["answer_weight"]) / totals[0]
        hits = (logits_NV.detach().argmax(1) == labels_N).sum() / totals[1].clamp(min=1)
        metrics = {"answer": loss.detach(), "token_accuracy": hits}
        return StepOutput(loss, metrics, self.image_tokens.known(self.model, self.teacher, batch))


def _logits(model: FusionModel, batch: Batch, image_INV: Tensor, answer_N: Tensor, position_N: Tensor) -> Tensor:
    """(N, V) what the model expects after each of these tokens; each question is encoded once for all its answers."""
    decoder, target = answer_decoder(model), batch.target
    question = encode_questions(model, batch, image_INV)
    before_last = target["answer_ids"][:, :-1], target["answer_mask"][:, :-1]
    hidden_AMD = decoder(*before_last, question, batch.token_mask, target["answer_text"])
    return decoder.head(hidden_AMD[answer_N, position_N])
