"""timm's Swin on pictures of any size, with windows as detectors lay them.

Where a map is no multiple of the window, detectors pad it first and then shift; timm shifts first, and its windows at
the border hold other cells. Released detectors (GLIP) were trained with the former.

Shape letters: B images, H and W cells, C channels, G windows, M cells of a window.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HIDDEN = -100.0
"""Added to the scores of cells that are neighbours only because the shift wrapped around (Swin's code)."""


def swin_stages(body: Any, image_B3HW: Float[Tensor, "B 3 _ _"]) -> list[Tensor]:
    """The outputs of all stages, finest first, (B, H, W, C) each and not normalised.

    Args:
        body: timm's SwinTransformer, made with ``always_partition=True, strict_img_size=False``.
        image_B3HW: normalised pixels; both sides multiples of the patch.
    """
    x = body.patch_embed(image_B3HW)
    outputs = []
    for stage in body.layers:
        x = stage.downsample(x)
        hidden = shift_mask(x, stage.blocks[0].window_size[0])
        for block in stage.blocks:
            x = x + block.drop_path1(_window_attention(block, block.norm1(x), hidden))
            x = x + block.drop_path2(block.mlp(block.norm2(x)))
        outputs.append(x)
    return outputs


def shift_mask(x_BHWC: Float[Tensor, "B H W C"], window: int) -> Float[Tensor, "G M M"]:
    """What to add to the scores within each window of a padded and shifted map."""
    sides = [-(-side // window) * window for side in x_BHWC.shape[1:3]]
    ids = []
    for side in sides:
        place = torch.arange(side, device=x_BHWC.device)
        ids.append((place >= side - window).long() + (place >= side - window // 2))
    region = (3 * ids[0][:, None] + ids[1]).view(sides[0] // window, window, sides[1] // window, window)
    region_GM = region.transpose(1, 2).reshape(-1, window * window)
    apart_GMM = region_GM[:, :, None] != region_GM[:, None, :]
    return torch.zeros_like(apart_GMM, dtype=x_BHWC.dtype).masked_fill(apart_GMM, HIDDEN)


def _window_attention(block: Any, x_BHWC: Tensor, hidden_GMM: Tensor) -> Tensor:
    B, H, W, C = x_BHWC.shape
    window = block.window_size[0]
    shift = block.shift_size[0]
    x = F.pad(x_BHWC, (0, 0, 0, -W % window, 0, -H % window))
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.view(B, rows, window, columns, window, C).transpose(2, 3).reshape(-1, window * window, C)
    x = block.attn(x, mask=hidden_GMM if shift else None)
    x = x.view(B, rows, columns, window, window, C).transpose(2, 3).reshape(B, rows * window, columns * window, C)
    if shift:
        x = x.roll((shift, shift), (1, 2))
    return x[:, :H, :W]
