"""Modulated deformable convolution with 3 x 3 taps (Zhu et al. 2019), on torchvision's kernel or, on a CPU, faster.

Shape letters: B images, C channels in, O channels out, H and W size of the input, h and w of the output, J taps.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import deform_conv2d

TAPS = 9


def deform_conv(
    x_BCHW: Float[Tensor, "B C H W"],
    offset_Bkhw: Float[Tensor, "B 18 h w"],
    mask_BJhw: Float[Tensor, "B 9 h w"],
    weight_OC33: Float[Tensor, "O C 3 3"],
    bias_O: Float[Tensor, "O"],
    stride: int = 1,
) -> Float[Tensor, "B O h w"]:
    """A 3 x 3 convolution with padding 1 whose taps are moved and weighted.

    torchvision's kernel on a GPU. Its CPU kernel reads one number at a time; there, `sampled_conv` does the same work.

    Args:
        x_BCHW: input.
        offset_Bkhw: down and right of each tap, in cells.
        mask_BJhw: weight of each tap.
        weight_OC33: of the convolution.
        bias_O: of the convolution.
        stride: of the convolution.
    """
    if x_BCHW.is_cuda:
        return deform_conv2d(x_BCHW, offset_Bkhw, weight_OC33, bias_O, stride, padding=1, mask=mask_BJhw)
    return sampled_conv(x_BCHW, offset_Bkhw, mask_BJhw, weight_OC33, bias_O, stride)


def sampled_conv(
    x_BCHW: Float[Tensor, "B C H W"],
    offset_Bkhw: Float[Tensor, "B 18 h w"],
    mask_BJhw: Float[Tensor, "B 9 h w"],
    weight_OC33: Float[Tensor, "O C 3 3"],
    bias_O: Float[Tensor, "O"],
    stride: int = 1,
) -> Float[Tensor, "B O h w"]:
    """`deform_conv` in two steps: each tap is a weighted sum of four rows of a table of all cells, then one product."""
    B, C, H, W = x_BCHW.shape
    exact = torch.promote_types(x_BCHW.dtype, torch.float32)  # bfloat16 can't tell the cells of a large map apart
    x_BCHW, offset_Bkhw, mask_BJhw = (part.to(exact) for part in (x_BCHW, offset_Bkhw, mask_BJhw))
    h, w = offset_Bkhw.shape[-2:]
    move_BJ2hw = offset_Bkhw.view(B, TAPS, 2, h, w)
    tap_J = torch.arange(TAPS, device=x_BCHW.device)
    y0_Jh1 = (tap_J // 3 - 1)[:, None, None] + stride * torch.arange(h, device=x_BCHW.device)[:, None]
    x0_J1w = (tap_J % 3 - 1)[:, None, None] + stride * torch.arange(w, device=x_BCHW.device)
    rows, row_weight = _neighbours(move_BJ2hw[:, :, 0] + y0_Jh1, H)
    columns, column_weight = _neighbours(move_BJ2hw[:, :, 1] + x0_J1w, W)
    column_weight = column_weight * mask_BJhw[..., None]
    rows = rows * W + (torch.arange(B, device=x_BCHW.device) * (H * W)).view(B, 1, 1, 1, 1)

    cell = (rows[..., :, None] + columns[..., None, :]).flatten(-2)
    weight = (row_weight[..., :, None] * column_weight[..., None, :]).flatten(-2)
    cell_M4 = cell.permute(0, 2, 3, 1, 4).reshape(-1, 4)  # M = B x h x w x J
    weight_M4 = weight.permute(0, 2, 3, 1, 4).reshape(-1, 4)
    table = x_BCHW.permute(0, 2, 3, 1).reshape(-1, C)
    taps = F.embedding_bag(cell_M4, table, per_sample_weights=weight_M4, mode="sum")
    flat = weight_OC33.permute(2, 3, 1, 0).reshape(TAPS * C, -1)
    y = torch.addmm(bias_O, taps.view(-1, TAPS * C), flat)
    return y.view(B, h, w, -1).permute(0, 3, 1, 2)


def _neighbours(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two whole positions around each, kept in 0..size-1, and their linear weights (0 outside)."""
    low = at.detach().floor()
    part = at - low
    both = torch.stack([low, low + 1], -1)
    inside = (both >= 0) & (both < size)
    return both.clamp(0, size - 1).long(), torch.stack([1 - part, part], -1) * inside
