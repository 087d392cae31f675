"""Regions of an image as token sequences of their own, out of one encoding of the image (X-VLM section 3.1).

A *view* is what a text can be about: a whole image, or a region of one. A region keeps the tokens of its whole image;
its summary is its own, and a mask tells which tokens lie in its box.

Shape letters: B images, X regions, W views (the images, then the regions), N tokens (the first is the summary),
D width, H and W pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.nn.fusion import SharedTokens
from wordregion.nn.vision import TimmVision

LOCAL_LAYERS = 4
"""Last layers of a ViT that run again for each region, seeing the inside of its box only (X-VLM's code)."""
ROUNDING = 1e-4
"""Share of a patch by which an edge may miss the patch's own: boxes of float32 do."""


@dataclass(frozen=True, slots=True)
class Views:
    """The images of a batch, then regions of them.

    Attributes:
        tokens: (W, N, D) tokens; row 0 of each view is its summary.
        mask: (W, N) True where a text about the view may look; None = everywhere, there are no regions.
        shared: that pooled regions have the tokens of their image; None = every view has tokens of its own.
    """

    tokens: Float[Tensor, "W N D"]
    mask: Bool[Tensor, "W N"] | None = None
    shared: SharedTokens | None = None


def check_places(grid: int, what: str) -> None:
    """Checks that an image encoder's tokens have places.

    Args:
        grid: tokens along a side; 0 = they have none.
        what: needs them, for the message.

    Raises:
        UsageError: if there are none.
    """
    if grid < 1:
        raise UsageError(f"{what}: this image encoder gives tokens without places. Use one with a grid.")


def patch_mask(box_X4: Float[Tensor, "X 4"], grid: int) -> Bool[Tensor, "X N"]:
    """True at the summary and at every patch that a box touches, one at least; row-major.

    Args:
        box_X4: xyxy in [0, 1]; width and height may be 0.
        grid: patches along a side.

    Raises:
        UsageError: if there are none.
    """
    check_places(grid, "regions")
    low_X2 = (box_X4[:, :2] * grid + ROUNDING).floor().clamp(0, grid - 1)
    high_X2 = (box_X4[:, 2:] * grid - ROUNDING).ceil().clamp(max=grid).maximum(low_X2 + 1)
    place = torch.arange(grid, device=box_X4.device)
    inside_X2G = (place >= low_X2[..., None]) & (place < high_X2[..., None])
    inside = inside_X2G[:, 1, :, None] & inside_X2G[:, 0, None, :]
    return torch.cat([inside.new_ones(len(box_X4), 1), inside.flatten(1)], dim=1)


def pool_regions(
    image_BND: Float[Tensor, "B N D"], box_X4: Float[Tensor, "X 4"], image_X: Int[Tensor, "X"], grid: int
) -> Views:
    """Regions out of finished image tokens: their summary is the mean of the tokens inside the box.

    Args:
        image_BND: image tokens.
        box_X4: xyxy in [0, 1].
        image_X: the image of each region.
        grid: patches along a side.

    Raises:
        UsageError: if there are none.
    """
    if not len(box_X4):
        return Views(image_BND)
    mask_XN = patch_mask(box_X4, grid)
    grid_XND = image_BND.index_select(0, image_X)[:, 1:]
    inside_XN1 = mask_XN[:, 1:, None].to(grid_XND.dtype)
    summary_X1D = (grid_XND * inside_XN1).sum(1, keepdim=True) / inside_XN1.sum(1, keepdim=True)
    own = torch.arange(len(image_BND), device=image_X.device)
    shared = SharedTokens(len(image_BND), torch.cat([own, image_X]))
    return _views(image_BND, torch.cat([summary_X1D, grid_XND], dim=1), mask_XN, shared)


def encode_views(
    vision: TimmVision,
    image_B3HW: Float[Tensor, "B 3 H W"],
    box_X4: Float[Tensor, "X 4"],
    image_X: Int[Tensor, "X"],
) -> Views:
    """Encodes images once, and regions of them.

    The last layers of timm's plain ViT (DeiT's and CLIP's are) run again for each region, from what they got for its
    image, and attend inside the box and to [CLS] only. Regions of any other backbone are pooled (`pool_regions`).

    Args:
        vision: the image encoder.
        image_B3HW: normalised pixels.
        box_X4: xyxy in [0, 1].
        image_X: the image of each region.
    """
    if not len(box_X4):
        return Views(vision(image_B3HW))
    if not has_local_layers(vision):
        return pool_regions(vision(image_B3HW), box_X4, image_X, vision.grid)
    body: Any = vision.body
    local = min(LOCAL_LAYERS, len(body.blocks) - 1)
    image_BND, before = body.forward_intermediates(
        image_B3HW, indices=[len(body.blocks) - 1 - local], output_fmt="NLC", return_prefix_tokens=True
    )
    grid, prefix = before[0]
    mask_XN = patch_mask(box_X4, vision.grid)
    seen_XN = torch.cat([mask_XN.new_ones(len(box_X4), vision.prefix_tokens), mask_XN[:, 1:]], dim=1)
    x = torch.cat([prefix, grid], dim=1).index_select(0, image_X)
    for block in body.blocks[len(body.blocks) - local :]:
        x = block(x, attn_mask=seen_XN[:, None, None, :])
    return _views(vision.tokens_of(image_BND), vision.tokens_of(body.norm(x)), mask_XN)


def has_local_layers(vision: TimmVision) -> bool:
    """Whether regions need layers of the image encoder, and not its finished tokens alone."""
    return isinstance(vision.body, VisionTransformer)


def _views(image_BND: Tensor, region_XND: Tensor, mask_XN: Tensor, shared: SharedTokens | None = None) -> Views:
    everywhere = mask_XN.new_ones(image_BND.shape[:2])
    return Views(torch.cat([image_BND, region_XND]), torch.cat([everywhere, mask_XN]), shared)
