"""Which words go with an image, whatever is asked: a prior for answers.

Shape letters: I images, F width of their summaries, T training images, W words, C candidates, M tokens of a candidate.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wordregion.errors import UsageError

NOISE = 0.5
"""Of what is said about an image, so much is chance, as a multiple of the variance that its likeness to others explains
(kernel ridge regression's penalty)."""
FLOOR = 0.01
"""Added to frequencies: of a word said of fewer images, no image can tell much."""


class WordPrior(nn.Module):
    """How much likelier a word is said about an image than about any image, by the image's likeness to others alone.

    Kernel ridge regression (exp of minus the squared distance of two summaries over its median) on training images, in
    closed form (`fit`): with few images that holds up where what a decoder learns of them is which is which. It takes
    T² memory and T³ work. Nothing of it is trained, so all tensors are buffers.

    Args:
        width: F.
        images: T.
        words: W.
    """

    word: Tensor
    image: Tensor
    distance: Tensor
    rate: Tensor
    weight: Tensor

    def __init__(self, width: int, images: int, words: int) -> None:
        super().__init__()
        self.register_buffer("word", torch.arange(words))
        self.register_buffer("image", torch.zeros(images, width))
        self.register_buffer("distance", torch.ones(()))
        self.register_buffer("rate", torch.zeros(words))
        self.register_buffer("weight", torch.zeros(images, words))

    @torch.no_grad()
    def fit(self, words: Iterable[int], summary_TF: Float[Tensor, "T F"], said: Sequence[Iterable[int]]) -> "WordPrior":
        """Learns about which images which words are said.

        Args:
            words: the W ids that it is to tell of, those of the answers for example.
            summary_TF: of the training images.
            said: ids of the words in the texts about each of them; how often one is repeated doesn't count.

        Returns:
            self.

        Raises:
            UsageError: if images or words are of another number than T and W, or most images have the same summary.
        """
        told, rows = sorted(set(words)), [set(ids) for ids in said]
        if (len(rows), len(told)) != self.weight.shape:
            made = "{:,} images and {:,} words".format(*self.weight.shape)
            raise UsageError(f"WordPrior: {len(rows):,} images and {len(told):,} words; it was made for {made}.")
        holds_TW = torch.tensor([[word in ids for word in told] for ids in rows], dtype=torch.float64)
        exact_TF = summary_TF.double().cpu()
        square_TT = torch.cdist(exact_TF, exact_TF).square()
        distance = square_TT[~torch.eye(len(rows), dtype=torch.bool)].median()
        if not distance > 0:
            raise UsageError("WordPrior: most images have the same summary. Give images that differ.")
        rate_W = holds_TW.mean(0)
        kernel_TT = (-square_TT / distance).exp() + NOISE * torch.eye(len(rows), dtype=torch.float64)
        self.word.copy_(torch.tensor(told))
        self.image.copy_(exact_TF)
        self.distance.copy_(distance)
        self.rate.copy_(rate_W)
        self.weight.copy_(torch.linalg.solve(kernel_TT, holds_TW - rate_W))
        return self

    def forward(self, summary_IF: Float[Tensor, "I F"]) -> Float[Tensor, "I W"]:
        """The logarithm of how many times as likely each word is with an image as on average; 0 is as likely."""
        exactly = "donot_use_mm_for_euclid_dist"
        square_IT = torch.cdist(summary_IF.float(), self.image, compute_mode=exactly).square()
        rate_IW = self.rate + (-square_IT / self.distance).exp() @ self.weight
        return (rate_IW.clamp(min=0) + FLOOR).log() - (self.rate + FLOOR).log()

    def answers(
        self, summary_IF: Float[Tensor, "I F"], ids_CM: Int[Tensor, "C M"], mask_CM: Bool[Tensor, "C M"]
    ) -> Float[Tensor, "I C"]:
        """For each candidate the mean over its words; one that it does not tell of counts 0.

        Args:
            summary_IF: of the images.
            ids_CM: tokens of the candidates, [CLS] first and [SEP] last; neither counts.
            mask_CM: True at real tokens.
        """
        inner_CM = mask_CM.clone()
        inner_CM[:, 0] = False
        inner_CM[:, :-1] &= mask_CM[:, 1:]  # the last real token has none after it
        inner_CM[:, -1] = False
        place_CM = torch.searchsorted(self.word, ids_CM).clamp(max=len(self.word) - 1)
        share_CM = inner_CM / inner_CM.sum(1, keepdim=True).clamp(min=1) * (self.word[place_CM] == ids_CM)
        return (self(summary_IF)[:, place_CM] * share_CM).sum(-1)
