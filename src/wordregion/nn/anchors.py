"""Anchors, and boxes relative to them, with a pixel's last row and column included: a box of width 1 has x1 = x0
(the "+1" of GLIP's code).

Boxes here are xyxy in pixels. Shape letters: A anchors, X boxes.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

SIDE = 8
"""Side of an anchor over its level's stride."""
CENTRE_WEIGHT, SIZE_WEIGHT = 10.0, 5.0
MOST_GROWTH = math.log(1000 / 16)


def make_anchors(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str | None = None
) -> list[Float[Tensor, "_ 4"]]:
    """One square anchor for each cell of each level, row-major.

    Args:
        sizes: rows and columns of each level.
        strides: pixels a cell of each level.
        device: of the result.
    """
    levels = []
    for (rows, columns), stride in zip(sizes, strides, strict=True):
        middle = (stride - 1) / 2
        reach = (SIDE * stride - 1) / 2
        y, x = torch.meshgrid(
            torch.arange(rows, device=device, dtype=torch.float32) * stride + middle,
            torch.arange(columns, device=device, dtype=torch.float32) * stride + middle,
            indexing="ij",
        )
        levels.append(torch.stack([x - reach, y - reach, x + reach, y + reach], -1).view(-1, 4))
    return levels


def encode_boxes(box_X4: Float[Tensor, "X 4"], anchor_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X 4"]:
    """Boxes relative to their anchors: centre over the anchor's size times 10, log of the sizes' ratio times 5."""
    centre, size = _centre_and_size(box_X4)
    own_centre, own_size = _centre_and_size(anchor_X4)
    return torch.cat([CENTRE_WEIGHT * (centre - own_centre) / own_size, SIZE_WEIGHT * (size / own_size).log()], dim=-1)


def decode_boxes(delta_X4: Float[Tensor, "X 4"], anchor_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X 4"]:
    """The inverse of `encode_boxes`; a side grows to 62.5 times the anchor's at most."""
    own_centre, own_size = _centre_and_size(anchor_X4)
    centre = own_centre + delta_X4[..., :2] / CENTRE_WEIGHT * own_size
    size = (delta_X4[..., 2:] / SIZE_WEIGHT).clamp(max=MOST_GROWTH).exp() * own_size
    return torch.cat([centre - (size - 1) / 2, centre + (size - 1) / 2], dim=-1)


def centres(box_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X 2"]:
    """x and y of the middle of each box."""
    return (box_X4[..., :2] + box_X4[..., 2:]) / 2


def to_pixels(box_X4: Float[Tensor, "X 4"], height_width: Float[Tensor, "*X 2"]) -> Float[Tensor, "X 4"]:
    """Boxes in [0, 1] of their picture as boxes in pixels, last row and column included.

    Args:
        box_X4: xyxy.
        height_width: of each box's picture, or of all.
    """
    scale = height_width.flip(-1).repeat_interleave(2, -1)[..., [0, 2, 1, 3]]
    return box_X4 * scale - box_X4.new_tensor([0.0, 0.0, 1.0, 1.0])


def to_unit(box_X4: Float[Tensor, "X 4"], height: int, width: int) -> Float[Tensor, "X 4"]:
    """The inverse of `to_pixels`, for boxes of one picture."""
    return beyond_last(box_X4) / box_X4.new_tensor([width, height, width, height])


def beyond_last(box_X4: Float[Tensor, "X 4"]) -> Float[Tensor, "X 4"]:
    """The same boxes with ends just outside, as torchvision's operators take them."""
    return box_X4 + box_X4.new_tensor([0.0, 0.0, 1.0, 1.0])


def _centre_and_size(box_X4: Tensor) -> tuple[Tensor, Tensor]:
    return centres(box_X4), box_X4[..., 2:] - box_X4[..., :2] + 1
