"""Ranking and generation against the plain way of doing it."""

import itertools

import pytest
import torch

from wordregion.errors import UsageError
from wordregion.evaluate.answers import generate_answers, rank_answers
from wordregion.models.zoo import albef_tiny, for_questions

START, END, VOCABULARY = 2, 3, 9


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    model = albef_tiny(VOCABULARY, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    found = for_questions(model).heads["answer"].eval()
    for parameter in found.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return found


def questions():
    mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    return torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(5)), mask


def log_probabilities(decoder, tokens, q):
    """Of each token after the first, given question q."""
    states, mask = questions()
    ids = torch.tensor([tokens])
    with torch.no_grad():
        hidden = decoder(ids, torch.ones_like(ids, dtype=torch.bool), states[q : q + 1], mask[q : q + 1])
        log = decoder.head(hidden)[0].log_softmax(-1)
    return [log[i, token].item() for i, token in enumerate(tokens[1:])]


CANDIDATES = [[START, *words, END] for words in ([4], [5], [4, 6], [7, 5, 5], [6], [5, 4], [8, 8])]


def padded():
    ids = torch.zeros(len(CANDIDATES), 5, dtype=torch.long)
    for row, tokens in zip(ids, CANDIDATES, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return ids, ids != 0


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("k", [1, 3, 7, 50])
def test_ranking_equals_scoring_the_candidates_one_by_one(decoder, k, original):
    states, mask = questions()
    order, probability = rank_answers(decoder, states, mask, *padded(), k, original)
    assert order.shape == probability.shape == (3, min(k, 7))
    torch.testing.assert_close(probability.sum(1), torch.ones(3))
    for q in range(3):
        scores = [log_probabilities(decoder, tokens, q) for tokens in CANDIDATES]
        kept = sorted(range(7), key=lambda c: -round(scores[c][0], 4))[:k]  # stable: ties keep the list's order
        whole = {c: sum(scores[c]) + (scores[c][0] if original else 0) for c in kept}
        best = sorted(kept, key=lambda c: -whole[c])
        assert order[q].tolist() == best
        expected = torch.tensor([whole[c] for c in best]).softmax(0)
        torch.testing.assert_close(probability[q], expected, rtol=1e-4, atol=1e-5)


def test_the_two_ways_of_counting_differ(decoder):
    states, mask = questions()
    right, original = (rank_answers(decoder, states, mask, *padded(), 7, o)[1] for o in (False, True))
    assert not torch.allclose(right, original, atol=1e-3)


def test_a_prior_adds_to_the_log_probabilities_of_the_kept_candidates(decoder):
    states, mask = questions()
    plain, _ = rank_answers(decoder, states, mask, *padded(), 3)
    prior = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    prior.scatter_(1, plain[:, -1:], 50.0)
    order, probability = rank_answers(decoder, states, mask, *padded(), 3, prior_QC=prior)
    assert order[:, 0].tolist() == plain[:, 2].tolist()
    for q in range(3):
        assert set(order[q].tolist()) == set(plain[q].tolist())
        whole = torch.tensor([sum(log_probabilities(decoder, CANDIDATES[c], q)) for c in order[q].tolist()])
        torch.testing.assert_close(probability[q], (whole + prior[q, order[q]]).softmax(0), rtol=1e-4, atol=1e-5)


def test_a_damaged_question_is_refused_whichever_way_it_is_answered(decoder):
    states, mask = questions()
    states[1] = float("nan")
    with pytest.raises(UsageError, match="log-probabilities are not finite"):
        rank_answers(decoder, states, mask, *padded(), 3)
    for beams in (1, 3):
        with pytest.raises(UsageError, match="log-probabilities are not finite"):
            generate_answers(decoder, states, mask, START, END, max_tokens=4, beams=beams)


def test_greedy_takes_the_most_probable_token_each_time(decoder):
    states, mask = questions()
    found = generate_answers(decoder, states, mask, START, END, max_tokens=4)
    for q, answer in enumerate(found):
        tokens = [START]
        while len(tokens) <= 4:
            step = max(range(VOCABULARY), key=lambda t: log_probabilities(decoder, [*tokens, t], q)[-1])
            if step == END:
                break
            tokens.append(step)
        assert answer == tokens[1:]


def test_a_wide_beam_finds_the_most_probable_answer_of_all(decoder):
    states, mask = questions()
    found = generate_answers(decoder, states, mask, START, END, max_tokens=2, beams=9)
    words = [t for t in range(VOCABULARY) if t != END]
    ended = [[START, END], *([START, w, END] for w in words)]
    cut = [[START, *pair] for pair in itertools.product(words, words)]
    for q, answer in enumerate(found):
        best = max([*ended, *cut], key=lambda tokens: sum(log_probabilities(decoder, tokens, q)))
        assert answer == [t for t in best[1:] if t != END]
