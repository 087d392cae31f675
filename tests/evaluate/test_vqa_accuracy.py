"""The official script's rules, each case worked by hand."""

import pytest

from wordregion.evaluate.vqa_accuracy import CONTRACTIONS, normalise, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("  red \n", "red"),
        ("red\tand blue", "red and blue"),
        ("a dog", "dog"),
        ("An apple", "apple"),
        ("the man on the left", "man on left"),
        ("a", ""),
        ("two", "2"),
        ("None", "0"),
        ("zero", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),  # the table ends with ten
        ("dont", "don't"),
        ("isnt it", "isn't it"),
        ("couldntve", "couldntve"),  # two apostrophes missing: not in the table
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("it's", "it's"),  # apostrophes stay
        ("its", "its"),  # nor is this in the table
        ("youre", "you're"),
        ("somebody'd", "somebodyd"),  # the script's slip
        ("10:30", "10:30"),  # colons stay
        ("yes.", "yes"),
        ("2.5", "2.5"),  # a decimal point stays
        ("u.s.", "us"),
        (".5", ".5"),
        ("yes, sir", "yes sir"),  # comma beside a space: deleted
        ("yes,sir", "yes sir"),  # comma within a word: a space
        ("1,000", "1000"),  # comma within a number: deleted
        ("t-shirt", "t shirt"),
        ("black-and-white - 1,000", "blackandwhite 1000"),  # a number's comma deletes every mark
        ("left/right", "left right"),
        ("what?", "what"),
        ("ok !", "ok"),
        ("(dog)", "dog"),
        ("a_b", "b"),  # the mark becomes a space first, then the article goes
        ('"stop"', "stop"),
        ("black & white", "black & white"),  # not among the marks
        ("THE TWO DOGS", "2 dogs"),
    ],
)
def test_normalisation(answer, expected):
    assert normalise(answer) == expected


def test_the_table_of_contractions_has_the_published_size():
    # 120 entries in the script, less two that stand for themselves (let's, she's) and four with a capital letter,
    # which lower-cased text never meets (Id've, I'dve, Im, Ive)
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["'ows'at"] == "'ow's'at"
    assert CONTRACTIONS["yall'd've"] == "y'all'd've"


@pytest.mark.parametrize(
    ("predicted", "human", "expected"),
    [
        ("yes", ["yes"] * 10, 1.0),
        ("no", ["yes"] * 10, 0.0),
        # one person of ten says it: that person's turn counts 0 of 3, the nine others' 1 of 3
        ("red", ["red", *["blue"] * 9], 9 * (1 / 3) / 10),
        # two: 2 turns with 1/3, 8 with 2/3
        ("red", ["red"] * 2 + ["blue"] * 8, (2 / 3 + 8 * 2 / 3) / 10),
        # three: 3 turns with 2/3, 7 with 1
        ("red", ["red"] * 3 + ["blue"] * 7, (3 * 2 / 3 + 7) / 10),
        # four and more: every turn has three others
        ("red", ["red"] * 4 + ["blue"] * 6, 1.0),
        # people disagree, so everything is normalised
        ("Two", ["2"] * 5 + ["three"] * 5, 1.0),
        ("the red car.", ["red car"] * 4 + ["car"] * 6, 1.0),
        ("3", ["three", "3", "Three.", "3 ", "4", "5", "6", "7", "8", "9"], 1.0),
        # people agree to the letter, so nothing is
        ("two", ["2"] * 10, 0.0),
        ("Yes", ["yes"] * 10, 0.0),
        ("yes\n", ["yes "] * 10, 1.0),
        # three people only
        ("a", ["b", "c", "b"], 0.0),
    ],
)
def test_accuracy(predicted, human, expected):
    assert vqa_accuracy(predicted, human) == pytest.approx(expected)
