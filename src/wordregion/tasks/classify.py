"""Which class does a text have, given its images? Visual entailment, statements about one image or two; with momentum
distillation (ALBEF section 5 and code)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.losses.tokens import masked_word_loss
from wordregion.models.fusion import FusionModel
from wordregion.models.two_images import pair_logits
from wordregion.schema import Batch
from wordregion.tasks.distilled import Distilled, DistilledTask
from wordregion.tasks.protocol import StepOutput


@dataclass(frozen=True)
class Classify(Distilled):
    """Settings of `ClassifyTask`, beside those of `Distilled`.

    Attributes:
        head: name of the model's head of classes, and of the loss: ``"entail"`` (`zoo.for_entailment`) or ``"nlvr"``
            (`zoo.for_two_images`, `zoo.for_statements`).
    """

    head: str

    def build(self, model: FusionModel) -> "ClassifyTask":
        """The trainable task around a model with that head."""
        return ClassifyTask(model, self)


class ClassifyTask(DistilledTask):
    """Learns the classes of a batch: ``target["label"]``; a text's images follow each other.

    The teacher starts as a copy of the student. In NLVR2 the original's starts from other values (it is made before the
    checkpoint is loaded); that is not repeated here.

    Args:
        model: with the head of the settings.
        settings: of head and teacher.

    Raises:
        UsageError: if the model has no such head.
    """

    settings: Classify

    def __init__(self, model: FusionModel, settings: Classify) -> None:
        if settings.head not in model.heads:
            raise UsageError(
                f"Classify: the model has no head '{settings.head}'. Build it with zoo.for_entailment, "
                "zoo.for_statements or zoo.for_two_images."
            )
        super().__init__(model, settings)

    def counts(self, batch: Batch) -> Tensor:
        """(1,) texts of a micro-batch."""
        return torch.tensor([float(len(batch.token_ids))])

    def forward(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Cross-entropy with the labels and the teacher's opinion, over ``totals[0]`` texts."""
        label = batch.target["label"]
        image = self.image_tokens.student(self.model, batch)
        logits = pair_logits(self.model, batch, image, self.settings.head)
        distill = self.distill_weight()
        taught = None
        if self.teacher is not None and distill:
            with torch.no_grad():
                teacher_image = self.image_tokens.teacher(self.model, self.teacher, batch, image)
                taught = pair_logits(self.teacher, batch, teacher_image, self.settings.head)
        loss = masked_word_loss(logits, label, taught, distill).sum() / totals[0].to(logits.device)
        hits = (logits.detach().argmax(1) == label).sum() / totals[0].to(logits.device)
        metrics = {self.settings.head: loss.detach(), f"{self.settings.head}_accuracy": hits}
        return StepOutput(loss, metrics, self.image_tokens.known(self.model, self.teacher, batch))
