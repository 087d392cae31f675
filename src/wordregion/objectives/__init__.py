"""Supervision signals; each is one idea, exchangeable in a recipe by one line."""

from wordregion.objectives.box import Box
from wordregion.objectives.contrast import Contrast
from wordregion.objectives.masked_words import MaskedWords
from wordregion.objectives.match import Match
from wordregion.objectives.replaced_words import ReplacedWords
from wordregion.objectives.scene import AlignScene, Losses, Objective, Pairs
from wordregion.objectives.word_region import WordRegion

__all__ = [
    "AlignScene",
    "Box",
    "Contrast",
    "Losses",
    "MaskedWords",
    "Match",
    "Objective",
    "Pairs",
    "ReplacedWords",
    "WordRegion",
]
