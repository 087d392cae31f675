"""Where in an image a phrase is, taught by its boxes.

Shape letters: G phrases, N places.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def place_loss(cosine_GN: Float[Tensor, "G N"], inside_GN: Bool[Tensor, "G N"], sharpness: float) -> Float[Tensor, "G"]:
    """Minus the logarithm of what a softmax over the places gives to those inside a phrase's boxes.

    Args:
        cosine_GN: of each phrase with the places of its image, in [-1, 1].
        inside_GN: True inside its boxes; at one place at least.
        sharpness: factor of the cosines in the softmax.
    """
    log_share_GN = (sharpness * cosine_GN).float().log_softmax(-1)
    return -log_share_GN.masked_fill(~inside_GN, -torch.inf).logsumexp(-1)
