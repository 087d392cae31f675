"""Image-text contrast (ITC)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wordregion.losses.contrast import contrastive_loss, soft_targets
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives.scene import AlignScene, Losses, Needs, Pairs, check_region_weight, row_range

NEVER = -1e4
"""Logit of a pair that is not compared: finite, so that a target of zero times its log-probability is zero."""


@dataclass(frozen=True)
class Contrast:
    """Images, or regions, and their texts are closer than other ones, those of the queue included.

    Attributes:
        weight: factor of the loss.
        same_image_positives: every text of the same picture is a positive, in the batch and in the queue (ALBEF's
            retrieval fine-tuning), and of regions every one with the same box or the same words; otherwise only the
            text's own pair is (its pre-training).
        region_weight: None = texts of regions stand among all others and count as much (X-VLM). A number: they are
            compared with each other only, texts of whole images likewise, and count this much beside one of those. A
            phrase such as "a man" fits many images: as a negative of captions it costs more than it teaches.
    """

    weight: float = 1.0
    same_image_positives: bool = False
    region_weight: float | None = None
    wants_masked = False
    needs: ClassVar[Needs] = "summary"

    def __post_init__(self) -> None:
        check_region_weight("Contrast", self.region_weight)

    def pairs(self, scene: AlignScene) -> Pairs | None:
        """The contrast needs no fusion."""
        return None

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """Mean over both directions of the cross-entropy with soft targets."""
        apart = None if self.region_weight is None else scene.other_kind
        positives = self._positives(scene, apart)
        weight, texts = scene.weights(self.region_weight)
        total = scene.image_to_text.new_zeros(())
        for logits, query, keys in (
            (scene.image_to_text, scene.teacher_image_feature, scene.text_keys),
            (scene.text_to_image, scene.teacher_text_feature, scene.image_keys),
        ):
            with torch.no_grad():
                opinion = _without(query @ keys.T / scene.temperature, apart) if scene.distill > 0 else None
                targets = soft_targets(positives, opinion, scene.distill)
            total = total + (weight * contrastive_loss(_without(logits, apart), targets)).sum()
        best = _without(scene.image_to_text.detach(), apart).argmax(1)
        hits = best == row_range(scene.offset, scene.texts, positives)
        return {
            "contrast": self.weight * total / (2 * texts),
            "contrast_accuracy": hits.sum() / scene.total_texts,
        }

    def _positives(self, scene: AlignScene, apart: Tensor | None) -> Tensor:
        """(T, K), rows sum to 1."""
        if self.same_image_positives:
            same = (scene.same_as_key if apart is None else scene.same_as_key & ~apart).float()
            return same / same.sum(1, keepdim=True)
        positives = torch.zeros(scene.texts, len(scene.text_keys), device=scene.text_keys.device)
        positives[row_range(0, scene.texts, positives), row_range(scene.offset, scene.texts, positives)] = 1
        return positives


def _without(logits_TK: Tensor, apart_TK: Tensor | None) -> Tensor:
    """Logits, so low that they count nothing where two things are not compared."""
    return logits_TK if apart_TK is None else logits_TK.masked_fill(apart_TK, NEVER)
