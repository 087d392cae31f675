"""Losses of single tokens: masked words with distillation (ALBEF equations 4 and 7), replaced words (VL-Match).

Shape letters: M masked positions, V vocabulary, W words.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def masked_word_loss(
    logits_MV: Float[Tensor, "M V"],
    labels_M: Int[Tensor, "M"],
    teacher_logits_MV: Float[Tensor, "M V"] | None = None,
    distill: float = 0.0,
) -> Float[Tensor, "M"]:
    """``(1 - a) * cross-entropy(label) + a * cross-entropy(teacher's distribution)``; one value a masked position.

    Args:
        logits_MV: the student's.
        labels_M: original token ids in [0, V).
        teacher_logits_MV: needed where ``distill`` > 0.
        distill: a in [0, 1].
    """
    log_probability_MV = F.log_softmax(logits_MV.float(), dim=-1)
    hard = F.nll_loss(log_probability_MV, labels_M, reduction="none")
    if distill == 0 or teacher_logits_MV is None:
        return hard
    soft = -(log_probability_MV * teacher_logits_MV.float().softmax(-1)).sum(-1)
    return (1 - distill) * hard + distill * soft


def replaced_word_loss(logits_W: Float[Tensor, "W"], replaced_W: Bool[Tensor, "W"]) -> Float[Tensor, "W"]:
    """Binary cross-entropy of each word; a positive logit says that it was replaced (ELECTRA, section 2)."""
    return F.binary_cross_entropy_with_logits(logits_W.float(), replaced_W.float(), reduction="none")
