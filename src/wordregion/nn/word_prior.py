"""Which words go with an image, whatever is asked: a prior for answers.

Shape letters: I images, V image width, W vocabulary, T texts, C candidates, M tokens of a candidate.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.errors import UsageError

RIDGE = 1000.0
"""The regression is shrunk as if so many further texts, of images as spread as the others, held no word more often."""
FLOOR = 0.003
"""Added to frequencies: of a word rarer than this, no image can say much."""


class WordPrior(nn.Module):
    """How much more often texts about an image hold a word than texts about any image, by the image's summary alone.

    Linear in the summary and fitted at once, to the texts of training images (`fit`): with few images that holds up
    where what a decoder learns of them is which is which. Nothing of it is trained, so all tensors are buffers.

    Args:
        width: V.
        vocab: W.
    """

    mean: Tensor
    rate: Tensor
    weight: Tensor

    def __init__(self, width: int, vocab: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("rate", torch.zeros(vocab))
        self.register_buffer("weight", torch.zeros(vocab, width))

    @torch.no_grad()
    def fit(self, summary_TV: Float[Tensor, "T V"], words: Sequence[Sequence[int]]) -> "WordPrior":
        """Ridge regression, on the images' summaries, of whether a text holds a word.

        Args:
            summary_TV: of the image of each text.
            words: ids of each text's words; how often a text repeats one doesn't count.

        Returns:
            self.

        Raises:
            UsageError: if there are no texts, or the summaries do not vary.
        """
        said = sorted({(row, word) for row, ids in enumerate(words) for word in ids})
        if not said:
            raise UsageError("WordPrior: no text has a word. Give the texts of some images.")
        row, word = torch.tensor(said).T
        exact_TV = summary_TV.double().cpu()
        mean_V = exact_TV.mean(0)
        centred_TV = exact_TV - mean_V
        square_VV = centred_TV.T @ centred_TV
        spread = square_VV.diagonal().mean() / len(words)
        if not spread > 0:
            raise UsageError("WordPrior: all images have the same summary. Give images that differ.")
        # the deviation of a word's frequency falls out: summaries are centred
        with_WV = torch.zeros(self.weight.shape, dtype=torch.float64).index_add_(0, word, centred_TV[row])
        penalty_VV = RIDGE * spread * torch.eye(len(mean_V), dtype=torch.float64)
        self.mean.copy_(mean_V)
        self.rate.copy_(torch.bincount(word, minlength=len(self.rate)).double() / len(words))
        self.weight.copy_(torch.linalg.solve(square_VV + penalty_VV, with_WV.T).T)
        return self

    def forward(self, summary_IV: Float[Tensor, "I V"]) -> Float[Tensor, "I W"]:
        """The logarithm of how many times as frequent each word is with an image as on average; 0 is as frequent."""
        rate_IW = self.rate + (summary_IV.float() - self.mean) @ self.weight.float().T
        return (rate_IW.clamp(min=0) + FLOOR).log() - (self.rate + FLOOR).log()

    def answers(
        self, summary_IV: Float[Tensor, "I V"], ids_CM: Int[Tensor, "C M"], mask_CM: Bool[Tensor, "C M"]
    ) -> Float[Tensor, "I C"]:
        """For each candidate the mean over its words.

        Args:
            summary_IV: of the images.
            ids_CM: tokens of the candidates, [CLS] first and [SEP] last; neither counts.
            mask_CM: True at real tokens.
        """
        inner_CM = mask_CM.clone()
        inner_CM[:, 0] = False
        inner_CM[:, :-1] &= mask_CM[:, 1:]  # the last real token has none after it
        inner_CM[:, -1] = False
        share_CM = inner_CM / inner_CM.sum(1, keepdim=True).clamp(min=1)
        return (self(summary_IV)[:, ids_CM] * share_CM).sum(-1)
