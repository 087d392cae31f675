"""The language model of captions: what it may say, and one trained on the spot."""

import numpy as np
import pytest
import torch

from wordregion.data.masked_lm import MaskedLM, caption_vocabulary, open_lm, train_lm, whole_words
from wordregion.errors import UsageError

CAPTIONS = [
    f"a {colour} {thing} sits on the {place}"
    for colour in ("red", "blue", "green")
    for thing in ("dog", "cat", "bird")
    for place in ("mat", "roof")
]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> MaskedLM:
    folder = tmp_path_factory.mktemp("lm") / "lm"
    train_lm(CAPTIONS, folder, steps=60, batch=16, width=64, layers=1, lr=5e-3)
    return open_lm(folder)


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(count)]


def test_the_vocabulary_has_the_frequent_words_and_letters_for_the_rest() -> None:
    found = caption_vocabulary(["a dog, a dog", "a cat"], words=2)
    assert found[5:7] == ["a", "dog"]  # "," and "cat" occur once, and "dog" ties with nothing
    assert {"c", "##t", ",", "##o"} <= set(found)
    assert len(found) == len(set(found))


def test_other_words_are_filled_in_and_all_else_stays(lm: MaskedLM) -> None:
    text = "A Red dog -- sits on the mat!"
    spans = [(2, 5), (6, 9)]
    for seed in range(5):
        [new] = lm.fill([text], [spans], rngs(1, seed), top=5)
        words = new.split()
        assert (words[0], *words[3:]) == ("A", "--", "sits", "on", "the", "mat!")
        assert words[1].lower() != "red"
        assert words[1][0].isupper()
        assert words[2] != "dog"


def test_it_has_learnt_what_stands_where(lm: MaskedLM) -> None:
    filled = lm.fill(CAPTIONS, [[(2, 2 + len(text.split()[1]))] for text in CAPTIONS], rngs(len(CAPTIONS)), top=2)
    assert all(text.split()[1] in ("red", "blue", "green") for text in filled)


def test_the_draws_decide_and_not_the_company(lm: MaskedLM) -> None:
    spans = [[(2, 5)]] * 3
    texts = ["a red dog sits on the mat", "a red cat sits on the roof", "a red bird sits on the mat"]
    together = lm.fill(texts, spans, rngs(3), top=5)
    alone = [lm.fill([t], [s], [r], top=5)[0] for t, s, r in zip(texts, spans, rngs(3), strict=True)]
    assert together == alone


def test_likely_texts_have_a_higher_likelihood(lm: MaskedLM) -> None:
    good, bad = lm.log_likelihood(["a red dog sits on the mat", "mat the on sits dog red a"])
    assert good > bad
    assert lm.log_likelihood([""]) == [0.0]


def test_training_is_the_same_twice_and_leaves_the_global_generator_alone(tmp_path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name in ("one", "two"):
        train_lm(CAPTIONS, tmp_path / name, steps=3, batch=4, width=64, layers=1)
    assert torch.equal(torch.get_rng_state(), before)
    one, two = (open_lm(tmp_path / name) for name in ("one", "two"))
    assert one.fingerprint() == two.fingerprint()
    with torch.no_grad():
        next(two.model.parameters()).add_(1)
    assert one.fingerprint() != two.fingerprint()


class Marked:
    """A vocabulary as RoBERTa's: words begin with a mark."""

    all_special_ids = (0,)

    def get_vocab(self) -> dict[str, int]:
        return {"<mask>": 0, "Ġdog": 1, "dog": 2, "Ġ,": 3, "ĠDog": 4, "Ġx": 5}


def test_whole_words_of_other_tokenizers() -> None:
    assert whole_words(Marked()) == {1: "dog"}


def test_a_missing_model_is_named_with_the_remedy(tmp_path) -> None:
    with pytest.raises(UsageError, match="captions"):
        open_lm(tmp_path / "nothing")
