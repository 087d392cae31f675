"""Losses of a detector that reads (GLIP, section 3; focal loss: Lin et al. 2017).

Shape letters: A places, L tokens.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def focal_loss(
    logits_AL: Float[Tensor, "*A L"], positive_AL: Float[Tensor, "*A L"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*A L"]:
    """Sigmoid focal loss of each place and token: easy ones count little.

    Args:
        logits_AL: of each place for each token.
        positive_AL: 1 where the token names what the place shows, else 0.
        alpha: weight of positives in [0, 1]; negatives weigh 1 - alpha.
        gamma: power of the error; 0 = plain cross-entropy.
    """
    logits_AL, positive_AL = logits_AL.float(), positive_AL.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits_AL, positive_AL, reduction="none")
    wrong = torch.sigmoid(logits_AL) * (1 - 2 * positive_AL) + positive_AL  # 1 - the probability of the truth
    return (alpha * positive_AL + (1 - alpha) * (1 - positive_AL)) * wrong**gamma * cross_entropy
