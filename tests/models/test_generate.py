"""Decoding against the plain way of doing it, on a language model that is a table."""

import itertools

import pytest
import torch

from wordregion.errors import UsageError
from wordregion.models.generate import Limits, beam_search, write

WORDS, START, END = 6, 0, 1


class Table:
    """Logits of the next token given the last two, the same in every row."""

    def __init__(self, rows, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(WORDS, WORDS, WORDS, generator=generator)
        self.ids = torch.zeros(rows, 0, dtype=torch.long)

    def __call__(self, new):
        self.ids = torch.cat([self.ids, new], 1)
        return self.next(self.ids)

    def next(self, ids):
        before = ids[:, -2] if ids.shape[1] > 1 else ids[:, -1]
        return self.logits[before, ids[:, -1]]

    def keep(self, rows):
        self.ids = self.ids[rows]


PROMPT = torch.tensor([START, 3])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("least", "penalty"), [(0, 1.0), (5, 1.0), (0, 1.7), (5, 1.7)])
def test_greedy_takes_the_best_token_that_the_limits_allow(seed, least, penalty):
    found = write(Table(2, seed), PROMPT, 2, Limits(END, 9, least, penalty))
    tokens, logs = PROMPT.tolist(), []
    while len(tokens) < 9:
        score = Table(1, seed).next(torch.tensor([tokens]))[0].clone()
        for token in set(tokens):
            score[token] = score[token] * penalty if score[token] < 0 else score[token] / penalty
        if len(tokens) < least:
            score[END] = float("-inf")
        tokens.append(int(score.argmax()))
        logs.append(score.log_softmax(0).max().item())
        if tokens[-1] == END:
            break
    ended = tokens[-1] == END
    assert found.ids == [tokens[2 : len(tokens) - ended]] * 2
    assert found.ended == [ended] * 2
    assert found.log_probability.tolist() == pytest.approx([sum(logs) / len(logs)] * 2, rel=1e-4)


def every_text(seed, limits, power):
    """All texts with their score: log-probability over the length without the end, to the power."""
    table = Table(1, seed)
    for length in range(1, limits.max_tokens - len(PROMPT) + 1):
        for words in itertools.product(range(WORDS), repeat=length):
            if END in words[:-1]:
                continue
            tokens, total = PROMPT.tolist(), 0.0
            for word in words:
                log = limits.apply(table.next(torch.tensor([tokens])).log_softmax(1), torch.tensor([tokens]))[0]
                total += float(log[word])
                tokens.append(word)
            ended = words[-1] == END
            if ended or len(tokens) == limits.max_tokens:
                yield total / (len(tokens) - ended) ** power, list(words[: len(words) - ended]), ended


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("least", "penalty", "power"), [(0, 1.0, 0.0), (0, 1.0, 1.0), (4, 1.5, 1.0)])
def test_a_wide_beam_finds_the_best_text_of_all(seed, least, penalty, power):
    limits = Limits(END, 5, least, penalty)
    best = max(every_text(seed, limits, power))
    found = beam_search(Table(2 * 300, seed), PROMPT, 2, 300, limits, power)
    assert found.ids == [best[1]] * 2
    assert found.ended == [best[2]] * 2


def test_one_beam_is_greedy_on_the_whole_way_until_the_first_end():
    limits = Limits(END, 12)
    greedy, beam = write(Table(1, 1), PROMPT, 1, limits), beam_search(Table(1, 1), PROMPT, 1, 1, limits)
    assert beam.ids == greedy.ids
    torch.testing.assert_close(beam.log_probability, greedy.log_probability, rtol=1e-4, atol=1e-5)


def test_a_text_that_never_ends_is_cut():
    table = Table(3)
    table.logits[..., END] = -1e4
    for found in (
        write(table, PROMPT, 3, Limits(END, 6)),
        beam_search(table_like(table, 6), PROMPT, 3, 2, Limits(END, 6)),
    ):
        assert [len(words) for words in found.ids] == [4, 4, 4]
        assert found.ended == [False] * 3


def table_like(table, rows):
    other = Table(rows)
    other.logits = table.logits
    return other


@pytest.mark.parametrize("beams", [0, 1, 3])
def test_nan_is_refused(beams):
    """Beams of 0 = greedy. The second row of texts alone is damaged."""

    class Damaged(Table):
        def next(self, ids):
            logits = super().next(ids).clone()
            logits[-max(beams, 1) :, 4] = float("nan")
            return logits

    table = Damaged(2 * max(beams, 1))
    with pytest.raises(UsageError, match="log-probabilities are not finite"):
        beam_search(table, PROMPT, 2, beams, Limits(END, 6)) if beams else write(table, PROMPT, 2, Limits(END, 6))


def test_an_impossible_token_is_no_damage():
    """Minus infinity is a probability of 0: of one word, and of the end that fills up a row that has ended."""
    drawn = iter([torch.tensor([END, 4]), torch.tensor([END, 5]), torch.tensor([END, END])])
    tables = [Table(rows) for rows in (2, 6)]
    for table in tables:
        table.logits[:, [END, 4], END] = float("-inf")
    found = write(tables[0], PROMPT, 2, Limits(END, 9), lambda logits: next(drawn))
    assert found.log_probability.isfinite().all()
    assert beam_search(tables[1], PROMPT, 2, 3, Limits(END, 6)).log_probability.isfinite().all()


def test_rows_end_one_by_one():
    drawn = iter([torch.tensor([END, 4]), torch.tensor([5, END])])
    found = write(Table(2), PROMPT, 2, Limits(END, 9), lambda logits: next(drawn))
    assert found.ids == [[], [4]]
    assert found.ended == [True, True]


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"min_tokens": -1}, {"penalty": 0.0}])
def test_bad_limits_are_refused(wrong):
    with pytest.raises(UsageError):
        Limits(END, **wrong)


def test_a_prompt_that_fills_the_text_is_refused():
    with pytest.raises(UsageError, match="no room"):
        write(Table(1), PROMPT, 1, Limits(END, 2))
    with pytest.raises(UsageError, match="no room"):
        beam_search(Table(2), PROMPT, 1, 2, Limits(END, 2))
