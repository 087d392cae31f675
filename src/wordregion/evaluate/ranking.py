"""Top lists, recall and the pairs that a re-ranking has to score. Pure tensor functions, no model.

Letters: I images, T texts, Q queries, C candidates, E feature width, K length of a top list, P pairs.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

UNSCORED = -100.0
"""Score of a pair that the re-ranking did not reach (the value ALBEF's evaluation uses)."""


def top_candidates(
    query_QE: Float[Tensor, "Q E"], candidate_CE: Float[Tensor, "C E"], depth: int, chunk: int = 1024
) -> tuple[Int[Tensor, "Q K"], Float[Tensor, "Q K"]]:
    """The `depth` candidates with the largest inner product for each query, best first.

    Equal scores are ordered by the candidate's index, so the result depends on nothing but the features. Works
    through `chunk` queries at a time: the whole similarity matrix never exists.

    Args:
        query_QE: features of what is asked.
        candidate_CE: features of what is found.
        depth: length of the lists; all candidates if there are fewer.
        chunk: queries compared at once.

    Returns:
        candidate indices (Q, K) and their similarities (Q, K), K = min(depth, C), on the device of the queries.
    """
    depth = min(depth, len(candidate_CE))
    index_QK = torch.empty(len(query_QE), depth, dtype=torch.long, device=query_QE.device)
    score_QK = query_QE.new_empty(len(query_QE), depth)
    for begin in range(0, len(query_QE), chunk):
        similarity = query_QE[begin : begin + chunk] @ candidate_CE.t()
        score, index = similarity.sort(dim=1, descending=True, stable=True)
        index_QK[begin : begin + chunk] = index[:, :depth]
        score_QK[begin : begin + chunk] = score[:, :depth]
    return index_QK, score_QK


def recall_at(
    top_QK: Int[Tensor, "Q K"],
    query_group_Q: Int[Tensor, "Q"],
    candidate_group_C: Int[Tensor, "C"],
    depths: tuple[int, ...] = (1, 5, 10),
) -> dict[int, float]:
    """Share of queries, in percent, with at least one right candidate among the first n.

    A candidate is right if it has the group of the query. Queries whose group no candidate has (an image without
    captions) can't be answered and don't count.

    Args:
        top_QK: candidate indices, best first; a list shorter than a depth counts as it is.
        query_group_Q: group of each query (for an image: its own index; for a text: its image).
        candidate_group_C: group of each candidate.
        depths: values of n.

    Returns:
        n -> percent (0 to 100); nan if no query can be answered.
    """
    answerable_Q = torch.isin(query_group_Q, candidate_group_C)
    hit_QK = candidate_group_C[top_QK] == query_group_Q[:, None]
    return {n: 100.0 * hit_QK[answerable_Q, :n].any(dim=1).double().mean().item() for n in depths}


def pairs_to_score(
    text_for_image_IK: Int[Tensor, "I K"], image_for_text_TK: Int[Tensor, "T K2"]
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
    """The union of the (image, text) pairs in both directions' top lists, ordered by image, then by text.

    A pair that is in the list of its image and in the list of its text is scored once, and all the pairs of an
    image stand together, so that its keys and values are needed once.

    Returns:
        image index and text index of each pair.
    """
    images, texts = len(text_for_image_IK), len(image_for_text_TK)
    own_I, own_T = torch.arange(images)[:, None], torch.arange(texts)[:, None]
    code = torch.cat([(own_I * texts + text_for_image_IK).flatten(), (image_for_text_TK * texts + own_T).flatten()])
    code = torch.unique(code, sorted=True)
    return code // texts, code % texts


def look_up(
    image_P: Int[Tensor, "P"],
    text_P: Int[Tensor, "P"],
    score_P: Float[Tensor, "P"],
    texts: int,
    wanted_image: Int[Tensor, "Q K"],
    wanted_text: Int[Tensor, "Q K"],
) -> Float[Tensor, "Q K"]:
    """Scores of wanted pairs out of the list made by `pairs_to_score`, in which every one of them must be."""
    code_P = image_P * texts + text_P
    return score_P[torch.searchsorted(code_P, wanted_image * texts + wanted_text)]


def reorder(
    top_QK: Int[Tensor, "Q K"], score_Qk: Float[Tensor, "Q K2"]
) -> tuple[Int[Tensor, "Q K"], Float[Tensor, "Q K"]]:
    """A top list whose first k entries are put in the order of their new scores, the others kept behind them.

    Equal scores keep the order they had. Entries that were not scored get `UNSCORED`.
    """
    k = score_Qk.shape[1]
    score, order = score_Qk.sort(dim=1, descending=True, stable=True)
    rest = score.new_full((len(top_QK), top_QK.shape[1] - k), UNSCORED)
    return torch.cat([top_QK[:, :k].gather(1, order), top_QK[:, k:]], dim=1), torch.cat([score, rest], dim=1)


def dense(top_Qk: Int[Tensor, "Q K"], score_Qk: Float[Tensor, "Q K"], candidates: int) -> Float[Tensor, "Q C"]:
    """A score matrix with `UNSCORED` where a list has no entry."""
    return score_Qk.new_full((len(top_Qk), candidates), UNSCORED).scatter(1, top_Qk, score_Qk)
