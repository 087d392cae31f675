"""Answering questions about images: the decoder learns weighted answers, with a teacher's help (ALBEF section 4).

Shape letters: A answers, M their tokens, N predicted tokens of all answers, V vocabulary, I images.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wordregion.errors import UsageError
from wordregion.losses.answers import weighted_answer_loss
from wordregion.losses.tokens import masked_word_loss
from wordregion.models.fusion import FusionModel
from wordregion.models.questions import answer_decoder, encode_questions
from wordregion.schema import Batch
from wordregion.tasks.image_tokens import ImageTokens, is_frozen
from wordregion.tasks.protocol import StepOutput
from wordregion.tasks.teacher import distill_weight, make_teacher, update_teacher


@dataclass(frozen=True)
class Answer:
    """Settings of `AnswerTask`.

    Attributes:
        momentum: of the teacher, in [0, 1].
        distill: final weight of the teacher's opinion in [0, 1] (alpha); 0 = train without a teacher.
        ramp_steps: steps over which `distill` rises linearly from 0 (ALBEF: those of the first epoch).
        keep_image_tokens: encode each image once and keep its tokens in memory, and in a folder for further runs if one
            is given. For a frozen image encoder and a transform that draws nothing.
    """

    momentum: float = 0.995
    distill: float = 0.4
    ramp_steps: int = 1
    keep_image_tokens: bool | Path = False

    def __post_init__(self) -> None:
        for name in ("momentum", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Answer: {name}={getattr(self, name)} is outside [0, 1]. Choose a value in it.")
        if self.ramp_steps < 0:
            raise UsageError("Answer: ramp_steps must be 0 or more. Correct the recipe.")

    def build(self, model: FusionModel) -> "AnswerTask":
        """The trainable task around a model with an ``answer`` head."""
        return AnswerTask(model, self)


class AnswerTask(nn.Module):
    """Student and, with distillation, its teacher: a momentum copy of the whole model, updated after each step."""

    step: Tensor

    def __init__(self, model: FusionModel, settings: Answer) -> None:
        super().__init__()
        if "answer" not in model.heads:
            raise UsageError("Answer: the model has no answer decoder. Build it with zoo.for_questions.")
        self.model = model
        self.teacher: FusionModel | None = make_teacher(model) if settings.distill else None  # type: ignore[assignment]
        self.settings = settings
        self._image_tokens = ImageTokens(settings.keep_image_tokens)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> "AnswerTask":
        """Switches the student; a frozen image encoder and the teacher always predict, without dropout or drop path."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        if is_frozen(self.model.vision):
            self.model.vision.eval()
        return self

    def counts(self, batch: Batch) -> Tensor:
        """(2,) questions and predicted tokens of a micro-batch."""
        return torch.tensor([float(len(batch.token_ids)), float(batch.target["answer_mask"][:, 1:].sum())])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Loss of one micro-batch over the questions of the step (each has one image, as published)."""
        totals = totals.to(batch.image.device)
        ids_AM, mask_AM = batch.target["answer_ids"], batch.target["answer_mask"]
        answer_N, position_N = mask_AM[:, 1:].nonzero(as_tuple=True)
        labels_N = ids_AM[answer_N, position_N + 1]
        image = self._image_tokens.student(self.model, batch)
        logits_NV = _logits(self.model, batch, image, answer_N, position_N)
        distill, opinion_NV = self.distill_weight(), None
        if distill > 0:
            assert self.teacher is not None
            with torch.no_grad():
                image = self._image_tokens.teacher(self.model, self.teacher, batch, image)
                opinion_NV = _logits(self.teacher, batch, image, answer_N, position_N)
        losses_N = masked_word_loss(logits_NV, labels_N, opinion_NV, distill)
        loss = weighted_answer_loss(losses_N, answer_N, batch.target["answer_weight"]) / totals[0]
        hits = (logits_NV.detach().argmax(1) == labels_N).sum() / totals[1].clamp(min=1)
        return StepOutput(loss, {"answer": loss.detach(), "token_accuracy": hits})

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher and counts the step."""
        if self.teacher is not None:
            update_teacher(self.teacher, self.model, self.settings.momentum)
        self.step += 1

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing, of student and teacher."""
        return [*self.model.blocks(), *(self.teacher.blocks() if self.teacher is not None else [])]

    def distill_weight(self) -> float:
        """Alpha at this step: linear from 0 over `ramp_steps`, then constant."""
        return distill_weight(self.settings.distill, self.settings.ramp_steps, self.step)


def _logits(model: FusionModel, batch: Batch, image_INV: Tensor, answer_N: Tensor, position_N: Tensor) -> Tensor:
    """(N, V) what the model expects after each of these tokens; each question is encoded once for all its answers."""
    decoder, target = answer_decoder(model), batch.target
    question = encode_questions(model, batch, image_INV)
    before_last = target["answer_ids"][:, :-1], target["answer_mask"][:, :-1]
    hidden_AMD = decoder(*before_last, question, batch.token_mask, target["answer_text"])
    return decoder.head(hidden_AMD[answer_N, position_N])
