"""ODVG, Grounding DINO's JSON lines: a line is a picture with boxes by class, or a caption with boxes by phrase.

A detection line: ``{"filename", "width", "height", "detection": {"instances": [{"bbox", "category"}]}}``; a grounding
line: ``{"filename", "width", "height", "grounding": {"caption", "regions": [{"bbox", "phrase"}]}}``. A region may have
``tokens_positive``, the (begin, end) characters of its phrase, and, where a teacher made it, a ``score``. Boxes are
xyxy in pixels of the original picture.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from wordregion.data.fields import image_size, number, required, shown, text_value, unit_box
from wordregion.data.files import load_json
from wordregion.data.images import ImageStore, decode
from wordregion.data.prompts import ABSENT, Span
from wordregion.data.sources import Record, Source
from wordregion.errors import DataError, UsageError
from wordregion.schema import Box, Grounding, Sample

DETECTION, GROUNDING = "detection", "grounding"
_REMEDY = "Expected ODVG: filename, width, height, and detection or grounding."
_BOX_REMEDY = "Give 4 numbers: x0, y0, x1, y1 in pixels."
_PICTURES = ("jpg", "jpeg", "png", "webp")


def is_odvg(record: Mapping[str, Any]) -> bool:
    """Whether a record is a line of ODVG."""
    return isinstance(record.get(DETECTION), dict) or isinstance(record.get(GROUNDING), dict)


class Odvg:
    """Detection and grounding lines (`Dataset`), from a JSONL file or from tar shards that hold the pictures too.

    A detection line becomes a detection sample as of COCO: a text is a class, its grounding holds the boxes. What it
    could be asked for in vain are the other classes of `classes`. A grounding line becomes a caption, ``Grounding(0)``,
    and a grounding with a span and boxes for each region; ``target["scores"]`` has the score of each region, 1 where
    there is none.

    Args:
        source: `Jsonl`, or `Tar` of KEY.jpg and KEY.json.
        images: folder or tar where the file names begin; default: the folder of the source.
        classes: JSON file of all class names, ``{"0": "person", ...}`` or a list; default: ``NAME_label_map.json`` or
            ``label_map.json`` beside the source, if there is one.
        least_score: regions and boxes with a smaller score are left out.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the class file has another form.
    """

    def __init__(
        self,
        source: Source,
        images: Path | str | None = None,
        classes: Path | str | None = None,
        least_score: float = 0.0,
    ) -> None:
        self.source, self.name, self.least_score = source, source.name, least_score
        self._images = ImageStore(source.folder if images is None else images)
        found = _classes_near(source) if classes is None else Path(classes)
        self.classes = () if found is None else _class_names(found)

    def __len__(self) -> int:
        return len(self.source)

    def where(self, index: int) -> str:
        """File and line, or shard and key."""
        return self.source.where(index)

    def __getitem__(self, index: int) -> Sample:
        record, where = self.source[index], self.where(index)
        if not is_odvg(record):
            has = ", ".join(list(map(str, record))[:12])
            raise DataError(where, "", f"neither detection nor grounding (fields: {has})", _REMEDY)
        size = image_size(record, where)
        name = str(record.get("id", record.get("__key__", record.get("filename", where))))
        if isinstance(record.get(DETECTION), dict):
            texts, groundings, target = self._detection(record[DETECTION], size, where)
        else:
            texts, groundings, target = self._grounding(record[GROUNDING], size, where)
        return Sample(name, (self._picture(record, where),), texts, groundings, target)

    def _detection(
        self, part: Record, size: tuple[float, float], where: str
    ) -> tuple[tuple[str, ...], tuple[Grounding, ...], dict[str, Any]]:
        boxes: dict[str, list[Box]] = {}
        for field, instance in _rows(part, "instances", f"{DETECTION}.instances", where):
            label = instance.get("category", instance.get("label"))
            if isinstance(label, int) and 0 <= label < len(self.classes):
                label = self.classes[label]
            name = text_value(label, where, f"{field}.category")
            found = list(_boxes(instance, size, where, field))
            if self._scored(instance, where, field) >= self.least_score:
                boxes.setdefault(name, []).extend(found)
        groundings = tuple(Grounding(text=i, boxes=tuple(b)) for i, b in enumerate(boxes.values()))
        return tuple(boxes), groundings, {ABSENT: self.classes}

    def _grounding(
        self, part: Record, size: tuple[float, float], where: str
    ) -> tuple[tuple[str, ...], tuple[Grounding, ...], dict[str, Any]]:
        caption = required(part, "caption", where, _REMEDY)
        text_value(caption, where, "caption")  # not stripped: spans count its characters
        groundings, scores = [Grounding(text=0)], []
        for field, region in _rows(part, "regions", f"{GROUNDING}.regions", where):
            boxes = tuple(_boxes(region, size, where, field))
            spans = list(_spans(region, caption, where, field))
            score = self._scored(region, where, field)
            if score < self.least_score:
                continue
            groundings += [Grounding(text=0, span=span, boxes=boxes) for span in spans]
            scores += [score] * len(spans)
        return (caption,), tuple(groundings), {"scores": tuple(scores)}

    def _scored(self, region: Record, where: str, field: str) -> float:
        return number(region.get("score", 1.0), where, f"{field}.score")

    def _picture(self, record: Record, where: str) -> Image.Image:
        for field in _PICTURES:
            if isinstance(record.get(field), bytes):
                return decode(record[field], where, field, upright=False)
        name = text_value(required(record, "filename", where, _REMEDY), where, "filename")
        return self._images.open(name, where, "filename", upright=False)


def _rows(part: Record, key: str, field: str, where: str) -> Iterator[tuple[str, Record]]:
    rows = part.get(key)
    if not isinstance(rows, list):
        raise DataError(where, field, "no such list", _REMEDY)
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(where, f"{field}[{i}]", f"is {shown(row)}, not an object", _REMEDY)
        yield f"{field}[{i}]", row


def _boxes(region: Record, size: tuple[float, float], where: str, field: str) -> Iterator[Box]:
    values = region.get("bbox")
    rows = values if isinstance(values, list) and values and isinstance(values[0], list) else [values]
    for row in rows:
        if not isinstance(row, list) or len(row) != 4:
            raise DataError(where, f"{field}.bbox", f"is {shown(row)}", _BOX_REMEDY)
        x0, y0, x1, y1 = (number(value, where, f"{field}.bbox") for value in row)
        yield unit_box(x0, y0, x1, y1, size, where, f"{field}.bbox")


def _spans(region: Record, caption: str, where: str, field: str) -> Iterator[Span]:
    if region.get("tokens_positive") is not None:
        yield from checked_spans(region["tokens_positive"], caption, where, f"{field}.tokens_positive")
        return
    phrase = text_value(region.get("phrase"), where, f"{field}.phrase")
    found = re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", caption, re.IGNORECASE)
    if found is None:
        problem = f"'{phrase}' does not occur in the caption"
        raise DataError(where, f"{field}.phrase", problem, "Write it as it stands there, or give tokens_positive.")
    yield found.span()


def checked_spans(values: Any, caption: str, where: str, field: str) -> Iterator[Span]:
    """(begin, end) pairs of characters. Raises DataError unless each lies in the caption and holds something."""
    if not isinstance(values, list) or not values:
        raise DataError(where, field, f"is {shown(values)}", "Give a list of [begin, end] characters.")
    for value in values:
        whole = isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value)
        if not whole or not 0 <= value[0] < value[1] <= len(caption):
            problem = f"{shown(value)} is no part of the caption's {len(caption)} characters"
            raise DataError(where, field, problem, "Give [begin, end], end exclusive.")
        yield value[0], value[1]


def _classes_near(source: Source) -> Path | None:
    stem = Path(source.name).stem
    for name in (f"{stem}_label_map.json", "label_map.json"):
        if (source.folder / name).is_file():
            return source.folder / name
    return None


def _class_names(path: Path) -> tuple[str, ...]:
    content = load_json(path, "a JSON object of class names")
    remedy = 'Expected {"0": "person", "1": "bicycle", ...} or a list of names.'
    if isinstance(content, dict):
        if sorted(content) != sorted(map(str, range(len(content)))):
            raise DataError(str(path), "", "the keys are not 0, 1, 2, ...", remedy)
        content = [content[str(i)] for i in range(len(content))]
    if not isinstance(content, list) or not content:
        raise UsageError(f"{path}: no class names. {remedy}")
    return tuple(text_value(name, str(path), f"class {i}") for i, name in enumerate(content))
