"""CIDEr-D (Vedantam et al. 2015): how near a caption is to those of people, as a score and as a training reward.

Published numbers come from pycocoevalcap (`evaluate.caption`), which takes document frequencies from the very captions
that it scores. Here they come from any corpus; on the same one the scores are the same.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from wordregion.data.tokens import Tokenizer, clean_caption

LONGEST = 4
SIGMA = 6.0
END = "<eos>"

Gram = tuple[str, ...]
Vector = tuple[list[dict[Gram, float]], list[float], int]


class CiderD:
    """Scores captions by the n-grams (1 to 4 words) that they share with references, rare ones most.

    Args:
        corpus: the captions of each image, as words: where document frequencies come from.
    """

    def __init__(self, corpus: Iterable[Iterable[Sequence[str]]]) -> None:
        self.images = 0
        self.frequency: Counter[Gram] = Counter()
        for captions in corpus:
            self.images += 1
            self.frequency.update({gram for caption in captions for gram in _grams(caption)})
        self._images_log = math.log(max(self.images, 1))

    def score(self, caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Mean over the references of the similarity, 0 to 10.

        Args:
            caption: words.
            references: words of each of people's captions, one at least.
        """
        own = self._vector(caption)
        return sum(self._similarity(own, self._vector(reference)) for reference in references) / len(references)

    def _vector(self, words: Sequence[str]) -> Vector:
        """Weighted n-grams of each length, their norms, and the number of pairs of words."""
        weights: list[dict[Gram, float]] = [{} for _ in range(LONGEST)]
        for gram, count in _grams(words).items():
            rarity = self._images_log - math.log(max(1, self.frequency[gram]))
            weights[len(gram) - 1][gram] = count * rarity
        norms = [math.sqrt(sum(value**2 for value in part.values())) for part in weights]
        return weights, norms, max(len(words) - 1, 0)

    def _similarity(self, own: Vector, reference: Vector) -> float:
        total = 0.0
        for mine, theirs, norm, other in zip(own[0], reference[0], own[1], reference[1], strict=True):
            shared = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs)
            total += shared / (norm * other) if norm and other else shared
        return 10 * total / LONGEST * math.exp(-((own[2] - reference[2]) ** 2) / (2 * SIGMA**2))


class CaptionReward:
    """CIDEr-D of captions given as token ids, for self-critical training.

    Captions and references are cleaned as captions for training are, and both end with a word of their own, so that
    ending in time is rewarded (Rennie et al. 2017).

    Args:
        tokenizer: makes the one that wrote the ids.
        corpus: gives the captions of each training image; read once, when the first reward is asked for.
    """

    def __init__(self, tokenizer: Callable[[], Tokenizer], corpus: Callable[[], Iterable[Sequence[str]]]) -> None:
        self._make, self._corpus = tokenizer, corpus

    @cached_property
    def cider(self) -> CiderD:
        """The score on the corpus."""
        return CiderD([self._words(caption) for caption in captions] for captions in self._corpus())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._make()

    def __call__(self, ids: Sequence[Sequence[int]], references: Sequence[Sequence[str]]) -> list[float]:
        """Rewards, 0 to 10.

        Args:
            ids: words of each caption, without prompt and end.
            references: people's captions of each caption's image.
        """
        texts = [self._words(self.tokenizer.decode(list(row))) for row in ids]
        return [
            self.cider.score(text, [self._words(caption) for caption in own])
            for text, own in zip(texts, references, strict=True)
        ]

    def _words(self, caption: str) -> list[str]:
        return [*clean_caption(caption, max_words=1000)[0].split(), END]


def _grams(words: Sequence[str]) -> Counter[Gram]:
    return Counter(
        tuple(words[begin : begin + length])
        for length in range(1, LONGEST + 1)
        for begin in range(len(words) - length + 1)
    )
