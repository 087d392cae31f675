"""Image-text contrast with soft targets (ALBEF equations 1, 2 and 6).

Shape letters: T queries, K keys.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def soft_targets(
    positives_TK: Float[Tensor, "T K"], teacher_logits_TK: Float[Tensor, "T K"] | None, distill: float
) -> Float[Tensor, "T K"]:
    """Mixes the known positives with the teacher's opinion: ``(1 - a) * positives + a * softmax(teacher logits)``.

    Args:
        positives_TK: each row sums to 1.
        teacher_logits_TK: the teacher's similarities over the temperature; not needed at ``distill`` 0.
        distill: a in [0, 1].
    """
    if distill == 0 or teacher_logits_TK is None:
        return positives_TK
    return (1 - distill) * positives_TK + distill * teacher_logits_TK.softmax(-1)


def contrastive_loss(logits_TK: Float[Tensor, "T K"], targets_TK: Float[Tensor, "T K"]) -> Float[Tensor, "T"]:
    """Cross-entropy of each query's softmax over the keys against soft targets; one value a query."""
    return -(F.log_softmax(logits_TK.float(), dim=-1) * targets_TK).sum(-1)
