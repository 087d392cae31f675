"""Dropout that draws fast on a CPU."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STEPS = 1 << 16
"""The rate is a multiple of one over this."""


def dropout(x: Float[Tensor, "*shape"], rate: float, training: bool) -> Float[Tensor, "*shape"]:
    """`torch.nn.functional.dropout`; on a CPU four values share a random number, as drawing one for each takes longer
    than all the rest (``benchmarks/dropout.py``).

    Args:
        x: any values.
        rate: probability in [0, 1) that a value becomes 0; on a CPU rounded to 1 / 65536.
        training: otherwise nothing is dropped.
    """
    if not (rate and training and x.device.type == "cpu"):
        return F.dropout(x, rate, training)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
    dropped = numbers.view(torch.int16)[: x.numel()].view(x.shape) < round(rate * STEPS) - STEPS // 2
    return x.masked_fill(dropped, 0.0).div_(1 - rate)
