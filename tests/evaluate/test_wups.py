import pytest

from wordregion.data.datasets.daquar import items
from wordregion.errors import UsageError
from wordregion.evaluate.wups import wordnet_similarity, wups

SIMILAR = {frozenset(("chair", "sofa")): 0.95, frozenset(("chair", "table")): 0.8, frozenset(("lamp", "table")): 0.5}


def similarity(a, b):
    return SIMILAR.get(frozenset((a, b)), 0.0)


def test_items_are_split_at_commas():
    assert items("book, scissor,tape_dispenser , ") == ("book", "scissor", "tape dispenser")


@pytest.mark.parametrize(
    ("predicted", "truth", "threshold", "expected"),
    [
        ("chair", "chair", 0.9, 1.0),
        ("chair", "sofa", 0.9, 0.95),
        ("chair", "table", 0.9, 0.08),  # below the threshold a tenth counts
        ("chair", "table", 0.0, 0.8),
        ("chair", "dog", 0.0, 0.0),
        # both parts have a perfect match, in any order
        ("lamp, chair", "chair, lamp", 0.9, 1.0),
        # forward: chair -> sofa .95; backward: sofa -> chair .95, table -> chair .8: the smaller product
        ("chair", "sofa, table", 0.0, 0.95 * 0.8),
        # forward: chair -> sofa .95, lamp -> nothing 0
        ("chair, lamp", "sofa", 0.0, 0.0),
        ("", "sofa", 0.0, 0.0),
    ],
)
def test_scores_worked_by_hand(predicted, truth, threshold, expected):
    assert wups(predicted, truth, threshold, similarity) == pytest.approx(expected)


def test_wordnet_is_used_or_the_remedy_is_named():
    try:
        from nltk.corpus import wordnet
    except ImportError:
        with pytest.raises(UsageError, match=r"pip install 'wordregion\[wups\]'"):
            wordnet_similarity()
        return
    try:
        wordnet.ensure_loaded()
    except LookupError:
        with pytest.raises(UsageError, match=r"nltk\.downloader wordnet"):
            wordnet_similarity()
        return
    measure = wordnet_similarity()
    assert measure("cat", "dog") == pytest.approx(0.857, abs=1e-3)
    assert measure("tape dispenser", "no such word") == 0
