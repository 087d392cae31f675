"""Which place of a detector answers for which box: ATSS (Zhang et al. 2020).

Boxes are xyxy in pixels, last row and column included (`nn.anchors`). Shape letters: A anchors, X boxes, P assigned
places.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from wordregion.nn.anchors import beyond_last, centres

NEAREST = 9
"""Candidates of a box on each level."""
INSIDE = 0.01
"""Pixels by which the centre of an assigned anchor is inside its box, at least."""


def atss(levels: Sequence[Float[Tensor, "_ 4"]], box_X4: Float[Tensor, "X 4"]) -> Int[Tensor, "A"]:
    """The box that each anchor answers for, or -1.

    On every level the 9 anchors nearest to a box (by centres) are its candidates. Those are taken whose IoU with it is
    at least the mean plus the standard deviation of all its candidates', and whose centre is inside it. An anchor that
    several boxes took goes to the one with the highest IoU.

    Args:
        levels: anchors of each level.
        box_X4: boxes; may be none.
    """
    anchor_A4 = torch.cat(list(levels))
    if not len(box_X4):
        return torch.full((len(anchor_A4),), -1, device=anchor_A4.device)
    overlap_XA = box_iou(beyond_last(box_X4), beyond_last(anchor_A4))
    distance_XA = torch.cdist(centres(box_X4), centres(anchor_A4), compute_mode="donot_use_mm_for_euclid_dist")
    candidates, first = [], 0
    for level_XA in distance_XA.split([len(level) for level in levels], dim=1):
        nearest = level_XA.topk(min(NEAREST, level_XA.shape[1]), dim=1, largest=False).indices
        candidates.append(nearest + first)
        first += level_XA.shape[1]
    candidate_XC = torch.cat(candidates, dim=1)
    own_XC = overlap_XA.gather(1, candidate_XC)
    spread_X1 = own_XC.std(1, keepdim=True) if own_XC.shape[1] > 1 else torch.zeros_like(own_XC)
    inside_XC = _side_distances(centres(anchor_A4)[candidate_XC], box_X4[:, None]).amin(-1) > INSIDE
    taken_XC = inside_XC & (own_XC >= own_XC.mean(1, keepdim=True) + spread_X1)
    taken_XA = torch.zeros_like(overlap_XA, dtype=torch.bool).scatter(1, candidate_XC, taken_XC)
    best, box_A = overlap_XA.masked_fill(~taken_XA, -1.0).max(0)
    return torch.where(best < 0, -1, box_A)


def centre_targets(anchor_P4: Float[Tensor, "P 4"], box_P4: Float[Tensor, "P 4"]) -> Float[Tensor, "P"]:
    """How central each anchor is in its box, in [0, 1]: the geometric mean of the ratios of opposite distances.

    Args:
        anchor_P4: anchors whose centres are inside their boxes.
        box_P4: the box of each.
    """
    near_P2, far_P2 = _side_distances(centres(anchor_P4), box_P4).split(2, dim=-1)
    return (torch.minimum(near_P2, far_P2) / torch.maximum(near_P2, far_P2)).prod(-1).sqrt()


def _side_distances(point_2: Tensor, box_4: Tensor) -> Tensor:
    """Left, top, right, bottom; negative outside."""
    return torch.cat([point_2 - box_4[..., :2], box_4[..., 2:] - point_2], dim=-1)
