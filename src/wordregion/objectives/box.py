"""Box prediction (X-VLM section 3.2): where in the whole image is what a region's text describes?

Shape letters: R texts that describe a region.
"""

from dataclasses import dataclass
from typing import ClassVar

from wordregion.errors import UsageError
from wordregion.losses.boxes import box_losses, iou, to_centre, to_corners
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import Fused
from wordregion.objectives.scene import AlignScene, Losses, Needs, Pairs

RIGHT = 0.5
"""IoU from which a box counts as right."""


@dataclass(frozen=True)
class Box:
    """Predicts the box of every text that describes a region; texts of whole images are left out.

    A batch without regions has a loss of zero.

    Attributes:
        weight: factor of both losses, L1 and GIoU.
        original_behaviour: see `losses.boxes.box_losses`.
    """

    weight: float = 1.0
    original_behaviour: bool = False
    wants_masked = False
    needs: ClassVar[Needs] = "fused"

    def pairs(self, scene: AlignScene) -> Pairs:
        """Each region's text with the whole image."""
        if "box" not in scene.model.heads:
            raise UsageError("Box: the model has no head 'box'. Build it with zoo.for_boxes.")
        return Pairs(row=scene.regions.text, image=scene.regions.image)

    def __call__(self, model: FusionModel, scene: AlignScene, fused: Fused | None) -> Losses:
        """L1 and 1 - GIoU, means over the regions of the step; the accuracy is the share of IoU >= 0.5."""
        assert fused is not None
        predicted = model.heads["box"](fused.cls).float()
        l1, giou = box_losses(predicted, to_centre(scene.regions.box), self.original_behaviour)
        total = scene.total_regions.clamp(min=1e-12)
        right = iou(to_corners(predicted.detach()), scene.regions.box) >= RIGHT
        return {
            "box_l1": self.weight * l1.sum() / total,
            "box_giou": self.weight * giou.sum() / total,
            "box_accuracy": right.sum() / total,
        }
