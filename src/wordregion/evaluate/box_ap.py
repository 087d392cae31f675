"""Average precision of boxes, by faster-coco-eval: COCO's, and LVIS's in its own and in its fixed form.

A found box is a row of COCO's result format: ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``,
in pixels of the original image.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wordregion.errors import UsageError

Row = dict[str, Any]
COCO_DEPTH = 100
"""Boxes of a class in an image that COCO counts."""
LVIS_DEPTH = 300
"""Boxes of an image, over all classes, that LVIS counts."""
FIXED_DEPTH = 10_000
"""Boxes of a class, over all images, that LVIS's fixed AP counts (Dave et al., 2021)."""

_COCO = {
    "AP": "AP_all", "AP50": "AP_50", "AP75": "AP_75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
}  # fmt: skip
_LVIS = {"AP": "AP_all", "APr": "APr", "APc": "APc", "APf": "APf"}


def coco_ap(truth: Mapping[str, Any], found: Sequence[Row]) -> dict[str, float]:
    """COCO's AP over IoU 0.5 to 0.95 and its parts, in percent; a part that nothing belongs to is left out.

    Args:
        truth: a file in COCO's layout, parsed.
        found: boxes of its images.

    Raises:
        UsageError: if there are no true boxes, or a found box names an image or class that is not there.
    """
    return _measured(truth, found, _COCO, [1, 10, COCO_DEPTH], lvis=False)


def lvis_ap(truth: Mapping[str, Any], found: Sequence[Row], fixed: bool = False) -> dict[str, float]:
    """LVIS's AP, and those of rare, common and frequent classes, in percent.

    Boxes of classes that nobody looked for in an image count neither way.

    Args:
        truth: a file in LVIS's layout, parsed.
        found: boxes of its images.
        fixed: count the best 10,000 boxes of each class over all images, instead of the best 300 of each image.

    Raises:
        UsageError: if there are no true boxes, or a found box names an image or class that is not there.
    """
    kept = best(found, FIXED_DEPTH, "category_id") if fixed else best(found, LVIS_DEPTH, "image_id")
    return _measured(truth, kept, _LVIS, [FIXED_DEPTH if fixed else LVIS_DEPTH], lvis=True)


def best(found: Iterable[Row], depth: int, key: str) -> list[Row]:
    """The `depth` rows with the highest score for each value of `key`; ties go to the earlier row."""
    groups: dict[Any, list[Row]] = {}
    for row in found:
        groups.setdefault(row[key], []).append(row)
    return [row for rows in groups.values() for row in sorted(rows, key=lambda r: -r["score"])[:depth]]


def _measured(
    truth: Mapping[str, Any], found: Sequence[Row], names: Mapping[str, str], depths: list[int], lvis: bool
) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster

    truth = _sound(truth)
    _check(truth, found)
    true = COCO(truth)
    measure = COCOeval_faster(true, true.loadRes([dict(row) for row in found]), "bbox", lvis_style=lvis)
    measure.params.maxDets = depths
    measure.evaluate()
    measure.accumulate()
    measure.summarize()
    values = measure.stats_as_dict
    return {name: 100 * values[theirs] for name, theirs in names.items() if values[theirs] >= 0}


def _sound(truth: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose annotations are numbered from 1 (0 means "unmatched" to the evaluator), with area and crowd flag."""
    notes = []
    for number, note in enumerate(truth["annotations"], 1):
        area = note["bbox"][2] * note["bbox"][3]
        notes.append({"area": area, "iscrowd": 0, **{k: v for k, v in note.items() if k != "segmentation"}})
        notes[-1]["id"] = number
    images = [{k: v for k, v in image.items() if k != "caption"} for image in truth["images"]]
    return {"images": images, "annotations": notes, "categories": copy.deepcopy(truth["categories"])}


def _check(truth: Mapping[str, Any], found: Sequence[Row]) -> None:
    if not truth["annotations"]:
        raise UsageError("average precision: no true boxes, so there is nothing to find. Use a set with boxes.")
    for key, part in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in truth[part]}
        strange = next((row[key] for row in found if row[key] not in known), None)
        if strange is not None:
            raise UsageError(f"average precision: {key} {strange!r} of a found box is not among the true {part}.")
