"""Losses of captions: next words with smoothed labels, and self-critical rewards.

Shape letters: N predicted tokens of all captions, W vocabulary, R sampled captions.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def smoothed_word_loss(
    logits_NW: Float[Tensor, "N W"], labels_N: Int[Tensor, "N"], smoothing: float
) -> Float[Tensor, "N"]:
    """Cross-entropy against ``1 - s`` for the word and ``s / W`` for each other one (X-VLM's code); one value a token.

    Unlike torch's label smoothing, which gives the word ``s / W`` more: these targets sum to ``1 - s / W``.

    Args:
        logits_NW: of the next token.
        labels_N: token ids in [0, W).
        smoothing: s in [0, 1).
    """
    log_NW = F.log_softmax(logits_NW.float(), dim=-1)
    word_N = log_NW.gather(1, labels_N[:, None])[:, 0]
    if smoothing == 0:
        return -word_N
    return -(1 - smoothing) * word_N - smoothing / log_NW.shape[1] * (log_NW.sum(1) - word_N)


def reward_loss(log_probability_R: Float[Tensor, "R"], advantage_R: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
    """Minus advantage x mean log-probability of each sampled caption (Rennie et al. 2017, equation 7).

    Args:
        log_probability_R: mean over a caption's tokens, with gradient.
        advantage_R: its reward minus a baseline.
    """
    return -advantage_R.detach() * log_probability_R
