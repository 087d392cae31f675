"""VQA accuracy by the rules of the official script (visualqa.org; Antol et al., ICCV 2015, section 4.3)."""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Marks that become a space, or nothing where one of them stands beside a space. Apostrophes and colons stay."""

ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTED.split()
    for at, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # the last is the script's own slip
"""A contraction that lacks one of its apostrophes, and how it is written."""

_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # the script removes so many: it passes a flag where the count belongs


def normalise(answer: str) -> str:
    """An answer in the form in which answers are compared.

    Punctuation goes, but for apostrophes, colons and decimal points; then lower case; number words become digits;
    articles go; contractions get their apostrophe.
    """
    return _words(_without_punctuation(_tidy(answer)))


def vqa_accuracy(predicted: str, human: Sequence[str]) -> float:
    """How right a prediction is, in [0, 1], given the answers of (usually ten) people.

    For each person, min(1, others who say the same / 3); the mean over all persons. As in the script, the answers are
    normalised only where the people disagree.

    Args:
        predicted: the answer.
        human: one answer a person, at least one.
    """
    predicted, answers = _tidy(predicted), [_tidy(answer) for answer in human]
    if len(set(answers)) > 1:
        predicted, answers = normalise(predicted), [normalise(answer) for answer in answers]
    same = [answer == predicted for answer in answers]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


def _tidy(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    result, number = text, _IN_NUMBER.search(text)
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or number else " ")
    return _PERIOD.sub("", result, count=_PERIODS)


def _words(text: str) -> str:
    words = (DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
