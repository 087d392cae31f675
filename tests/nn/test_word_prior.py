"""What an image tells of words, by its summary alone."""

import math

import pytest
import torch

from wordregion.errors import UsageError
from wordregion.nn import word_prior
from wordregion.nn.word_prior import FLOOR, WordPrior

CLS, SEP, SOFA, SINK, RED = range(5)


def rooms(texts: int = 6000) -> tuple[torch.Tensor, list[list[int]]]:
    """Living rooms (1, 0) whose every second text names a sofa, bathrooms (-1, 0) whose every fourth names a sink."""
    summary = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(texts // 2, 1)
    said = [[SOFA] if turn % 2 else [RED] for turn in range(texts // 2)]
    washed = [[SINK, SINK] if turn % 4 == 3 else [RED] for turn in range(texts // 2)]
    return summary, [words for pair in zip(said, washed, strict=True) for words in pair]


def test_without_shrinking_it_is_the_ratio_of_frequencies(monkeypatch):
    monkeypatch.setattr(word_prior, "RIDGE", 1e-6)
    prior = WordPrior(2, 5).fit(*rooms())
    torch.testing.assert_close(prior.rate, torch.tensor([0, 0, 0.25, 0.125, 0.625]))
    living, bath = prior(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert float(living[SOFA]) == pytest.approx(math.log((0.5 + FLOOR) / (0.25 + FLOOR)), abs=1e-5)
    assert float(living[SINK]) == pytest.approx(math.log(FLOOR / (0.125 + FLOOR)), abs=1e-4)
    assert float(bath[SINK]) == pytest.approx(math.log((0.25 + FLOOR) / (0.125 + FLOOR)), abs=1e-5)
    assert float(living[CLS]) == 0  # a word that no text holds


def test_it_is_shrunk_as_by_so_many_texts_that_deviate_from_nothing():
    """6,000 texts beside RIDGE: along the one direction that varies, 6,000 / (6,000 + RIDGE x half the spread)."""
    prior = WordPrior(2, 5).fit(*rooms())
    kept = 6000 / (6000 + word_prior.RIDGE / 2)  # the spread is the mean of 1 and 0
    assert float(prior.weight[SOFA, 0]) == pytest.approx(0.25 * kept, rel=1e-5)
    assert prior.weight[:, 1].abs().max() == 0


def test_the_scale_and_place_of_summaries_do_not_matter():
    summary, words = rooms()
    seen = torch.randn(4, 2)
    near = WordPrior(2, 5).fit(summary, words)(seen)
    far = WordPrior(2, 5).fit(100 * summary + 7, words)(100 * seen + 7)
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


def test_an_answer_is_the_mean_of_its_words_between_the_marks():
    prior = WordPrior(2, 5).fit(*rooms())
    ids = torch.tensor([[CLS, SOFA, SEP, SEP], [CLS, SOFA, SINK, SEP], [CLS, SEP, CLS, CLS]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    summary = torch.tensor([[1.0, 0.0], [0.3, 2.0]])
    lift = prior(summary)
    wanted = torch.stack([lift[:, SOFA], (lift[:, SOFA] + lift[:, SINK]) / 2, torch.zeros(2)], dim=1)
    torch.testing.assert_close(prior.answers(summary, ids, mask), wanted)


def test_nothing_of_it_is_trained():
    assert not list(WordPrior(2, 5).parameters())


@pytest.mark.parametrize(
    ("summary", "words", "message"),
    [
        (torch.ones(3, 2), [[SOFA], [SINK], [RED]], "same summary"),
        (torch.eye(2), [[], []], "no text"),
    ],
)
def test_what_cannot_be_fitted_is_an_error(summary, words, message):
    with pytest.raises(UsageError, match=message):
        WordPrior(2, 5).fit(summary, words)
