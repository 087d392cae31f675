"""Image-text contrast (ITC)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wordregion.losses.contrast import contrastive_loss, soft_targets
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives.scene import AlignScene, Losses, Pairs, row_range


@dataclass(frozen=True)
class Contrast:
    """Images, or regions, and their texts are closer than other ones, those of the queue included.

    Attributes:
        weight: factor of the loss.
        same_image_positives: every text of the same picture is a positive, in the batch and in the queue (ALBEF's
            retrieval fine-tuning), and of regions every one with the same box or the same words; otherwise only the
            text's own pair is (its pre-training).
    """

    weight: float = 1.0
    same_image_positives: bool = False
    wants_masked = False

    def pairs(self, scene: AlignScene) -> Pairs | None:
        """The contrast needs no fusion."""
        return None

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """Mean over both directions of the cross-entropy with soft targets."""
        positives = self._positives(scene)
        total = scene.image_to_text.new_zeros(())
        for logits, query, keys in (
            (scene.image_to_text, scene.teacher_image_feature, scene.text_keys),
            (scene.text_to_image, scene.teacher_text_feature, scene.image_keys),
        ):
            with torch.no_grad():
                opinion = query @ keys.T / scene.temperature if scene.distill > 0 else None
                targets = soft_targets(positives, opinion, scene.distill)
            total = total + contrastive_loss(logits, targets).sum()
        hits = scene.image_to_text.detach().argmax(1) == row_range(scene.offset, scene.texts, positives)
        return {
            "contrast": self.weight * total / (2 * scene.total_texts),
            "contrast_accuracy": hits.sum() / scene.total_texts,
        }

    def _positives(self, scene: AlignScene) -> Tensor:
        """(T, K), rows sum to 1."""
        if self.same_image_positives:
            same = scene.same_as_key.float()
            return same / same.sum(1, keepdim=True)
        positives = torch.zeros(scene.texts, len(scene.text_keys), device=scene.text_keys.device)
        positives[row_range(0, scene.texts, positives), row_range(scene.offset, scene.texts, positives)] = 1
        return positives
