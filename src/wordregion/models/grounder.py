"""GLIP: detection as grounding. A pyramid and a text encoder, a tower that fuses both, a head of words and boxes.

Shape letters: I images, T texts (each with one image), L tokens, D text width, C channels, N places of all levels,
H and W pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.nn.anchor_head import AnchorHead, Grounded
from wordregion.nn.deep_fusion import DeepFusion, TextBlock
from wordregion.nn.dyhead import DyConv
from wordregion.nn.fusion import init_like_bert
from wordregion.nn.pyramid import STRIDES, FeaturePyramid, TimmPyramid
from wordregion.nn.text import TextEncoder


class TowerLayer(nn.Module):
    """Fusion, then a text layer and a convolution of the pyramid; without fusion only the latter.

    Args:
        conv: of the pyramid.
        fusion: of both sides, or None.
        text: of the text, or None.
    """

    def __init__(self, conv: DyConv, fusion: DeepFusion | None = None, text: TextBlock | None = None) -> None:
        super().__init__()
        self.conv, self.fusion, self.text = conv, fusion, text

    def forward(
        self,
        levels: Sequence[Float[Tensor, "T C _ _"]],
        text_TLD: Float[Tensor, "T L D"],
        mask_TL: Bool[Tensor, "T L"],
        seen: Bool[Tensor, "T 1 #L L"],
    ) -> tuple[list[Tensor], Float[Tensor, "T L D"]]:
        """Both sides, changed.

        Args:
            levels: of the pyramid.
            text_TLD: states.
            mask_TL: True at real tokens.
            seen: which tokens each token may look at.
        """
        if self.fusion is not None:
            flat_TNC = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
            flat_TNC, text_TLD = self.fusion(flat_TNC, text_TLD, mask_TL)
            parts = flat_TNC.split([level[0, 0].numel() for level in levels], dim=1)
            levels = [part.transpose(1, 2).reshape(old.shape) for part, old in zip(parts, levels, strict=True)]
        if self.text is not None:
            text_TLD = self.text(text_TLD, seen)
        return self.conv(levels), text_TLD


class PromptOffset(nn.Module):
    """A learned offset of the text's states, all that prompt tuning trains (GLIP, section 4.2); zero at first.

    Args:
        width: D.
        tokens: longest text.
    """

    def __init__(self, width: int, tokens: int = 1000) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tokens, width))

    def forward(self, text_TLD: Float[Tensor, "T L D"]) -> Float[Tensor, "T L D"]:
        """The states, moved."""
        return text_TLD + self.weight[: text_TLD.shape[1]]


class Grounder(nn.Module):
    """All weights of a detector that reads; it never tokenises, samples, computes a loss or communicates.

    Args:
        vision: backbone, injected.
        pyramid: FPN, injected.
        text: text encoder, injected.
        tower: layers, injected; all with fusion, or none.
        head: injected.
        separator: id of the token that ends a phrase: phrases of a text then don't see each other in the text encoder
            and the text layers. None = they do, as published.

    Attributes:
        offset: of a tuned prompt, or None (`models.adapt`).
    """

    def __init__(
        self,
        vision: TimmPyramid,
        pyramid: FeaturePyramid,
        text: TextEncoder,
        tower: Sequence[TowerLayer],
        head: AnchorHead,
        separator: int | None = None,
    ) -> None:
        super().__init__()
        self.vision, self.pyramid, self.text = vision, pyramid, text
        self.tower = nn.ModuleList(tower)
        self.head = head
        self.separator = separator
        self.offset: PromptOffset | None = None

    def encode_image(self, image_I3HW: Float[Tensor, "I 3 H W"]) -> list[Tensor]:
        """P3 to P7; sides are padded with zeros, right and below, to multiples of 32 pixels."""
        height, width = image_I3HW.shape[2:]
        image_I3HW = F.pad(image_I3HW, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        return self.pyramid(self.vision(image_I3HW))

    def encode_text(self, ids_TL: Int[Tensor, "T L"], mask_TL: Bool[Tensor, "T L"]) -> Float[Tensor, "T L D"]:
        """States of the text encoder, with the offset of a tuned prompt."""
        if self.separator is None:
            text_TLD = self.text(ids_TL, mask_TL)
        else:
            text_TLD = self.text.decode(ids_TL, self.seen(ids_TL, mask_TL))
        return text_TLD if self.offset is None else self.offset(text_TLD)

    def seen(self, ids_TL: Int[Tensor, "T L"], mask_TL: Bool[Tensor, "T L"]) -> Bool[Tensor, "T 1 #L L"]:
        """Which tokens each token may look at: all real ones, or those of its own phrase."""
        if self.separator is None:
            return mask_TL[:, None, None, :]
        ends_TL = ids_TL == self.separator
        phrase_TL = ends_TL.cumsum(1) - ends_TL.long()  # a phrase has the separator behind it
        return ((phrase_TL[:, :, None] == phrase_TL[:, None, :]) & mask_TL[:, None, :])[:, None]

    def ground(
        self,
        levels: Sequence[Float[Tensor, "I C _ _"]],
        text_TLD: Float[Tensor, "T L D"],
        ids_TL: Int[Tensor, "T L"],
        mask_TL: Bool[Tensor, "T L"],
        image_T: Int[Tensor, "T"] | None = None,
    ) -> Grounded:
        """What each place of its image says to each text.

        Args:
            levels: of `encode_image`; an image is encoded once for any number of texts.
            text_TLD: of `encode_text`.
            ids_TL: token ids.
            mask_TL: True at real tokens.
            image_T: image of each text; None = one text an image, in order.
        """
        if image_T is not None:
            levels = [level.index_select(0, image_T) for level in levels]
        seen = self.seen(ids_TL, mask_TL)
        if all(layer.fusion is None for layer in self.tower):
            text_TLD = text_TLD * mask_TL[..., None]  # as published: without fusion, padding says nothing
        for layer in self.tower:
            levels, text_TLD = layer(levels, text_TLD, mask_TL, seen)
        return self.head(levels, text_TLD)

    def forward(
        self,
        image_I3HW: Float[Tensor, "I 3 H W"],
        ids_TL: Int[Tensor, "T L"],
        mask_TL: Bool[Tensor, "T L"],
        image_T: Int[Tensor, "T"] | None = None,
    ) -> Grounded:
        """All of it; see `encode_image` and `ground`."""
        levels = self.encode_image(image_I3HW)
        return self.ground(levels, self.encode_text(ids_TL, mask_TL), ids_TL, mask_TL, image_T)

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing."""
        return [*self.vision.blocks(), *self.text.blocks(), *self.tower]


def assemble(
    vision: TimmPyramid,
    text: TextEncoder,
    layers: int,
    channels: int = 256,
    attention: int | None = 2048,
    heads: int = 8,
    dropout: float = 0.1,
    separator: int | None = None,
) -> Grounder:
    """A detector on these encoders, the rest random.

    Args:
        vision: backbone.
        text: text encoder; the text layers of the tower are as wide and have its heads.
        layers: of the tower.
        channels: C; 32 or more in steps of 16.
        attention: width of the fusion, all heads together; None = without fusion.
        heads: of the fusion.
        dropout: rate in [0, 1) in fusion and text layers.
        separator: see `Grounder`.
    """
    config, tower = text.body.config, []
    for _ in range(layers):
        fusion = block = None
        if attention is not None:
            fusion = DeepFusion(channels, text.width, attention, heads, dropout, start=1 / layers)
            block = TextBlock(text.width, config.num_attention_heads, config.intermediate_size, dropout)
            block.apply(init_like_bert)
        tower.append(TowerLayer(DyConv(channels), fusion, block))
    pyramid, head = FeaturePyramid(vision.widths, channels), AnchorHead(channels, text.width)
    return Grounder(vision, pyramid, text, tower, head, separator)
