"""What a detector that reads learns (GLIP, section 3): which words a place shows, its box, how central it is.

Shape letters: T texts, each with its image, A places, L tokens, P places that answer for a box.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.losses.boxes import generalised_iou
from wordregion.losses.grounding import focal_loss
from wordregion.nn.anchor_head import Grounded
from wordregion.nn.anchors import decode_boxes
from wordregion.objectives.scene import Losses


@dataclass(frozen=True, slots=True)
class GroundScene:
    """What the objectives of a detector share.

    Attributes:
        grounded: outputs of the model.
        token_mask: (T, L) True at real tokens.
        pair: (P,) text of each place that answers for a box.
        place: (P,) its number.
        tokens: (P, L) True at the tokens of its box.
        anchor: (P, 4) its anchor in pixels.
        box: (P, 4) its box in pixels.
        centre: (P,) how central it is in its box, in [0, 1].
        total_places: () places that answer for a box in the whole step, over the number of ranks.
        total_centre: () sum of `centre` in the whole step, over the number of ranks.
    """

    grounded: Grounded
    token_mask: Bool[Tensor, "T L"]
    pair: Int[Tensor, "P"]
    place: Int[Tensor, "P"]
    tokens: Bool[Tensor, "P L"]
    anchor: Float[Tensor, "P 4"]
    box: Float[Tensor, "P 4"]
    centre: Float[Tensor, "P"]
    total_places: Tensor
    total_centre: Tensor


@runtime_checkable
class GroundObjective(Protocol):
    """One loss of a detector."""

    def __call__(self, scene: GroundScene) -> Losses:
        """Losses by name."""
        ...


@dataclass(frozen=True)
class Words:
    """Which tokens does a place show? Focal loss over all real tokens, divided by the number of places with a box.

    Attributes:
        weight: factor of the loss.
        alpha: see `focal_loss`.
        gamma: see `focal_loss`.
    """

    weight: float = 1.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.gamma < 0:
            raise UsageError(f"Words: alpha={self.alpha} must be in [0, 1] and gamma={self.gamma} not below 0.")

    def __call__(self, scene: GroundScene) -> Losses:
        """The loss ``words``."""
        logits = scene.grounded.logits
        positive = logits.new_zeros(logits.shape)
        positive[scene.pair, scene.place] = scene.tokens.to(positive.dtype)
        loss = focal_loss(logits, positive, self.alpha, self.gamma) * scene.token_mask[:, None]
        return {"words": self.weight * loss.sum() / scene.total_places.clamp(min=1)}


@dataclass(frozen=True)
class Boxes:
    """Where is the box? 1 - GIoU, central places first: weighted by how central each is.

    Attributes:
        weight: factor of the loss; 2 as published.
    """

    weight: float = 2.0

    def __call__(self, scene: GroundScene) -> Losses:
        """The loss ``boxes``."""
        predicted = decode_boxes(scene.grounded.delta[scene.pair, scene.place].float(), scene.anchor)
        loss = (1 - generalised_iou(predicted, scene.box)) * scene.centre
        return {"boxes": self.weight * loss.sum() / scene.total_centre.clamp(min=1e-12)}


@dataclass(frozen=True)
class Centre:
    """How central is a place in its box? Binary cross-entropy with its centredness.

    Attributes:
        weight: factor of the loss.
    """

    weight: float = 1.0

    def __call__(self, scene: GroundScene) -> Losses:
        """The loss ``centre``."""
        logits = scene.grounded.centre[scene.pair, scene.place].float()
        loss = F.binary_cross_entropy_with_logits(logits, scene.centre, reduction="sum")
        return {"centre": self.weight * loss / scene.total_places.clamp(min=1)}
