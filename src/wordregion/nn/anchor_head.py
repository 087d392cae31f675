"""What a detector says of each place: how well it fits each word, where its box is, how central it is (GLIP).

Shape letters: T pairs of an image and a text, A places (anchors) of all levels, L text tokens, C channels, D text
width, h and w size of a level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CLAMP = 50_000.0
PRIOR = 0.01
"""Share of places that fit a word, as the untrained head believes."""


@dataclass(frozen=True, slots=True)
class Grounded:
    """The outputs of a detector for pairs of an image and a text.

    Attributes:
        logits: (T, A, L) of each place for each token.
        delta: (T, A, 4) box of each place relative to its anchor (`nn.anchors`).
        centre: (T, A) logit of how central a place is in its box.
        sizes: rows and columns of each level; places are row-major, level after level.
    """

    logits: Float[Tensor, "T A L"]
    delta: Float[Tensor, "T A 4"]
    centre: Float[Tensor, "T A"]
    sizes: tuple[tuple[int, int], ...]


class AnchorHead(nn.Module):
    """Words as classifiers: the logit of place o and token p is ``o . W(p/2) / exp(s) + p . b + b0``, p of length 1.

    Args:
        channels: C.
        text_width: D.
        levels: of the pyramid; each scales its boxes by a learned factor.
    """

    def __init__(self, channels: int = 256, text_width: int = 768, levels: int = 5) -> None:
        super().__init__()
        self.text_proj = nn.Linear(text_width, channels)
        self.text_bias = nn.Parameter(torch.zeros(text_width))
        self.bias = nn.Parameter(torch.tensor([-math.log((1 - PRIOR) / PRIOR)]))
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.box = nn.Conv2d(channels, 4, 1)
        self.centre = nn.Conv2d(channels, 1, 1)
        self.scales = nn.Parameter(torch.ones(levels))
        for part in (self.box, self.centre):
            nn.init.normal_(part.weight, std=0.01)
            assert part.bias is not None
            nn.init.zeros_(part.bias)
        nn.init.zeros_(self.text_proj.bias)

    def forward(self, levels: Sequence[Float[Tensor, "T C _ _"]], text_TLD: Float[Tensor, "T L D"]) -> Grounded:
        """Outputs for every place of the levels, finest first."""
        place_TAC = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        boxes = [self.box(level) * scale for level, scale in zip(levels, self.scales, strict=True)]
        token_TLD = F.normalize(text_TLD, dim=-1)
        word_TLC = self.text_proj(token_TLD / 2) * (-self.log_scale).exp()
        bias_TL = token_TLD @ self.text_bias + self.bias
        return Grounded(
            logits=torch.baddbmm(bias_TL[:, None], place_TAC, word_TLC.transpose(1, 2)).clamp(-CLAMP, CLAMP),
            delta=torch.cat([box.flatten(2).transpose(1, 2) for box in boxes], dim=1),
            centre=torch.cat([self.centre(level).flatten(1) for level in levels], dim=1),
            sizes=tuple((int(level.shape[2]), int(level.shape[3])) for level in levels),
        )
