"""Answers out of a decoder: a candidate list ranked as ALBEF does, or words freely generated.

Shape letters: Q questions, L their tokens, D width, C candidates, M tokens of a candidate, K kept candidates, B beams,
V vocabulary.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wordregion.nn.decoder import AnswerDecoder

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

    Returns:
        indices of candidates and probabilities (0 to 1, summing to 1 over the K).
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
        beams: B.

    Returns:
        ids of each answer, without start and end.
    """
    Q, B, device = len(question_QLD), beams, question_QLD.device
    cache = decoder.new_cache()
    tokens_QBM = torch.full((Q, B, 1), start, device=device)
    score_QB = torch.full((Q, B), float("-inf"), device=device)
    score_QB[:, 0] = 0.0
    best_Q = torch.full((Q,), float("-inf"), device=device)
    best: list[list[int]] = [[] for _ in range(Q)]
    first_row_Q1 = torch.arange(Q, device=device)[:, None] * B
    for _ in range(max_tokens):
        last = tokens_QBM[:, :, -1].reshape(Q * B, 1)
        hidden = decoder(last, torch.ones_like(last, dtype=torch.bool), question_QLD, mask_QL, cache=cache)
        log_QBV = decoder.head(hidden[:, 0]).float().log_softmax(-1).view(Q, B, -1)
        V = log_QBV.shape[2]
        found, flat = (score_QB[:, :, None] + log_QBV).flatten(1).topk(min(2 * B, B * V), dim=1)
        beam, word = flat // V, flat % V
        ended = word == end
        for q, b in ended[:, :B].nonzero().tolist():
            if found[q, b] > best_Q[q]:
                best_Q[q] = found[q, b]
                best[q] = tokens_QBM[q, beam[q, b], 1:].tolist()
        score_QB, order = found.masked_fill(ended, float("-inf")).topk(B, dim=1)
        beam, word = beam.gather(1, order), word.gather(1, order)
        tokens_QBM = torch.cat([tokens_QBM.gather(1, beam[..., None].expand_as(tokens_QBM)), word[..., None]], dim=2)
        if bool((best_Q >= score_QB[:, 0]).all()):  # a longer answer is never more probable
            break
        cache.keep((first_row_Q1 + beam).flatten())
    cut = tokens_QBM[:, 0, 1:].tolist()
    return [best[q] if best_Q[q] >= score_QB[q, 0] else cut[q] for q in range(Q)]
