"""Noun phrases from tags that are written by hand."""

import pytest

from wordregion.data.noun_phrases import noun_phrases


def tagged(text: str) -> tuple[str, list[tuple[int, int, str]]]:
    """``"the/DET dog/NOUN"`` as a text and its tagged words."""
    words, plain = [], ""
    for piece in text.split():
        word, tag = piece.split("/")
        words.append((len(plain), len(plain) + len(word), tag))
        plain += word + " "
    return plain, words


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A/DET man/NOUN in/ADP two/NUM old/ADJ blue/ADJ rain/NOUN coats/NOUN", ["A man", "two old blue rain coats"]),
        ("he/PRON sees/VERB London/PROPN ./PUNCT", ["London"]),
        ("the/DET very/ADV red/ADJ bus/NOUN", ["red bus"]),
        ("the/DET the/DET bus/NOUN", ["the bus"]),
        ("red/ADJ and/CCONJ the/DET", []),
        ("dogs/NOUN ,/PUNCT cats/NOUN", ["dogs", "cats"]),
        ("big/ADJ", []),
        ("", []),
    ],
)
def test_phrases(text: str, phrases: list[str]) -> None:
    plain, words = tagged(text)
    assert [plain[b:e] for b, e in noun_phrases(words)] == phrases
