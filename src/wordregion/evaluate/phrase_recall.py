"""Flickr30k Entities' recall: is the box of a phrase among the first k? Pure functions.

Shape letters: K found boxes, best first; M true boxes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wordregion.evaluate.pointing import overlap_hits

ANY, MERGED = "any_box", "merged_box"
ALL = "all"
DEPTHS: tuple[int | None, ...] = (1, 5, 10)


@dataclass(frozen=True)
class FoundPhrase:
    """How deep the first right box of one phrase lies.

    Attributes:
        types: of the phrase: "people", "clothing" ...; it counts for each of them.
        any_box: place, from 1, of the first found box that fits any true box; None if none does.
        merged_box: the same against the one box around all true boxes.
    """

    types: tuple[str, ...]
    any_box: int | None
    merged_box: int | None


def find_phrase(
    found_K4: Float[Tensor, "K 4"], true_M4: Float[Tensor, "M 4"], types: Iterable[str] = (), least: float = 0.5
) -> FoundPhrase:
    """Compares the boxes of one phrase (GLIP's and MDETR's code: IoU >= 0.5, without a pixel added to the sides).

    Args:
        found_K4: xyxy, best first.
        true_M4: xyxy on the same scale, at least one.
        types: of the phrase.
        least: IoU at which a box counts, up to rounding: see `overlap_hits`.
    """
    around_14 = torch.cat([true_M4[:, :2].amin(0), true_M4[:, 2:].amax(0)])[None]
    return FoundPhrase(tuple(types), _place(found_K4, true_M4, least), _place(found_K4, around_14, least))


def recall(phrases: Sequence[FoundPhrase], depths: Sequence[int | None] = DEPTHS) -> dict[str, float]:
    """Share of phrases whose box is among the first k, as ``any_box/all/R@1`` ..., for all and for each type.

    Args:
        phrases: at least one.
        depths: values of k; None = among all found boxes.
    """
    types = [ALL, *dict.fromkeys(name for phrase in phrases for name in phrase.types)]
    metrics: dict[str, float] = {}
    for measure in (ANY, MERGED):
        for name in types:
            places = [getattr(p, measure) for p in phrases if name == ALL or name in p.types]
            for depth in depths:
                hits = sum(place is not None and (depth is None or place <= depth) for place in places)
                metrics[f"{measure}/{name}/R@{'any' if depth is None else depth}"] = hits / len(places)
    return metrics


def _place(found_K4: Tensor, true_M4: Tensor, least: float) -> int | None:
    if not len(found_K4):
        return None
    right_K = overlap_hits(found_K4, true_M4, least)
    return int(right_K.to(torch.uint8).argmax()) + 1 if right_K.any() else None
