"""Words against the places of an image: a score of text and image without fusion (late interaction).

Shape letters: I images, N image tokens (the first is the summary), V image width, T texts, L tokens, D text width,
W real tokens of all texts, M places (N - 1), E shared width, G phrases, R tokens of all phrases.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wordregion.nn.dropout import dropout

SHARPNESS = 10.0
"""Factor of the cosines by which a word chooses its places."""
SCALE = 40.0
"""Factor of the scores, by which they are logits."""
AT_ONCE = 1 << 21
"""Cosines computed at once: a CPU fetches the memory of larger tensors anew each time (`benchmarks/word_region.py`)."""


class WordRegionHead(nn.Module):
    """Compares each word with each place of an image by cosine; each word counts by a learned importance.

    A text's score of an image is `SCALE` times the mean over its words of their `attended_cosine`.

    Args:
        width: D.
        image_width: V.
        embed: E.
        dropout: rate in [0, 1) at which image tokens miss channels in training.
    """

    def __init__(self, width: int, image_width: int, embed: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.word_proj = nn.Linear(width, embed)
        self.place_proj = nn.Linear(image_width, embed)
        self.importance = nn.Linear(width, 1, bias=False)

    def words(self, text: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows E"]:
        """Unit vectors of text states."""
        return F.normalize(self.word_proj(text), dim=-1)

    def places(self, image_INV: Float[Tensor, "I N V"]) -> Float[Tensor, "I M E"]:
        """Unit vectors of all image tokens but the summary."""
        return F.normalize(self.place_proj(dropout(image_INV[:, 1:], self.dropout, self.training)), dim=-1)

    def forward(
        self,
        text_TLD: Float[Tensor, "T L D"],
        mask_TL: Bool[Tensor, "T L"],
        place_IME: Float[Tensor, "I M E"],
    ) -> Float[Tensor, "T I"]:
        """Logits of every text with every image.

        Args:
            text_TLD: states of the text half.
            mask_TL: True at real tokens, of which each text has one at least.
            place_IME: of `places`.
        """
        text_W = mask_TL.nonzero()[:, 0]
        word_WD = text_TLD[mask_TL]
        weight_TL = self.importance(text_TLD).float().squeeze(-1).masked_fill(~mask_TL, -torch.inf).softmax(-1)
        word_WE, (images, places, width) = self.words(word_WD), place_IME.shape
        together = max(1, AT_ONCE // max(1, len(word_WE) * places))
        cosines = (
            (word_WE @ some.reshape(-1, width).T).view(-1, len(some), places) for some in place_IME.split(together)
        )
        attended_WI = torch.cat([attended_cosine(some.float(), SHARPNESS) for some in cosines], dim=1)
        score_TI = attended_WI.new_zeros(len(text_TLD), images)
        return SCALE * score_TI.index_add(0, text_W, weight_TL[mask_TL][:, None] * attended_WI)

    def phrases(
        self,
        text_TLD: Float[Tensor, "T L D"],
        text_G: Int[Tensor, "G"],
        tokens_GL: Bool[Tensor, "G L"],
        place_IME: Float[Tensor, "I M E"],
        image_G: Int[Tensor, "G"],
    ) -> Float[Tensor, "G M"]:
        """Mean cosine of each phrase's words with the places of its image.

        Args:
            text_TLD: states of the text half.
            text_G: the text that a phrase stands in.
            tokens_GL: True at the phrase's tokens, of which it has one at least.
            place_IME: of `places`.
            image_G: the image of each phrase.
        """
        phrase_R, token_R = tokens_GL.nonzero(as_tuple=True)
        word_RE = self.words(text_TLD[text_G[phrase_R], token_R]).float()
        phrase_GE = word_RE.new_zeros(len(text_G), word_RE.shape[-1]).index_add(0, phrase_R, word_RE)
        phrase_GE = phrase_GE / tokens_GL.sum(1, keepdim=True)
        # the phrases of an image side by side: a copy of its places for each of them would be far larger
        order_G = image_G.argsort(stable=True)
        count_I = torch.bincount(image_G, minlength=len(place_IME))
        by_image = pad_sequence(phrase_GE[order_G].split(count_I.tolist()), batch_first=True)
        real = torch.arange(by_image.shape[1], device=count_I.device) < count_I[:, None]
        return (by_image @ place_IME.float().transpose(1, 2))[real][order_G.argsort()]


def attended_cosine(cosine_WIM: Float[Tensor, "W I M"], sharpness: float) -> Float[Tensor, "W I"]:
    """How well an image shows a word: the mean of the word's cosines with the places, weighted by a softmax of them.

    Between SCAN, which attends and then compares (Lee et al. 2018, section 3.1), and FILIP, which takes the best place
    (Yao et al. 2022, section 3.1): sharpness 0 gives the plain mean, a very high one the maximum.

    Args:
        cosine_WIM: in [-1, 1].
        sharpness: factor of the cosines in the softmax.
    """
    return ((sharpness * cosine_WIM).softmax(-1) * cosine_WIM).sum(-1)
