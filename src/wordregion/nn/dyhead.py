"""DyHead's convolution over a pyramid (Dai et al. 2021), as GLIP uses it.

Shape letters: B images, C channels, H and W size of a level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wordregion.nn.deform import TAPS, deform_conv

GROUPS = 16


class DyReLU(nn.Module):
    """The larger of two linear functions of each channel, both chosen by the whole map (Chen et al. 2020).

    Args:
        channels: C; divisible by `reduction`.
        reduction: factor by which the inner layer is narrower.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.down = nn.Linear(channels, channels // reduction)
        self.up = nn.Linear(channels // reduction, 4 * channels)

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """At zero inner outputs this is max(x, 0)."""
        move = F.hardsigmoid(self.up(F.relu(self.down(x_BCHW.mean((2, 3)))))) - 0.5
        slope1, height1, slope2, height2 = move[..., None, None].chunk(4, dim=1)
        return torch.maximum(x_BCHW * (2 * slope1 + 1) + height1, x_BCHW * (2 * slope2) + height2)


class Branch(nn.Module):
    """A deformable 3 x 3 convolution and its GroupNorm.

    Args:
        channels: C, in and out; divisible by 16.
        stride: 1 or 2.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3).normal_(std=0.01))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(
        self, x: Float[Tensor, "B C H W"], offset: Float[Tensor, "B 18 h w"], mask: Float[Tensor, "B 9 h w"]
    ) -> Float[Tensor, "B C h w"]:
        """See `deform_conv`; normalised."""
        return self.norm(self.convolve(x, offset, mask))

    def convolve(
        self, x: Float[Tensor, "B C H W"], offset: Float[Tensor, "B 18 h w"], mask: Float[Tensor, "B 9 h w"]
    ) -> Float[Tensor, "B C h w"]:
        """Before the norm."""
        return deform_conv(x, offset, mask, self.weight, self.bias, self.stride)


class DyConv(nn.Module):
    """Each level becomes the mean of up to three branches: from itself, the finer and the coarser level, weighted.

    One convolution on a level says how the taps of all its branches move. The branch from the coarser level is smaller
    than that map; it reads the map's memory as if it were of its own size (`read_as`), as GLIP's CUDA kernel does, on
    which the released weights were trained.

    Args:
        channels: C; divisible by 16.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.move = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)
        self.coarser = Branch(channels)
        self.same = Branch(channels)
        self.finer = Branch(channels, stride=2)
        self.weigh = nn.Conv2d(channels, 1, 1)
        self.activation = DyReLU(channels)
        for part in (self.move, self.weigh):
            nn.init.normal_(part.weight, std=0.01)
            assert part.bias is not None
            nn.init.zeros_(part.bias)

    def forward(self, levels: Sequence[Float[Tensor, "B C _ _"]]) -> list[Tensor]:
        """The levels, finest first; each half the size of the one before it, rounded up."""
        return [self.activation(self.mixed(levels, number)) for number in range(len(levels))]

    def mixed(self, levels: Sequence[Float[Tensor, "B C _ _"]], number: int) -> Float[Tensor, "B C H W"]:
        """One level before the activation."""
        x = levels[number]
        moved = self.move(x)
        offset, mask = moved[:, : 2 * TAPS], moved[:, 2 * TAPS :].sigmoid()
        parts = [self.same(x, offset, mask)]
        if number > 0:
            parts.append(self.finer(levels[number - 1], offset, mask))
        if number + 1 < len(levels):
            small = levels[number + 1]
            size = (int(small.shape[2]), int(small.shape[3]))
            part = self.coarser(small, read_as(offset, size), read_as(mask, size))
            parts.append(F.interpolate(part, size=x.shape[2:], mode="bilinear", align_corners=True))
        weights = [F.hardsigmoid(F.relu(self.weigh(part.mean((2, 3), keepdim=True)))) for part in parts]
        return torch.stack([part * weight for part, weight in zip(parts, weights, strict=True)]).mean(0)


def read_as(map_BKHW: Float[Tensor, "B K H W"], size: tuple[int, int]) -> Float[Tensor, "B K h w"]:
    """The first K x h x w numbers of each map's memory, as a map of another size; h x w is at most H x W."""
    B, K = map_BKHW.shape[:2]
    return map_BKHW.flatten(1)[:, : K * size[0] * size[1]].view(B, K, *size)
