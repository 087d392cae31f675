"""The fusion encoder for one text and two images (ALBEF's code for NLVR2; section 4 of the paper).

Every fusion block of a one-image encoder becomes two: the first looks at the first image, the second at the second.
Both start as the same block, and the two share the keys and values of their cross-attention for good.

Shape letters: P pairs of images with a text, L text tokens, I images, N image tokens, D text width, V image width,
H heads.
"""

import copy
import re

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.nn.fusion import Fused, FusionBlock, FusionEncoder


class PairBlock(nn.Module):
    """A block for the first image and one for the second, with one matrix for the keys and values of both.

    Args:
        block: taken as the first; the second is a copy.
    """

    def __init__(self, block: FusionBlock) -> None:
        super().__init__()
        self.first = block
        self.second = copy.deepcopy(block)
        self.second.cross.kv = self.first.cross.kv

    def forward(
        self,
        x_PLD: Float[Tensor, "P L D"],
        mask_PL: Bool[Tensor, "P L"],
        first_PNV: Float[Tensor, "P N V"],
        second_PNV: Float[Tensor, "P N V"],
        want_attention: tuple[bool, bool] = (False, False),
    ) -> tuple[Float[Tensor, "P L D"], Float[Tensor, "P H L N"] | None]:
        """States of the text tokens, and the cross-attention weights of one of the two blocks if wanted."""
        x_PLD, to_first = self.first(x_PLD, mask_PL, first_PNV, None, want_attention[0])
        x_PLD, to_second = self.second(x_PLD, mask_PL, second_PNV, None, want_attention[1])
        return x_PLD, to_second if to_first is None else to_first


class PairFusion(nn.Module):
    """A stack of pair blocks; stands in the place of the fusion encoder in a `FusionModel`.

    Args:
        fusion: a one-image encoder, new or trained; its blocks are taken and doubled.
    """

    def __init__(self, fusion: FusionEncoder) -> None:
        super().__init__()
        blocks = [block for block in fusion.layers if isinstance(block, FusionBlock)]
        self.layers = nn.ModuleList(PairBlock(block) for block in blocks)

    def forward(
        self,
        text_PLD: Float[Tensor, "P L D"],
        mask_PL: Bool[Tensor, "P L"],
        image_INV: Float[Tensor, "I N V"],
        image_index_P2: Int[Tensor, "P 2"] | None = None,
        attention_layer: int | None = None,
    ) -> Fused:
        """Fuses P texts with two images each.

        Args:
            text_PLD: text states.
            mask_PL: True at real tokens.
            image_INV: image tokens.
            image_index_P2: first and second image of each text; None = images come in pairs, in the order of the texts.
            attention_layer: the block whose cross-attention weights to return, counted from 0 over single blocks: an
                even one looks at the first image, an odd one at the second.
        """
        if image_index_P2 is None:
            image_index_P2 = torch.arange(len(image_INV), device=image_INV.device).view(-1, 2)
        first_PNV, second_PNV = (image_INV.index_select(0, index_P) for index_P in image_index_P2.unbind(1))
        attention = None
        x = text_PLD
        for index, layer in enumerate(self.layers):
            wanted = (attention_layer == 2 * index, attention_layer == 2 * index + 1)
            x, weights = layer(x, mask_PL, first_PNV, second_PNV, wanted)
            attention = attention if weights is None else weights
        return Fused(x, x[:, 0], attention)


def one_image_name(name: str) -> str:
    """The name that a parameter of a `PairFusion` has in the one-image encoder; other names are left as they are.

    For starting from a trained model of one image: ``start_from(model, path, new=("heads.",), seed=one_image_name)``.
    """
    return re.sub(r"(fusion\.layers\.\d+)\.(first|second)\.", r"\1.", name)
