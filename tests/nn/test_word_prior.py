"""What an image tells of words, by its summary alone."""

import math

import pytest
import torch

from wordregion.errors import UsageError
from wordregion.nn.word_prior import FLOOR, NOISE, WordPrior

CLS, SEP, SOFA, SINK, RED, DOOR, LAMP = range(7)
WORDS = (SOFA, SINK, RED, DOOR)
SUMMARY = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
SAID = [[SOFA, SOFA, LAMP], [SOFA, RED], [SINK], [SINK, RED]]


def rooms() -> WordPrior:
    """Two living rooms and, far from them, two bathrooms."""
    return WordPrior(2, 4, 4).fit(WORDS, SUMMARY, SAID)


def test_it_is_kernel_ridge_regression_of_what_is_said():
    """Worked for two images at distance 1 (the median): the kernel is [[1, e], [e, 1]] with e = 1/e."""
    prior = WordPrior(1, 2, 1).fit([SOFA], torch.tensor([[0.0], [1.0]]), [[SOFA], []])
    e = math.exp(-1)
    weight = 0.5 / (1 + NOISE - e)  # of deviations +1/2 and -1/2, an eigenvector
    assert prior.weight.flatten().tolist() == pytest.approx([weight, -weight])
    rate = 0.5 + weight * (1 - e)
    wanted = [math.log((r + FLOOR) / (0.5 + FLOOR)) for r in (rate, 1 - rate, 0.5, 0.5)]
    seen = torch.tensor([[0.0], [1.0], [0.5], [50.0]])
    assert prior(seen).flatten().tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_word_is_likelier_where_like_images_have_it():
    living, bath, far = rooms()(torch.tensor([[0.0, 0.5], [9.0, 0.5], [500.0, 0.0]]))
    sofa, sink, red, door = range(4)
    assert living[sofa] > 0.3
    assert living[sink] < -1
    assert bath[sink] > 0.3
    assert abs(float(living[red])) < 0.1  # a half of either
    assert float(living[door]) == 0  # a word of no text
    assert far.abs().max() == 0  # like none of them


def test_repetition_and_order_do_not_matter():
    turned = WordPrior(2, 4, 4).fit(WORDS[::-1], SUMMARY.flip(0), [[*ids, *ids] for ids in SAID[::-1]])
    seen = torch.randn(5, 2) * 5
    torch.testing.assert_close(turned(seen), rooms()(seen))


def test_the_scale_and_place_of_summaries_do_not_matter():
    seen = torch.randn(4, 2)
    far = WordPrior(2, 4, 4).fit(WORDS, 100 * SUMMARY + 7, SAID)(100 * seen + 7)
    torch.testing.assert_close(rooms()(seen), far, atol=1e-4, rtol=1e-4)


def test_an_answer_is_the_mean_of_its_words_between_the_marks():
    prior = rooms()
    ids = torch.tensor([[CLS, SOFA, SEP, SEP], [CLS, SOFA, SINK, SEP], [CLS, LAMP, RED, SEP], [CLS, SEP, CLS, CLS]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    summary = torch.tensor([[1.0, 0.0], [0.3, 2.0]])
    sofa, sink, red, _ = prior(summary).T
    wanted = torch.stack([sofa, (sofa + sink) / 2, red / 2, torch.zeros(2)], dim=1)  # it does not tell of lamps
    torch.testing.assert_close(prior.answers(summary, ids, mask), wanted)


def test_before_it_is_fitted_it_tells_nothing():
    prior = WordPrior(2, 4, 4)
    assert not prior(torch.randn(3, 2)).any()
    assert not list(prior.parameters())


@pytest.mark.parametrize(
    ("words", "summary", "said", "message"),
    [
        (WORDS, torch.ones(4, 2), SAID, "same summary"),
        (WORDS, SUMMARY[:3], SAID[:3], "3 images and 4 words; it was made for 4 images and 4 words"),
        (WORDS[:2], SUMMARY, SAID, "4 images and 2 words"),
    ],
)
def test_what_cannot_be_fitted_is_an_error(words, summary, said, message):
    with pytest.raises(UsageError, match=message):
        WordPrior(2, 4, 4).fit(words, summary, said)
