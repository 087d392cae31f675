"""Where on its grid an image token lies, for backbones whose tokens hardly tell (CNNs).

Shape letters: N grid tokens, V image width.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def sine_places(grid: int, width: int) -> Float[Tensor, "N V"]:
    """Sines and cosines of column and row, of a period from 4 grid lengths to 2 tokens, in [-1, 1] (DETR, MAE).

    Args:
        grid: N is its square, in row-major order.
        width: V, a multiple of 4.
    """
    place = (torch.arange(grid) + 0.5) / grid
    rate = torch.pi / 2 * (2.0 * grid) ** torch.linspace(0, 1, width // 4)
    angle = place[:, None] * rate
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    column, row = axis[None].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
    return torch.cat([column, row], dim=-1).flatten(0, 1)
