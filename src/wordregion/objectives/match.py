"""Image-text matching (ITM)."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from wordregion.errors import UsageError
from wordregion.mining import Draw, draw_one, hard_negatives
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives.scene import AlignScene, Losses, Pairs, row_range


@dataclass(frozen=True)
class Match:
    """Does this text describe this image? One true pair and two hard negatives for each text.

    The negatives are mined in the micro-batch of each process, as published. A text without any possible negative (a
    batch of one image) trains on its true pair alone.

    Attributes:
        weight: factor of the loss.
        hardness: how much the negatives resemble the truth: they are drawn from the softmax of hardness x ITC logits; 1
            as published, 0 = uniformly. Small data learns nothing from negatives that its contrast can't tell apart.
        draw: how negatives are drawn from row weights; exchangeable for tests.
    """

    weight: float = 1.0
    hardness: float = 1.0
    draw: Draw = field(default=draw_one, repr=False)
    wants_masked = False

    def __post_init__(self) -> None:
        if not 0 <= self.hardness <= 1:
            raise UsageError(f"Match: hardness={self.hardness} is outside [0, 1]. 1 is as published.")

    def pairs(self, scene: AlignScene) -> Pairs:
        """Positives; then (hard image, text); then (image, hard text)."""
        own = row_range(0, scene.texts, scene.text)
        image_of = scene.batch.text_image
        bad_image, _ = hard_negatives(scene.local(scene.text_to_image), scene.same, self.draw, self.hardness)
        bad_text, _ = hard_negatives(scene.local(scene.image_to_text), scene.same, self.draw, self.hardness)
        return Pairs(row=torch.cat([own, own, bad_text]), image=torch.cat([image_of, image_of[bad_image], image_of]))

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """Two-class cross-entropy over 3 T pairs; class 1 = match."""
        assert fused is not None
        logits = model.heads["match"](fused.cls).float()
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        labels[: scene.texts] = 1
        counted = (~scene.same).any(1).repeat(3)
        counted[: scene.texts] = True
        losses = F.cross_entropy(logits, labels, reduction="none") * counted
        hits = (logits.detach().argmax(1) == labels) & counted
        return {
            "match": self.weight * losses.sum() / (3 * scene.total_texts),
            "match_accuracy": hits.sum() / (3 * scene.total_texts),
        }
