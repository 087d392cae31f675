"""Word-region alignment: words against the places of images, taught by the boxes of phrases.

Shape letters: T texts, C texts of whole images, I images, G phrases with boxes, M places, X boxes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.losses.contrast import contrastive_loss
from wordregion.losses.word_region import place_loss
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.nn.regions import patch_mask
from wordregion.nn.word_region import WordRegionHead
from wordregion.objectives.scene import AlignScene, Losses, Needs, Pairs

PHRASE_SHARPNESS = 15.0
"""Factor of the cosines by which a phrase chooses its places."""


@dataclass(frozen=True)
class WordRegion:
    """A contrast of texts and images by their words and places; phrases have to find their boxes.

    The contrast compares the texts of whole images with the images of the micro-batch in each process, both ways;
    every text of the same picture is a positive. A phrase, or a region's whole text, looks for its boxes in its own
    image. Without boxes in a batch only the contrast is learned.

    Attributes:
        weight: factor of the contrast.
        box_weight: factor of the phrases' loss; 0 = boxes teach nothing.
    """

    weight: float = 1.0
    box_weight: float = 0.5
    wants_masked = False
    needs: ClassVar[Needs] = "tokens"

    def __post_init__(self) -> None:
        for name in ("weight", "box_weight"):
            if getattr(self, name) < 0:
                raise UsageError(f"WordRegion: {name}={getattr(self, name)} is below 0. Give 0 for none.")

    def pairs(self, scene: AlignScene) -> Pairs | None:
        """Needs no fusion."""
        if "word_region" not in scene.model.heads:
            raise UsageError("WordRegion: the model has no head 'word_region'. Build it with zoo.for_word_regions.")
        return None

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """Mean over both directions of the cross-entropy, and the mean of the phrases' losses."""
        head = model.heads["word_region"]
        assert isinstance(head, WordRegionHead)
        place_IME = head.places(scene.image[: len(scene.batch.image)])
        losses = self._contrast(head, scene, place_IME)
        if self.box_weight and scene.batch.grounding_tokens is not None:
            losses |= self._phrases(head, scene, place_IME, model.vision.grid)
        return losses

    def _contrast(self, head: WordRegionHead, scene: AlignScene, place_IME: Tensor) -> Losses:
        caption_C = (~scene.is_region).nonzero().flatten()
        logits_CI = head(scene.text[caption_C], scene.text_mask[caption_C], place_IME)
        image_C, key_I = scene.view[caption_C], scene.batch.image_key
        logits_CC = logits_CI[:, image_C]  # an image counts as often as it has texts
        same_CC = scene.same[caption_C][:, caption_C].float()
        positives_CC = same_CC / same_CC.sum(1, keepdim=True)
        each_C = contrastive_loss(logits_CC, positives_CC) + contrastive_loss(logits_CC.T, positives_CC)
        total = (scene.total_texts - scene.total_regions).clamp(min=1e-12)
        return {
            "word_region": self.weight * each_C.sum() / (2 * total),
            "word_region_accuracy": (key_I[logits_CI.detach().argmax(1)] == key_I[image_C]).sum() / total,
        }

    def _phrases(self, head: WordRegionHead, scene: AlignScene, place_IME: Tensor, grid: int) -> Losses:
        phrase_G, place_X = scene.batch.box_grounding.unique(return_inverse=True)
        text_G = scene.batch.grounding_text[phrase_G]
        inside_XM = patch_mask(scene.batch.box, grid)[:, 1:]
        inside_GM = torch.zeros(len(phrase_G), inside_XM.shape[1], device=place_X.device)
        inside_GM = inside_GM.index_add(0, place_X, inside_XM.float()) > 0
        assert scene.batch.grounding_tokens is not None
        cosine_GM = head.phrases(
            scene.text, text_G, scene.batch.grounding_tokens[phrase_G], place_IME, scene.batch.text_image[text_G]
        )
        total = scene.total_phrases.clamp(min=1e-12)
        best_G1 = cosine_GM.detach().argmax(1, keepdim=True)
        return {
            "word_region_box": self.box_weight * place_loss(cosine_GM, inside_GM, PHRASE_SHARPNESS).sum() / total,
            "word_region_box_accuracy": inside_GM.gather(1, best_G1).sum() / total,
        }
