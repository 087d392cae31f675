"""WUPS: how close a list of answers is to the true one, by WordNet (Malinowski and Fritz, NIPS 2014; DAQUAR).

Answers are lists, separated by commas. WordNet comes with NLTK (``pip install wordregion[wups]``) and its data.
"""

from collections.abc import Callable
from functools import cache
from math import prod

from wordregion.data.datasets.daquar import items
from wordregion.errors import UsageError

FAR = 0.1
"""Factor on similarities below the threshold."""

Similarity = Callable[[str, str], float]


def wups(predicted: str, truth: str, threshold: float, similarity: Similarity) -> float:
    """Score in [0, 1]: the smaller of two products, over predicted and over true parts, of each part's best match.

    Args:
        predicted: an answer, parts separated by commas.
        truth: the true one.
        threshold: similarities below it count a tenth; 0.9 and 0.0 are usual.
        similarity: of two different words, in [0, 1]; see `wordnet_similarity`.
    """
    ours, theirs = items(predicted), items(truth)
    if not ours or not theirs:
        return float(ours == theirs)

    def measure(a: str, b: str) -> float:
        if a == b:
            return 1.0
        value = similarity(a, b)
        return value if value >= threshold else FAR * value

    forward = prod(max(measure(a, b) for b in theirs) for a in ours)
    return min(forward, prod(max(measure(b, a) for a in ours) for b in theirs))


def wordnet_similarity() -> Similarity:
    """Wu-Palmer similarity of the closest meanings of two nouns; 0 for words that WordNet does not have.

    Raises:
        UsageError: if NLTK or its WordNet is not installed.
    """
    try:
        from nltk.corpus import wordnet
    except ImportError as error:
        raise UsageError("WUPS needs NLTK. Install it: pip install 'wordregion[wups]'.") from error
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError) as error:  # absent, or incomplete
        raise UsageError(
            "WUPS needs NLTK's WordNet, which is not on this machine. Get it once: python -m nltk.downloader wordnet"
        ) from error

    @cache
    def similarity(a: str, b: str) -> float:
        mine, other = (wordnet.synsets(word.replace(" ", "_"), pos=wordnet.NOUN) for word in (a, b))
        return max((x.wup_similarity(y) or 0.0 for x in mine for y in other), default=0.0)

    return similarity
