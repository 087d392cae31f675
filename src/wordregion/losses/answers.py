"""Loss of weighted answers (ALBEF section 4; its code).

Shape letters: N predicted tokens of all answers, A answers.
"""

from jaxtyping import Float, Int
from torch import Tensor


def weighted_answer_loss(
    token_loss_N: Float[Tensor, "N"], answer_N: Int[Tensor, "N"], weight_A: Float[Tensor, "A"]
) -> Float[Tensor, ""]:
    """Sum over answers of weight x (sum of the answer's token losses).

    Args:
        token_loss_N: loss of each predicted token.
        answer_N: the answer it belongs to, in [0, A).
        weight_A: of each answer, >= 0; those of a question usually sum to 1 at most.
    """
    return (token_loss_N * weight_A[answer_N]).sum()
