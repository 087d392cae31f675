"""Noun phrases of captions, from parts of speech: what GLIP asks a teacher for, and what a user may click on."""

from wordregion.data.prompts import Span
from wordregion.data.tagging import Tagged

_BEFORE = frozenset({"ADJ", "NUM"})
_NOUNS = frozenset({"NOUN", "PROPN"})


def noun_phrases(words: Tagged) -> list[Span]:
    """The characters of each phrase: a determiner if there is one, adjectives and numbers, then one or more nouns.

    The grammar of GLIP's code, ``DT? JJ* NN+``, with numbers added; phrases never overlap, and pronouns are none.

    Args:
        words: (begin, end, universal part of speech) of each word of a text, in order.
    """
    spans: list[Span] = []
    place = 0
    while place < len(words):
        at = place + (words[place][2] == "DET")
        while at < len(words) and words[at][2] in _BEFORE:
            at += 1
        nouns = at
        while at < len(words) and words[at][2] in _NOUNS:
            at += 1
        if at > nouns:
            spans.append((words[place][0], words[at - 1][1]))
        place = max(at, place + 1) if at > nouns else place + 1
    return spans
