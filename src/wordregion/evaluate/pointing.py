"""Measures of grounding by a map: where it points, and which box it prefers. Pure functions of tensors.

Shape letters: G phrases, Y and X cells of a map, S pixels of a side, K boxes of phrases, B boxes to choose from.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from wordregion.models.gradcam import resize

SIDE = 384
"""Pixels at which maps are read. Boxes are in [0, 1], so a picture's own aspect ratio changes nothing."""

ROUNDING = 5e-5
"""An IoU may be so far below a limit. Two boxes in [0, 1] as float32 have an IoU up to 2e-5 beside that of their
pixels (a true 1/2, one of them a pixel wide in a picture of 1,333)."""

EDGE = 1e-3
"""Pixels that a box's edge may lie before a pixel and count as on it: above what float32 rounds it by (2e-5)."""

AT_ONCE = 64
"""Resized maps held at a time."""


def peaks(maps_GYX: Float[Tensor, "G Y X"], side: int = SIDE) -> Float[Tensor, "G 2"]:
    """(x, y) in [0, 1] of each map's maximum, after bicubic resizing to `side` pixels."""
    flat_G = torch.cat([resize(part, side, side).flatten(1).argmax(1) for part in maps_GYX.split(AT_ONCE)])
    return (torch.stack([flat_G % side, flat_G // side], 1) + 0.5) / side


def box_scores(
    maps_GYX: Float[Tensor, "G Y X"], box_B4: Float[Tensor, "B 4"], power: float = 0.5, side: int = SIDE
) -> Float[Tensor, "G B"]:
    """ALBEF's rule: the sum of the resized map inside a box, over the square root of the box's area.

    The sum alone would prefer the largest box, the mean the smallest.

    Args:
        maps_GYX: one map a phrase.
        box_B4: xyxy in [0, 1].
        power: of the area.
        side: pixels at which the map is summed.
    """
    total = resize(maps_GYX, side, side).double().cumsum(1).cumsum(2)
    total = torch.nn.functional.pad(total, (1, 0, 1, 0))  # total[g, y, x] = sum over the pixels before y and x
    x0, y0, x1, y1 = (box_B4.double() * side + EDGE).floor().long().clamp(0, side).unbind(1)
    inside_GB = total[:, y1, x1] - total[:, y0, x1] - total[:, y1, x0] + total[:, y0, x0]
    area_B = ((box_B4[:, 2] - box_B4[:, 0]) * (box_B4[:, 3] - box_B4[:, 1])).double() * side**2
    return (inside_GB / area_B**power).to(maps_GYX.dtype)


def point_hits(
    point_G2: Float[Tensor, "G 2"], box_K4: Float[Tensor, "K 4"], box_phrase_K: Int[Tensor, "K"]
) -> Bool[Tensor, "G"]:
    """Pointing game: whether each phrase's point lies in any of its boxes.

    Args:
        point_G2: (x, y) in [0, 1].
        box_K4: boxes of all phrases.
        box_phrase_K: phrase of each box.
    """
    x_K, y_K = point_G2[box_phrase_K].unbind(1)
    inside_K = (x_K >= box_K4[:, 0]) & (x_K < box_K4[:, 2]) & (y_K >= box_K4[:, 1]) & (y_K < box_K4[:, 3])
    hits_G = torch.zeros(len(point_G2), dtype=torch.long, device=point_G2.device)
    return hits_G.index_add(0, box_phrase_K, inside_K.long()) > 0


def overlap_hits(
    choice_B4: Float[Tensor, "B 4"], box_K4: Float[Tensor, "K 4"], least: float = 0.5
) -> Bool[Tensor, "B"]:
    """Whether each chosen box has an IoU of at least `least` with any of a phrase's boxes (RefCOCO: one box, 0.5).

    As both sets of boxes are rounded to float32, an IoU that is lower by up to `ROUNDING` counts too.
    """
    return box_iou(choice_B4.double(), box_K4.double()).amax(1) >= least - ROUNDING


def covered(box_K4: Float[Tensor, "K 4"]) -> float:
    """Share of the image inside any of some boxes: how often a random point hits."""
    xs, ys = (torch.cat([box_K4[:, i], box_K4[:, i + 2]]).double().unique() for i in (0, 1))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    column_KX = (x >= box_K4[:, :1]) & (x < box_K4[:, 2:3])
    row_KY = (y >= box_K4[:, 1:2]) & (y < box_K4[:, 3:])
    inside_YX = (row_KY[:, :, None] & column_KX[:, None, :]).any(0)
    return float((inside_YX * ys.diff()[:, None] * xs.diff()).sum())
