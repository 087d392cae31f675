"""OpenImages' CSV files: boxes by class, and which classes were looked for in a photo and not found."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wordregion.data.fields import shown
from wordregion.data.files import Packed, check_index, existing_file
from wordregion.data.images import ImageStore
from wordregion.data.prompts import ABSENT
from wordregion.errors import DataError, UsageError
from wordregion.schema import Box, Grounding, Sample

CLASSES = "class-descriptions-boxable.csv"
_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


class OpenImages:
    """Boxes by class name (`Dataset`): a text is a class, its grounding holds the boxes of that class.

    Groups of objects (`IsGroupOf`) are left out. What a photo could be asked for in vain are the classes that people
    looked for in it without success (`Confidence` 0), where the file of those is there; else none.

    Args:
        root: folder of ``class-descriptions-boxable.csv``, ``SPLIT-annotations-bbox.csv`` and, where it is wanted,
            ``SPLIT-annotations-human-imagelabels-boxable.csv``.
        split: "train", "validation" or "test".
        images: folder or tar of the photos (``ID.jpg``); default: the folder SPLIT or SPLIT.tar in `root`.

    Raises:
        UsageError: if a file or folder is missing.
        DataError: if a file has other columns, or there are no boxes.
    """

    def __init__(self, root: Path | str, split: str = "train", images: Path | str | None = None) -> None:
        self.root, self.name = Path(root), f"{root}#{split}"
        self.path = existing_file(self.root / f"{split}-annotations-bbox.csv", "OpenImages' boxes")
        self.categories = _classes(existing_file(self.root / CLASSES, "OpenImages' class names"))
        records: dict[str, dict[str, Any]] = {}
        for line, row in _rows(self.path, _COLUMNS):
            record = records.setdefault(row["ImageID"], {"id": row["ImageID"], "line": line, "boxes": [], "absent": []})
            edges = [row[key] for key in ("XMin", "YMin", "XMax", "YMax")]
            record["boxes"].append([line, row["LabelName"], edges, row.get("IsGroupOf", "0")])
        labels = self.root / f"{split}-annotations-human-imagelabels-boxable.csv"
        if labels.is_file():
            for _, row in _rows(labels, ("ImageID", "LabelName", "Confidence")):
                if row["Confidence"] in ("0", "0.0") and row["ImageID"] in records:
                    records[row["ImageID"]]["absent"].append(row["LabelName"])
        if not records:
            raise DataError(str(self.path), "", "has no boxes", "Take the file from the release again.")
        self._records = Packed(records.values())
        self._images = ImageStore(_photos(self.root, split) if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File, first line and photo."""
        record = self._records[index]
        return f"{self.path}, line {record['line']} (photo {record['id']})"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record, where = self._records[index], self.where(index)
        boxes: dict[str, list[Box]] = {}
        for line, label, edges, group in record["boxes"]:
            name, box = self._class(label, line), _unit_box(edges, f"{self.path}, line {line}")
            if group != "1":
                boxes.setdefault(name, []).append(box)
        image = self._images.open(f"{record['id']}.jpg", where, "ImageID", upright=False)
        absent = tuple(self.categories[label] for label in record["absent"] if label in self.categories)
        groundings = tuple(Grounding(text=i, boxes=tuple(found)) for i, found in enumerate(boxes.values()))
        return Sample(record["id"], (image,), tuple(boxes), groundings, {ABSENT: absent})

    def _class(self, label: str, line: int) -> str:
        if label not in self.categories:
            problem = f"{shown(label)} is no class of {CLASSES}"
            raise DataError(f"{self.path}, line {line}", "LabelName", problem, "Use the files of one release.")
        return self.categories[label]


def _classes(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8-sig") as file, _clear_errors(path, reader := csv.reader(file)):
        rows = [row for row in reader if row]
    for i, row in enumerate(rows):
        if len(row) != 2 or not row[1].strip():
            raise DataError(f"{path}, line {i + 1}", "", f"is {shown(row)}", "Expected LABEL,name.")
    return {label: name for label, name in rows if label != "LabelName"}


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8-sig") as file, _clear_errors(path, reader := csv.DictReader(file)):
        if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
            raise DataError(str(path), missing[0], "no such column", f"Expected {', '.join(needed)}.")
        for line, row in enumerate(reader, 2):
            if any(not row[name] for name in needed):
                raise DataError(f"{path}, line {line}", "", "is cut short", "Take the file from the release again.")
            yield line, row


@contextmanager
def _clear_errors(path: Path, reader: Any) -> Iterator[None]:
    """Raises DataError with the line for what a reader of CSV raises on damaged files."""
    try:
        yield
    except UnicodeDecodeError as error:
        number = _undecodable_line(path)
        raise DataError(f"{path}, line {number}", "", "not UTF-8", "Save the file as UTF-8.") from error
    except csv.Error as error:
        where = f"{path}, line {reader.line_num + 1}"
        raise DataError(where, "", f"not CSV ({error})", "Take the file from the release again.") from error


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _unit_box(edges: list[str], where: str) -> Box:
    try:
        x0, y0, x1, y1 = map(float, edges)
    except ValueError as error:
        raise DataError(where, "XMin", f"is {shown(edges)}", "Give 4 numbers in [0, 1].") from error
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        problem = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty or not in [0, 1]"
        raise DataError(where, "XMin", problem, "Correct or remove it.")
    return (x0, y0, x1, y1)


def _photos(root: Path, split: str) -> Path:
    for choice in (root / split, root / f"{split}.tar", root / "images"):
        if choice.exists():
            return choice
    raise UsageError(f"{root}: no folder or tar '{split}' of photos. Point 'images' at them.")
