"""Hard negatives by similarity (ALBEF section 3.2).

Shape letters: Q queries, C candidates.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Draw = Callable[[Tensor], Tensor]


def draw_one(weights_QC: Float[Tensor, "Q C"]) -> Int[Tensor, "Q"]:
    """One candidate a row with probability proportional to its weight."""
    return torch.multinomial(weights_QC, 1).squeeze(1)


def hard_negatives(
    similarity_QC: Float[Tensor, "Q C"], same_QC: Bool[Tensor, "Q C"], draw: Draw = draw_one, hardness: float = 1.0
) -> tuple[Int[Tensor, "Q"], Bool[Tensor, "Q"]]:
    """Draws for each query a candidate that is alike but not the same, from the softmax of hardness x similarity.

    A row whose weights all vanish is drawn uniformly. A row with nothing but positives has no negative.

    Args:
        similarity_QC: logits (already over the temperature).
        same_QC: True where the candidate describes the query and so is no negative.
        draw: row weights to row indices.
        hardness: 1 as published, 0 = any other candidate alike.

    Returns:
        The candidate of each query, and whether it is a negative at all (False: the index means nothing).
    """
    allowed_QC = ~same_QC
    weights_QC = (hardness * similarity_QC.detach().float()).softmax(-1) * allowed_QC
    # Written so that it is also true of NaN: a diverged model is for the trainer to report, not for the draw.
    vanished_Q1 = ~(weights_QC.sum(-1, keepdim=True) > torch.finfo(torch.float32).tiny)
    weights_QC = torch.where(vanished_Q1, allowed_QC.float(), weights_QC)
    valid_Q = allowed_QC.any(-1)
    weights_QC = torch.where(valid_Q.unsqueeze(-1), weights_QC, torch.ones_like(weights_QC))
    return draw(weights_QC), valid_Q
