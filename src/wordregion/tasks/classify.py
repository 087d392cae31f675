"""Which class does a text have, given its images? Visual entailment, statements about one image or two; with momentum
distillation (ALBEF section 5 and code)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wordregion.errors import UsageError
from wordregion.losses.tokens import masked_word_loss
from wordregion.models.fusion import FusionModel
from wordregion.models.two_images import pair_logits
from wordregion.schema import Batch
from wordregion.tasks.image_tokens import ImageTokens, is_frozen
from wordregion.tasks.protocol import StepOutput
from wordregion.tasks.teacher import distill_weight, make_teacher, update_teacher


@dataclass(frozen=True)
class Classify:
    """Settings of `ClassifyTask`.

    Attributes:
        head: name of the model's head of classes, and of the loss: ``"entail"`` (`zoo.for_entailment`) or ``"nlvr"``
            (`zoo.for_two_images`, `zoo.for_statements`).
        momentum: of the teacher, in [0, 1].
        distill: final weight of the teacher's opinion in [0, 1] (alpha); 0 = train without a teacher.
        ramp_steps: steps over which `distill` rises linearly from 0 (ALBEF: those of the first epoch).
        keep_image_tokens: encode each image once and keep its tokens in memory, and in a folder for further runs if one
            is given. For a frozen image encoder and a transform that draws nothing.
    """

    head: str
    momentum: float = 0.995
    distill: float = 0.4
    ramp_steps: int = 1
    keep_image_tokens: bool | Path = False

    def __post_init__(self) -> None:
        for name in ("momentum", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Classify: {name}={getattr(self, name)} is outside [0, 1]. Choose a value in it.")
        if self.ramp_steps < 0:
            raise UsageError(f"Classify: ramp_steps={self.ramp_steps} is negative. Give 0 or more.")

    def build(self, model: FusionModel) -> "ClassifyTask":
        """The trainable task around a model with that head."""
        return ClassifyTask(model, self)


class ClassifyTask(nn.Module):
    """Student and, with distillation, its teacher: a momentum copy of the whole model, updated after each step.

    The batch has ``target["label"]``, the class; a text's images follow each other. The teacher starts as a copy of the
    student. In NLVR2 the original's starts from other values (it is made before the checkpoint is loaded); that is not
    repeated here.
    """

    step: Tensor

    def __init__(self, model: FusionModel, settings: Classify) -> None:
        super().__init__()
        if settings.head not in model.heads:
            raise UsageError(
                f"Classify: the model has no head '{settings.head}'. Build it with zoo.for_entailment, "
                "zoo.for_statements or zoo.for_two_images."
            )
        self.model = model
        self.teacher: FusionModel | None = make_teacher(model) if settings.distill else None  # type: ignore[assignment]
        self.settings = settings
        self._image_tokens = ImageTokens(settings.keep_image_tokens)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> "ClassifyTask":
        """Switches the student; a frozen image encoder and the teacher always predict, without dropout or drop path."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        if is_frozen(self.model.vision):
            self.model.vision.eval()
        return self

    def counts(self, batch: Batch) -> Tensor:
        """(1,) texts of a micro-batch."""
        return torch.tensor([float(len(batch.token_ids))])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Cross-entropy with the labels and the teacher's opinion, over ``totals[0]`` texts."""
        label = batch.target["label"]
        image = self._image_tokens.student(self.model, batch)
        logits = pair_logits(self.model, batch, image, self.settings.head)
        distill = self.distill_weight()
        taught = None
        if self.teacher is not None and distill:
            with torch.no_grad():
                teacher_image = self._image_tokens.teacher(self.model, self.teacher, batch, image)
                taught = pair_logits(self.teacher, batch, teacher_image, self.settings.head)
        loss = masked_word_loss(logits, label, taught, distill).sum() / totals[0].to(logits.device)
        hits = (logits.detach().argmax(1) == label).sum() / totals[0].to(logits.device)
        return StepOutput(loss, {self.settings.head: loss.detach(), f"{self.settings.head}_accuracy": hits})

    def after_backward(self) -> None:
        """Nothing to do between backward and the optimiser."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher, counts the step."""
        if self.teacher is not None:
            update_teacher(self.teacher, self.model, self.settings.momentum)
        self.step += 1

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing, of student and teacher."""
        return [*self.model.blocks(), *(self.teacher.blocks() if self.teacher is not None else ())]

    def distill_weight(self) -> float:
        """Alpha at this step: linear from 0 over `ramp_steps`, then constant."""
        return distill_weight(self.settings.distill, self.settings.ramp_steps, self.step)
