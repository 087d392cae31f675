"""Masked language modelling with the image (MLM)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wordregion.losses.tokens import masked_word_loss
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives.scene import AlignScene, Losses, Needs, Pairs, row_range


@dataclass(frozen=True)
class MaskedWords:
    """Predicts masked words from the rest of the text and the image; logits are computed at masked positions only.

    Attributes:
        weight: factor of the loss.
    """

    weight: float = 1.0
    wants_masked = True
    needs: ClassVar[Needs] = "fused"

    def pairs(self, scene: AlignScene) -> Pairs:
        """The masked copy of each text with its own image or region."""
        return Pairs(row=row_range(scene.texts, scene.texts, scene.text), image=scene.view)

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """Cross-entropy against the words and, by `scene.distill`, against the teacher's distribution."""
        assert fused is not None
        assert scene.batch.labels is not None
        at = (scene.batch.labels != -100).flatten().nonzero().squeeze(1)
        labels = scene.batch.labels.flatten()[at]
        logits = model.heads["mask"](fused.hidden.flatten(0, 1)[at])
        opinion = None
        if scene.distill > 0:
            assert scene.teacher is not None
            with torch.no_grad():
                opinion = scene.teacher.heads["mask"](scene.teacher_masked_states().flatten(0, 1)[at])
        losses = masked_word_loss(logits, labels, opinion, scene.distill)
        total = scene.total_masked.clamp(min=1e-12)
        hits = logits.detach().argmax(1) == labels
        return {"masked_words": self.weight * losses.sum() / total, "masked_words_accuracy": hits.sum() / total}
