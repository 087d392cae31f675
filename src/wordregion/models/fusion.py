"""The model of ALBEF, X-VLM and VL-Match: two encoders, two projections, a fusion encoder and heads.

Shape letters: I images (or views: images and regions), N image tokens, V image width, X regions, T texts, P pairs,
L text tokens, D text width, E shared width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.nn.fusion import Fused, FusionEncoder, SharedTokens
from wordregion.nn.heads import temperature
from wordregion.nn.pair_fusion import PairFusion
from wordregion.nn.places import sine_places
from wordregion.nn.regions import Views, encode_views
from wordregion.nn.text import TextEncoder
from wordregion.nn.vision import TimmVision


class FusionModel(nn.Module):
    """All weights of a system, and nothing else: it never tokenises, samples, computes a loss or communicates.

    Args:
        vision: image encoder, injected.
        text: text encoder, injected.
        fusion: fusion encoder for one image or two a text, injected.
        embed: E, the width in which images and texts are compared (256 as published).
        heads: outputs on the fused states by name, for example ``match`` and ``mask``.
        start_temperature: initial softmax temperature of the contrast (0.07 as published).
        places: add a learned vector for each place of the grid to the image tokens before they are fused; for CNNs,
            whose tokens hardly tell where they are. Not in the published models.
    """

    def __init__(
        self,
        vision: TimmVision,
        text: TextEncoder,
        fusion: FusionEncoder | PairFusion,
        heads: Mapping[str, nn.Module],
        embed: int = 256,
        start_temperature: float = 0.07,
        places: bool = False,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.fusion = fusion
        self.image_proj = nn.Linear(vision.width, embed)
        self.text_proj = nn.Linear(text.width, embed)
        self.heads = nn.ModuleDict(heads)
        self.temperature = temperature(start_temperature)
        self.places = nn.Parameter(sine_places(vision.grid, vision.width)) if places else None

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.vision.image_size

    def encode_image(self, image_I3HW: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I N V"]:
        """Image tokens; row 0 of each image is its summary."""
        return self.vision(image_I3HW)

    def encode_views(
        self, image_I3HW: Float[Tensor, "I 3 H W"], box_X4: Float[Tensor, "X 4"], image_X: Int[Tensor, "X"]
    ) -> Views:
        """The images, then regions of them, out of one encoding of each image.

        Args:
            image_I3HW: normalised pixels.
            box_X4: xyxy in [0, 1].
            image_X: the image of each region.
        """
        return encode_views(self.vision, image_I3HW, box_X4, image_X)

    def encode_text(self, ids_TL: Int[Tensor, "T L"], mask_TL: Bool[Tensor, "T L"]) -> Float[Tensor, "T L D"]:
        """States of the text half."""
        return self.text(ids_TL, mask_TL)

    def project_image(self, image_INV: Float[Tensor, "I N V"]) -> Float[Tensor, "I E"]:
        """Unit vectors for the contrast."""
        return F.normalize(self.image_proj(image_INV[:, 0]), dim=-1)

    def project_text(self, hidden_TLD: Float[Tensor, "T L D"], mask_TL: Bool[Tensor, "T L"]) -> Float[Tensor, "T E"]:
        """Unit vectors for the contrast."""
        return F.normalize(self.text_proj(self.text.summary(hidden_TLD, mask_TL)), dim=-1)

    def fuse(
        self,
        text_PLD: Float[Tensor, "P L D"],
        mask_PL: Bool[Tensor, "P L"],
        image_INV: Float[Tensor, "I N V"],
        image_index_P: Int[Tensor, "P *two"] | None = None,
        attention_layer: int | None = None,
        image_mask_IN: Bool[Tensor, "I N"] | None = None,
        shared: SharedTokens | None = None,
    ) -> Fused:
        """Fused states of P pairs; see `FusionEncoder.forward`, or `PairFusion.forward` for two images a text."""
        if self.places is not None:
            image_INV = torch.cat([image_INV[:, :1], image_INV[:, 1:] + self.places], dim=1)
        regions = (
            {} if image_mask_IN is None else {"image_mask_IN": image_mask_IN, "shared": shared}
        )  # one image a text
        return self.fusion(text_PLD, mask_PL, image_INV, image_index_P, attention_layer, **regions)

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing."""
        decoders = (layer for head in self.heads.values() for layer in getattr(head, "layers", ()))
        return [*self.vision.blocks(), *self.text.blocks(), *self.fusion.layers, *decoders]
