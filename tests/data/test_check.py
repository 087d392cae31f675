"""The report on a data set, and the picture of its samples."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wordregion.data.check import MAX_PROBLEMS, check, contact_sheet, verify
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample


class Made:
    """`size` samples, every `bad`th broken."""

    name = "made"

    def __init__(self, size: int = 20, bad: int = 10**9) -> None:
        self.size, self.bad = size, bad

    def __len__(self) -> int:
        return self.size

    def where(self, index: int) -> str:
        return f"made, record {index}"

    def __getitem__(self, index: int) -> Sample:
        if index % self.bad == self.bad - 1:
            raise DataError(self.where(index), "image", "is broken", "Mend it.")
        boxes = ((0.1, 0.1, 0.5, 0.5), (0.4, 0.4, 1.0, 1.0))
        groundings = (
            Grounding(text=0),
            Grounding(text=0, span=(2, 5), boxes=boxes),
            Grounding(text=1),
            Grounding(text=1, span=(0, 1), boxes=boxes[:1]),
            Grounding(text=2, boxes=boxes[1:]),
        )
        return Sample(str(index), (Image.new("RGB", (60, 30), "grey"),), ("a dog", "b", "a region"), groundings)


def test_counts() -> None:
    seen: list[tuple[int, int]] = []
    report = check(Made(), progress=lambda done, todo: seen.append((done, todo)))
    assert report.ok
    assert report.counts == {
        "records": 20, "checked": 20, "broken": 0, "images": 20, "captions": 40, "regions": 20, "phrases": 40,
        "boxes": 40,
    }  # fmt: skip
    assert seen[-1] == (20, 20)
    assert report.lines()[-1] == "no problems"
    assert report.lines()[0].startswith("made: 20 records, 20 checked, 0 broken")


def test_problems_are_listed_up_to_a_limit() -> None:
    report = check(Made(20, bad=4))
    assert (report.total, report.counts["broken"], report.counts["images"]) == (5, 5, 15)
    assert report.lines(2) == [
        report.lines()[0],
        "problem: made, record 3, field 'image': is broken. Mend it.",
        "problem: made, record 7, field 'image': is broken. Mend it.",
        "... and 3 more",
        "5 problems",
    ]
    many = check(Made(MAX_PROBLEMS + 5, bad=1))
    assert (many.total, len(many.problems)) == (MAX_PROBLEMS + 5, MAX_PROBLEMS)
    assert f"... and {MAX_PROBLEMS - 15:,} more" in many.lines()


def test_limit_spreads_evenly() -> None:
    report = check(Made(20, bad=5), limit=4)  # records 0, 5, 10, 15
    assert (report.counts["checked"], report.total) == (4, 0)
    assert check(Made(3), limit=10).counts["checked"] == 3
    with pytest.raises(UsageError):
        check(Made(3), limit=0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"images": ()}, "images"),
        ({"texts": ("a", " ")}, "texts[1]"),
        ({"groundings": (Grounding(text=2),)}, "groundings[0]"),
        ({"groundings": (Grounding(text=0, image=1),)}, "groundings[0]"),
        ({"groundings": (Grounding(text=0, span=(1, 1)),)}, "groundings[0]"),
        ({"groundings": (Grounding(text=0, span=(0, 9)),)}, "groundings[0]"),
        ({"groundings": (Grounding(text=0, boxes=((0.5, 0.1, 0.4, 0.2),)),)}, "groundings[0]"),
        ({"groundings": (Grounding(text=0, boxes=((0.5, 0.1, 1.4, 0.2),)),)}, "groundings[0]"),
        ({"groundings": (Grounding(text=0, boxes=((0.5, 0.1, float("nan"), 0.2),)),)}, "groundings[0]"),
    ],
)
def test_verify_names_the_field(change: dict[str, object], field: str) -> None:
    fields = {"id": "x", "images": (torch.zeros(3, 2, 2),), "texts": ("a", "b"), "groundings": ()}
    verify(Sample(**fields), "here")  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        verify(Sample(**(fields | change)), "here")  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.remedy


def test_contact_sheet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    assert contact_sheet(Made(20, bad=5), path, n=10) == 8  # records 4 and 14 are broken: 0, 2, 4, ...
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[1] > 1200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    assert contact_sheet(Made(1), path) == 1
    with pytest.raises(UsageError, match="cannot write"):
        contact_sheet(Made(1), path / "below.png")
    with pytest.raises(UsageError, match="at least 1"):
        contact_sheet(Made(1), path, n=0)
