"""Validates a data set before it is trained on, and draws some of its samples."""

import math
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from wordregion.data.fields import shown
from wordregion.errors import DataError, UsageError
from wordregion.schema import Box, Dataset, Grounding, Sample

MAX_PROBLEMS = 1000
_COUNTED = ("records", "checked", "broken", "images", "captions", "regions", "phrases", "boxes")
_COLUMNS, _PICTURE, _MARGIN, _LETTERS, _LINE, _LINES = 4, 300, 16, 46, 15, 5


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        name: the data set.
        counts: records in the data set, checked and broken ones; in the usable ones: images, captions (texts of a
            whole image), regions (whole texts with boxes), phrases (spans with boxes) and distinct boxes.
        problems: one for each broken record and each repeated id, at most `MAX_PROBLEMS` of them.
        total: how many problems there are.
    """

    name: str
    counts: dict[str, int]
    problems: tuple[DataError, ...] = ()
    total: int = 0

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.total

    def lines(self, most: int = 20) -> list[str]:
        """The report as text: the counts, one line for each of at most `most` problems, and a verdict."""
        counts = ", ".join(f"{value:,} {name}" for name, value in self.counts.items())
        listed = [f"problem: {problem}" for problem in self.problems[:most]]
        if self.total > len(listed):
            listed.append(f"... and {self.total - len(listed):,} more")
        verdict = "no problems" if self.ok else f"{self.total:,} problem{'s' * (self.total != 1)}"
        return [f"{self.name}: {counts}", *listed, verdict]


def check(
    dataset: Dataset, limit: int | None = None, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Reads and decodes records and reports what is wrong; a broken record never stops the check.

    A record is reported with the first problem in it. An id that occurs twice is a problem, but no broken record.

    Args:
        dataset: what `open_source` returned, or any other.
        limit: check that many records, spread evenly; default: all.
        progress: called with (records done, records to do).

    Raises:
        UsageError: if `limit` is below 1.
    """
    picked = _spread(len(dataset), len(dataset) if limit is None else limit)
    counts = dict.fromkeys(_COUNTED, 0) | {"records": len(dataset), "checked": len(picked)}
    problems: list[DataError] = []
    seen: dict[str, int] = {}
    total = 0
    for done, index in enumerate(picked, 1):
        problem = None
        try:
            sample = dataset[index]
            verify(sample, dataset.where(index))
        except DataError as error:
            counts["broken"] += 1
            problem = error
        else:
            for name, value in _count(sample).items():
                counts[name] += value
            if (first := seen.setdefault(sample.id, index)) != index:
                what = f"{shown(sample.id)} is also the id of {dataset.where(first)}"
                problem = DataError(dataset.where(index), "id", what, "Remove one of them, or give it another id.")
        if problem is not None:
            total += 1
            problems += [problem][: MAX_PROBLEMS - len(problems)]
        if progress is not None:
            progress(done, len(picked))
    return CheckReport(dataset.name, counts, tuple(problems), total)


def verify(sample: Sample, where: str) -> None:
    """Raises DataError if a sample breaks the schema: no image, empty texts, indices, spans or boxes out of range."""
    remedy = "Mend the adapter of this data set."
    if not sample.images:
        raise DataError(where, "images", "has none", remedy)
    for i, text in enumerate(sample.texts):
        if not text.strip():
            raise DataError(where, f"texts[{i}]", "is empty", "Give a caption, or remove the record.")
    for true, false in sample.negatives.items():
        if not all(0 <= text < len(sample.texts) for text in (true, *false)):
            raise DataError(where, f"negatives[{true}]", "names a text that is not there", remedy)
    for i, grounding in enumerate(sample.groundings):
        field = f"groundings[{i}]"
        if not (0 <= grounding.text < len(sample.texts) and 0 <= grounding.image < len(sample.images)):
            raise DataError(where, field, "names a text or image that is not there", remedy)
        begin, end = grounding.span or (0, 1)
        if not 0 <= begin < end <= len(sample.texts[grounding.text]):
            raise DataError(where, field, f"span ({begin}, {end}) lies outside of its text", remedy)
        for x0, y0, x1, y1 in grounding.boxes:
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise DataError(where, field, f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty or not in [0, 1]", remedy)


def contact_sheet(dataset: Dataset, path: Path, n: int = 12) -> int:
    """Draws samples, spread evenly, with their boxes and captions into one PNG.

    Boxes carry the phrases of the first caption, or the texts that describe them. Broken records are passed over.

    Args:
        dataset: what to draw.
        path: PNG to write; its folder is made.
        n: number of samples.

    Returns:
        How many samples were drawn.

    Raises:
        UsageError: if `n` is below 1, or `path` cannot be written.
        DataError: if none of the records is usable; the first one's error.
    """
    tiles: list[Image.Image] = []
    first: DataError | None = None
    for index in _spread(len(dataset), n):
        try:
            tiles.append(_tile(dataset[index]))
        except DataError as error:
            first = first or error
    if not tiles:
        raise first or DataError(dataset.name, "", "has no records", "Name another source.")
    columns = min(_COLUMNS, len(tiles))
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise UsageError(f"{path}: cannot write the picture ({error.strerror}). Name another file.") from error
    return len(tiles)


def _spread(size: int, limit: int) -> list[int]:
    """At most `limit` of `size` indices, evenly apart. Raises UsageError if `limit` is below 1."""
    if limit < 1 <= size:
        raise UsageError(f"{limit} records were asked for. Ask for at least 1.")
    return [i * size // min(limit, size) for i in range(min(limit, size))]


def _count(sample: Sample) -> dict[str, int]:
    boxes = {(g.image, box) for g in sample.groundings for box in g.boxes}
    return {
        "images": len(sample.images),
        "captions": len(sample.captions()),
        "regions": sum(g.span is None and bool(g.boxes) for g in sample.groundings),
        "phrases": sum(g.span is not None for g in sample.groundings),
        "boxes": len(boxes),
    }


def _tile(sample: Sample) -> Image.Image:
    """One sample: picture with boxes above its texts."""
    image = sample.images[0]
    if not isinstance(image, Image.Image):
        raise UsageError(f"{sample.id}: its image is a tensor. Draw the data set before any transform.")
    image = ImageOps.contain(image, (_PICTURE, _PICTURE))
    first = next(iter(sample.captions()), None)
    grounded = [g for g in sample.groundings if g.boxes and g.image == 0]
    own = [g for g in grounded if g.text == first]
    tile = Image.new("RGB", (_PICTURE + 2 * _MARGIN, _PICTURE + 3 * _MARGIN + _LINES * _LINE), "white")
    at = (_MARGIN + (_PICTURE - image.width) // 2, _MARGIN + (_PICTURE - image.height) // 2)
    tile.paste(image, at)
    labels = {box: _words(sample, g) for g in own or grounded for box in g.boxes}
    tile = _boxed(tile, image.size, at, labels)
    texts = [sample.texts[i] for i in sample.captions()] or list(sample.texts)
    lines = [line for text in texts for line in textwrap.wrap(f"- {text}", _LETTERS, subsequent_indent="  ")]
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [f"{lines[_LINES - 1][: _LETTERS - 4]} ..."]
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size=12)
    for i, line in enumerate(lines):
        draw.text((_MARGIN, _PICTURE + 2 * _MARGIN + i * _LINE), line, fill="black", font=font)
    return tile


def _words(sample: Sample, grounding: Grounding) -> str:
    text = sample.texts[grounding.text]
    return textwrap.shorten(text if grounding.span is None else text[slice(*grounding.span)], 24, placeholder="...")


def _boxed(tile: Image.Image, size: tuple[int, int], at: tuple[int, int], labels: dict[Box, str]) -> Image.Image:
    """Boxes with labels on the picture of `size` pixels that lies on the tile at `at`."""
    if not labels:
        return tile
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OpenCV")
        import supervision as sv
    boxes = sv.Detections(xyxy=np.array(list(labels)) * (size * 2) + (at * 2), class_id=np.arange(len(labels)))
    scene = sv.BoxAnnotator(thickness=2).annotate(tile, boxes)
    labeller = sv.LabelAnnotator(text_scale=0.35, text_padding=2, smart_position=True)
    return labeller.annotate(scene, boxes, labels=list(labels.values()))
