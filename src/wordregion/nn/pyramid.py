"""Feature pyramids for detection: a timm backbone at strides 8, 16 and 32, and the FPN on top of it.

Shape letters: B images, H and W pixels, C channels, h and w size of a level.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torchvision.ops import drop_block2d

from wordregion.errors import UsageError
from wordregion.nn.swin import swin_stages
from wordregion.nn.vision import backbone_blocks, keep_statistics, open_backbone

STRIDES = (8, 16, 32)
LEVEL_STRIDES = (8, 16, 32, 64, 128)
"""Pixels a cell of P3 to P7."""
DROP_BLOCK = 0.3
DROP_BLOCK_SIDE = 3


class TimmPyramid(nn.Module):
    """Any timm backbone as maps of strides 8, 16 and 32 (C3 to C5), for images of any size in multiples of 32.

    Swin's maps are normalised, each by a LayerNorm of its own (GLIP's code). Batch normalisation runs on its stored
    statistics.

    Args:
        name: timm architecture, for example ``"swin_tiny_patch4_window7_224"``.
        weights: True = timm's published weights from the hub; a path = a local file in timm's layout; False = random.
        drop_path: stochastic depth rate in [0, 1) at the last block.
        settings: further architecture settings of timm.
        subsample_first: see `TimmVision`.

    Raises:
        CheckpointError: if a weight file is missing, damaged or lacks a part of the backbone.
        UsageError: if the backbone has no maps of these strides.

    Attributes:
        widths: channels of the three maps.
    """

    def __init__(
        self,
        name: str,
        weights: bool | str | Path = False,
        drop_path: float = 0.0,
        settings: dict[str, Any] | None = None,
        subsample_first: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.drop_path, self.settings = name, drop_path, settings or {}
        self.subsample_first = subsample_first
        any_size = {"strict_img_size": False, "always_partition": True} if name.startswith("swin_") else {}
        body: Any = open_backbone(name, weights, drop_path, {**self.settings, **any_size}, subsample_first)
        reductions = [level["reduction"] for level in body.feature_info]
        if not set(STRIDES) <= set(reductions):
            raise UsageError(f"{name}: has maps of strides {reductions}; a pyramid needs {STRIDES}. Use a CNN or Swin.")
        self.indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        self.widths = tuple(int(body.feature_info[index]["num_chs"]) for index in self.indices)
        body.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.body: Any = body
        self.swin = isinstance(body, SwinTransformer)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths) if self.swin else nn.ModuleList()
        self.train()

    def train(self, mode: bool = True) -> "TimmPyramid":
        """Switches dropout and drop path; batch normalisation keeps to its stored statistics."""
        super().train(mode)
        keep_statistics(self.body)
        return self

    def forward(self, image_B3HW: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """C3, C4 and C5 of normalised pixels, (B, C, h, w) each."""
        if not self.swin:
            return self.body.forward_intermediates(image_B3HW, indices=self.indices, intermediates_only=True)
        stages = swin_stages(self.body, image_B3HW)
        return [norm(stages[index]).permute(0, 3, 1, 2) for norm, index in zip(self.norms, self.indices, strict=True)]

    def blocks(self) -> list[nn.Module]:
        """The repeated parts: units of sharding, compilation and activation checkpointing."""
        if self.swin:
            return [block for stage in self.body.layers for block in stage.blocks]
        return backbone_blocks(self.body)


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017): P3 to P5 from C3 to C5, then P6 from P5 and P7 from P6 by strided convolutions.

    While training, whole squares of P3 and P4 are dropped (DropBlock, as in GLIP's code), of maps that hold one.

    Args:
        widths: channels of C3 to C5.
        channels: C of every level.
    """

    def __init__(self, widths: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.out = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)
        self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(2))
        for part in (*self.lateral, *self.out, *self.extra):
            assert isinstance(part, nn.Conv2d)
            nn.init.kaiming_uniform_(part.weight, a=1)
            assert part.bias is not None
            nn.init.zeros_(part.bias)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Tensor]:
        """P3 to P7, (B, C, h, w) each; each half the size of the one before it, rounded up."""
        above: Tensor | None = None
        levels: list[Tensor] = []
        for x, lateral, out in zip(maps[::-1], self.lateral[::-1], self.out[::-1], strict=True):
            own = lateral(x)
            if above is None:
                above = own
                levels.append(out(own))
            else:
                above = own + F.interpolate(above, size=own.shape[2:], mode="nearest")
                drop = self.training and min(above.shape[2:]) >= DROP_BLOCK_SIDE
                levels.insert(0, out(drop_block2d(above, DROP_BLOCK, DROP_BLOCK_SIDE, training=drop)))
        sixth = self.extra[0](levels[-1])
        return [*levels, sixth, self.extra[1](F.relu(sixth))]


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of P3 to P7 for an image of so many pixels (`Grounder.encode_image` pads it)."""
    rows, columns = -(-height // STRIDES[-1]) * 4, -(-width // STRIDES[-1]) * 4
    sizes = []
    for _ in LEVEL_STRIDES:
        sizes.append((rows, columns))
        rows, columns = -(-rows // 2), -(-columns // 2)
    return sizes
