"""VL-Match on photos with the settings that its paper leaves open, as an own recipe:

    wordregion train examples/vl_match/unknowns.py:unknowns --temperature 0.5 --out runs/unknowns

What each of them does is measured in docs/vl_match.md.
"""

from dataclasses import replace
from pathlib import Path

from wordregion.data.tokens import Masking
from wordregion.objectives import ReplacedWords
from wordregion.recipes.recipe import Recipe
from wordregion.recipes.vl_match import vl_match_flickr_small
from wordregion.tasks.align import Align


def unknowns(
    start: Path = Path("runs/flickr_frozen"),
    data: Path = Path("data/flickr30k_entities"),
    weights: Path = Path("weights"),
    tokens: Path | None = None,
    cache: Path = Path("negatives/flickr"),
    negatives: int = 1,
    detect: float = 10.0,
    temperature: float = 1.0,
    mask_rate: float = 0.15,
) -> Recipe:
    """`vl_match_flickr_small` with replaced words and generated false captions, its open settings by name.

    Args:
        start: see `vl_match_flickr_small`.
        data: see `vl_match_flickr_small`.
        weights: see `vl_match_flickr_small`.
        tokens: see `vl_match_flickr_small`.
        cache: see `vl_match_flickr_small`; another language model or threshold is another cache.
        negatives: generated false captions a text.
        detect: weight of the detection of replaced words over that of the generator's guesses.
        temperature: of the draw of replaced words.
        mask_rate: share of the words that are drawn anew.
    """
    base = vl_match_flickr_small(start, data, weights, tokens, cache, negatives=negatives, detect=detect)
    assert isinstance(base.task, Align)
    objectives = tuple(
        replace(o, temperature=temperature) if isinstance(o, ReplacedWords) else o for o in base.task.objectives
    )
    collator, masking = base.data.collator, Masking(mask_rate, mask=1.0, random=0.0)
    return replace(
        base,
        name="unknowns",
        task=replace(base.task, objectives=objectives),
        data=replace(base.data, collator=lambda: replace(collator(), masking=masking)),
    )
