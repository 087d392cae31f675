"""Losses of predicted boxes (X-VLM section 3.2, after DETR).

Boxes are xyxy (corners) or cxcywh (centre and size), in [0, 1] of the image. Shape letters: X boxes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-12


def to_corners(box_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X 4"]:
    """cxcywh to xyxy."""
    centre, size = box_X4[:, :2], box_X4[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def to_centre(box_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X 4"]:
    """xyxy to cxcywh."""
    low, high = box_X4[:, :2], box_X4[:, 2:]
    return torch.cat([(low + high) / 2, high - low], dim=1)


def iou(a_X4: Float[Tensor, "X 4"], b_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X"]:
    """Intersection over union of each box with its partner, in [0, 1]; xyxy."""
    return _iou_and_union(a_X4, b_X4)[0]


def generalised_iou(a_X4: Float[Tensor, "X 4"], b_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X"]:
    """IoU less the empty share of the smallest box around both, in [-1, 1] (Rezatofighi et al. 2019); xyxy."""
    overlap, union = _iou_and_union(a_X4, b_X4)
    sides_X2 = torch.maximum(a_X4[:, 2:], b_X4[:, 2:]) - torch.minimum(a_X4[:, :2], b_X4[:, :2])
    around = sides_X2.clamp(min=0).prod(1)
    return overlap - (around - union) / around.clamp(min=SMALLEST)


def box_losses(
    predicted_X4: Float[Tensor, "X 4"], target_X4: Float[Tensor, "X 4"], original_behaviour: bool = False
) -> tuple[Float[Tensor, "X"], Float[Tensor, "X"]]:
    """L1 distance, summed over the four numbers, and 1 - GIoU of each box.

    A pair with a degenerate box (its end before its beginning) has no GIoU: its second loss is 0.

    Args:
        predicted_X4: cxcywh.
        target_X4: cxcywh.
        original_behaviour: one degenerate box makes the second loss of the whole batch 0, as in X-VLM's code.
    """
    l1_X = (predicted_X4 - target_X4).abs().sum(1)
    predicted, target = to_corners(predicted_X4), to_corners(target_X4)
    bad_X = (torch.cat([predicted_X4, target_X4], dim=1)[:, [2, 3, 6, 7]] < 0).any(1)
    if original_behaviour:
        bad_X = bad_X.any().expand_as(bad_X)
    stand_in_14 = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=predicted.device, dtype=predicted.dtype)
    sound = torch.where(bad_X[:, None], stand_in_14, predicted)  # no value of a degenerate box enters a gradient
    return l1_X, torch.where(bad_X, 0.0, 1 - generalised_iou(sound, target))


def _iou_and_union(a_X4: Tensor, b_X4: Tensor) -> tuple[Tensor, Tensor]:
    sides_X2 = torch.minimum(a_X4[:, 2:], b_X4[:, 2:]) - torch.maximum(a_X4[:, :2], b_X4[:, :2])
    both = sides_X2.clamp(min=0).prod(1)
    union = (a_X4[:, 2:] - a_X4[:, :2]).prod(1) + (b_X4[:, 2:] - b_X4[:, :2]).prod(1) - both
    return both / union.clamp(min=SMALLEST), union
