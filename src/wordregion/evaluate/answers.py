"""Answers out of a decoder: a candidate list ranked as ALBEF does, or words freely generated.

Shape letters: Q questions, L their tokens, D width, C candidates, M tokens of a candidate, K kept candidates,
V vocabulary.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wordregion.models.finite import require_finite
from wordregion.models.generate import Limits, beam_search
from wordregion.nn.decoder import AnswerDecoder
from wordregion.nn.few_rows import FewRows

ROWS_AT_ONCE = 4096
"""Predicted tokens whose distributions over the vocabulary exist at the same time: bounds memory."""


@torch.no_grad()
def rank_answers(
    decoder: AnswerDecoder,
    question_QLD: Float[Tensor, "Q L D"],
    mask_QL: Bool[Tensor, "Q L"],
    ids_CM: Int[Tensor, "C M"],
    mask_CM: Bool[Tensor, "C M"],
    k: int,
    original_behaviour: bool = False,
    prior_QC: Float[Tensor, "Q C"] | None = None,
) -> tuple[Int[Tensor, "Q K"], Float[Tensor, "Q K"]]:
    """The best candidates of each question and their probabilities among the K, best first (ALBEF's code).

    The probability of its first token chooses the K candidates of a question; these are ordered by the log-probability
    of the whole answer, its end token included, without length normalisation. Equal values keep the list's order.

    Args:
        decoder: in evaluation mode.
        question_QLD: fused states of the questions.
        mask_QL: True at their real tokens.
        ids_CM: tokens of the candidates, [CLS] first and [SEP] last.
        mask_CM: True at real tokens.
        k: candidates kept for each question; all if there are fewer.
        original_behaviour: count the first token twice, as ALBEF's code does.
        prior_QC: added to the log-probabilities by which the K are ordered, for example of a `WordPrior`.

    Returns:
        indices of candidates and probabilities (0 to 1, summing to 1 over the K).

    Raises:
        UsageError: if a log-probability is not finite.
    """
    questions, k = len(question_QLD), min(k, len(ids_CM))
    start = ids_CM[:1, :1].expand(questions, 1)
    hidden = decoder(start, torch.ones_like(start, dtype=torch.bool), question_QLD, mask_QL)
    first_QV = decoder.head(hidden[:, 0]).float().log_softmax(-1)
    first_QK, chosen_QK = first_QV[:, ids_CM[:, 1]].sort(dim=1, descending=True, stable=True)
    first_QK, chosen_QK = first_QK[:, :k], chosen_QK[:, :k]

    chosen = chosen_QK.flatten()
    length = int(mask_CM[chosen].sum(1).max())
    ids, mask = ids_CM[chosen, :length], mask_CM[chosen, :length]
    hidden = decoder(ids[:, :-1], mask[:, :-1], question_QLD, mask_QL)  # K candidates a question, in order
    row, position = mask[:, 2:].nonzero(as_tuple=True)  # the first token is known already
    rest = first_QK.new_zeros(len(chosen))
    for part in torch.arange(len(row), device=row.device).split(ROWS_AT_ONCE):
        logits_NV = decoder.head(hidden[row[part], position[part] + 1]).float()
        wanted = ids[row[part], position[part] + 2]
        rest.index_add_(0, row[part], logits_NV.log_softmax(-1).gather(1, wanted[:, None])[:, 0])
    total_QK = first_QK * (2 if original_behaviour else 1) + rest.view(questions, k)
    if prior_QC is not None:
        total_QK = total_QK + prior_QC.gather(1, chosen_QK)
    require_finite(total_QK, "log-probabilities")
    probability, order = total_QK.softmax(1).sort(dim=1, descending=True, stable=True)
    return chosen_QK.gather(1, order), probability


@torch.no_grad()
def generate_answers(
    decoder: AnswerDecoder,
    question_QLD: Float[Tensor, "Q L D"],
    mask_QL: Bool[Tensor, "Q L"],
    start: int,
    end: int,
    max_tokens: int = 10,
    beams: int = 1,
) -> list[list[int]]:
    """The most probable answer of each question, token by token: greedy with one beam, else beam search.

    Beams are compared by their log-probability without length normalisation, as candidates are in ranking.

    Args:
        decoder: in evaluation mode.
        question_QLD: fused states of the questions.
        mask_QL: True at their real tokens.
        start: id of the token before every answer ([CLS]).
        end: id of the token that ends one ([SEP]).
        max_tokens: an answer without end is cut here.
        beams: answers followed at the same time.

    Returns:
        ids of each answer, without start and end.

    Raises:
        UsageError: if the decoder gives NaN.
    """
    prompt = torch.tensor([start], device=question_QLD.device)
    writer = _AnswerWriter(decoder, question_QLD, mask_QL)
    return beam_search(writer, prompt, len(question_QLD), beams, Limits(end, max_tokens + 1), length_power=0.0).ids


class _AnswerWriter:
    """Gives the next token's logits for answers to some questions, equally many for each, in order."""

    def __init__(self, decoder: AnswerDecoder, question_QLD: Tensor, mask_QL: Tensor) -> None:
        self.decoder, self.question, self.mask, self.cache = decoder, question_QLD, mask_QL, decoder.new_cache()

    def __call__(self, new: Tensor) -> Tensor:
        real = torch.ones_like(new, dtype=torch.bool)
        with FewRows():
            hidden = self.decoder(new, real, self.question, self.mask, cache=self.cache)
            return self.decoder.head(hidden[:, -1]).float()

    def keep(self, rows: Tensor) -> None:
        self.cache.keep(rows)
