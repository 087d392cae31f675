"""Average precision against cases worked out by hand. (Against pycocotools and lvis: docs/detection.md.)"""

import pytest

from wordregion.errors import UsageError
from wordregion.evaluate.box_ap import best, coco_ap, lvis_ap

LARGE = 100.0  # a side of 100 pixels: "large"


def truth(*notes: tuple[int, int, float], frequency: str = "rcf", **of_image: list[int]) -> dict:
    """Boxes of 100 x 100 pixels at (image, class, x)."""
    return {
        "images": [{"id": i, "width": 1000, "height": 500, **of_image} for i in (1, 2)],
        "categories": [{"id": i, "name": f"class {i}", "frequency": frequency[i - 1]} for i in (1, 2, 3)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": kind, "bbox": [x, 0.0, LARGE, LARGE]}
            for number, (image, kind, x) in enumerate(notes)  # from 0: an evaluator that takes 0 for "no match" fails
        ],
    }


def found(image: int, kind: int, x: float, score: float) -> dict:
    return {"image_id": image, "category_id": kind, "bbox": [x, 0.0, LARGE, LARGE], "score": score}


def test_all_found_is_100_and_nothing_found_is_0() -> None:
    notes = truth((1, 1, 0.0), (2, 2, 50.0))
    right = [found(1, 1, 0.0, 0.9), found(2, 2, 50.0, 0.2)]
    assert coco_ap(notes, right) == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100, "APl": 100})
    assert coco_ap(notes, []) == pytest.approx({"AP": 0, "AP50": 0, "AP75": 0, "APl": 0})
    assert coco_ap(notes, right[:1])["AP"] == pytest.approx(50)  # the mean over classes


def test_overlap_decides_at_each_threshold() -> None:
    # shifted by 20 of 100 pixels: IoU = 80 / 120 = 0.667, right at 0.50, 0.55, 0.60, 0.65 of the ten thresholds
    ap = coco_ap(truth((1, 1, 0.0)), [found(1, 1, 20.0, 0.9)])
    assert (ap["AP"], ap["AP50"], ap["AP75"]) == pytest.approx((40, 100, 0))


def test_a_better_scored_wrong_box_halves_the_precision() -> None:
    notes = truth((1, 1, 0.0))
    assert coco_ap(notes, [found(1, 1, 500.0, 0.9), found(1, 1, 0.0, 0.5)])["AP"] == pytest.approx(50)
    assert coco_ap(notes, [found(1, 1, 500.0, 0.4), found(1, 1, 0.0, 0.5)])["AP"] == pytest.approx(100)
    # two of three true boxes found, before them nothing wrong: recall 2/3, read at 101 points 0, 0.01, ..., 1
    three = truth((1, 1, 0.0), (1, 1, 300.0), (2, 1, 0.0))
    assert coco_ap(three, [found(1, 1, 0.0, 0.9), found(2, 1, 0.0, 0.8)])["AP"] == pytest.approx(100 * 67 / 101)


def test_lvis_counts_wrong_boxes_only_where_somebody_looked() -> None:
    notes = truth((1, 1, 0.0), (2, 3, 0.0), neg_category_ids=[3], not_exhaustive_category_ids=[])
    right = [found(1, 1, 0.0, 0.5), found(2, 3, 0.0, 0.5)]
    assert lvis_ap(notes, right) == pytest.approx({"AP": 100, "APr": 100, "APf": 100})
    unseen = found(2, 1, 0.0, 0.9)  # nobody said whether image 2 shows class 1
    assert lvis_ap(notes, [*right, unseen])["APr"] == pytest.approx(100)
    verified = found(1, 3, 0.0, 0.9)  # class 3 is not in image 1
    assert lvis_ap(notes, [*right, verified])["APf"] == pytest.approx(50)
    partly = truth((1, 1, 0.0), (2, 3, 0.0), neg_category_ids=[], not_exhaustive_category_ids=[1])
    assert lvis_ap(partly, [*right, found(1, 1, 500.0, 0.9)])["APr"] == pytest.approx(100)


def test_the_fixed_ap_has_no_limit_on_an_image() -> None:
    notes = truth((1, 1, 0.0), (2, 3, 0.0), neg_category_ids=[3], not_exhaustive_category_ids=[])
    many = [found(1, 2, float(i), 0.9) for i in range(300)]  # crowd out the right one, and count themselves neither way
    rows = [*many, found(1, 1, 0.0, 0.5), found(2, 3, 0.0, 0.5)]
    assert lvis_ap(notes, rows)["APr"] == pytest.approx(0)
    assert lvis_ap(notes, rows, fixed=True)["APr"] == pytest.approx(100)


def test_the_best_of_each_group() -> None:
    rows = [found(1, 1, 0.0, 0.1), found(1, 2, 1.0, 0.9), found(1, 1, 2.0, 0.3), found(2, 1, 3.0, 0.2)]
    assert [r["bbox"][0] for r in best(rows, 2, "image_id")] == [1.0, 2.0, 3.0]
    assert [r["bbox"][0] for r in best(rows, 1, "category_id")] == [2.0, 1.0]


def test_boxes_of_nothing_known_are_refused() -> None:
    with pytest.raises(UsageError, match="image_id 9"):
        coco_ap(truth((1, 1, 0.0)), [found(9, 1, 0.0, 0.5)])
    with pytest.raises(UsageError, match="category_id 7"):
        coco_ap(truth((1, 1, 0.0)), [found(1, 7, 0.0, 0.5)])
    with pytest.raises(UsageError, match="no true boxes"):
        coco_ap(truth(), [])
