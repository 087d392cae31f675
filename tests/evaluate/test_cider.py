import pytest

from wordregion.data.tokens import Tokenizer
from wordregion.evaluate.cider import CaptionReward, CiderD

CORPUS = [
    ["a man rides a horse on the beach", "a man on a horse near the sea"],
    ["two dogs play in the green field", "two dogs run in the grass today"],
    ["a red kite over the sea", "the kite is red"],
]
CAPTIONS = ["a man rides a horse", "two dogs play in the grass", "a white cat"]
EXPECTED = [4.328069997, 5.190396033, 0.056830845]
"""Of pycocoevalcap 1.2: ``Cider().compute_score(...)[1]``."""


def split(texts):
    return [text.split() for text in texts]


def test_scores_are_those_of_pycocoevalcap_on_the_same_corpus():
    cider = CiderD(map(split, CORPUS))
    ours = [cider.score(c.split(), split(r)) for c, r in zip(CAPTIONS, CORPUS, strict=True)]
    assert ours == pytest.approx(EXPECTED, rel=1e-6)


def test_pycocoevalcap_agrees_still():
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    _, theirs = cider.compute_score(dict(enumerate(CORPUS)), {i: [c] for i, c in enumerate(CAPTIONS)})
    assert theirs.tolist() == pytest.approx(EXPECTED, rel=1e-6)


def test_a_caption_of_the_references_own_words_scores_ten():
    cider = CiderD(map(split, CORPUS))
    assert cider.score(split(CORPUS[2])[0], split(CORPUS[2])[:1]) == pytest.approx(10)


def test_the_reward_reads_tokens_as_words_and_rewards_the_end():
    tokenizer = Tokenizer("scenes")
    corpus = [["The red circle.", "a red circle"], ["a blue square"], ["a green star left of the blue square"]]
    reward = CaptionReward(lambda: tokenizer, lambda: corpus)
    ids = [tokenizer([text]).ids[0, 1:-1].tolist() for text in ("the red circle", "the red circle left of", "a star")]
    exact, longer, other = reward(ids, [["The red circle."]] * 3)
    assert exact == pytest.approx(10)
    assert exact > longer > other >= 0
