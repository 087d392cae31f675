"""X-VLM's region data: JSON lines, an image each, with the texts and boxes of its elements.

A line: ``{"image_rpath": "a.jpg", "caption": "a dog on a bed", "elems": [{"caption": "dog", "attributes": ["brown",
"small"], "bb": [x, y, width, height]}]}``. ``binary`` holds the picture itself in Base64 in the place of
``image_rpath``; ``caption`` and ``attributes`` are optional, and either is a text or a list of texts to draw from.
Boxes are pixels of the picture.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from wordregion.data.fields import caption_texts, number, required, shown, unit_box
from wordregion.data.images import ImageStore, decode
from wordregion.data.sources import Record, Source
from wordregion.errors import DataError
from wordregion.schema import Box, Grounding, Sample

PATHS = ("image_rpath", "image", "file_name")
_REMEDY = 'Expected {"image_rpath": "a.jpg", "elems": [{"caption": "dog", "bb": [x, y, width, height]}]}.'


def is_region_line(record: Mapping[str, Any]) -> bool:
    """Whether a record is a line of region data."""
    return isinstance(record.get("elems"), list)


class RegionLines:
    """Captions of images, and texts of their regions (`Dataset`).

    A text of a region is an element's caption with one of its attributes in front: ``Grounding(text=i, boxes=(box,))``;
    an element with several captions or attributes has a text for each pair of them, all with its box.

    Args:
        source: `Jsonl`, or `Tar` of KEY.jpg and KEY.json.
        images: folder or tar where the paths begin; default: the folder of the source.

    Raises:
        UsageError: if `images` does not exist.
    """

    def __init__(self, source: Source, images: Path | str | None = None) -> None:
        self.source, self.name = source, source.name
        self._images = ImageStore(source.folder if images is None else images)

    def __len__(self) -> int:
        return len(self.source)

    def where(self, index: int) -> str:
        """File and line, or shard and key."""
        return self.source.where(index)

    def __getitem__(self, index: int) -> Sample:
        record, where = self.source[index], self.where(index)
        elements = required(record, "elems", where, _REMEDY)
        if not isinstance(elements, list):
            raise DataError(where, "elems", f"is {shown(elements)}, not a list", _REMEDY)
        image = self._picture(record, where)
        captions = caption_texts(record["caption"], where, "caption") if record.get("caption") is not None else ()
        texts = list(captions)
        groundings = [Grounding(text=i) for i in range(len(texts))]
        for number_, element in enumerate(elements):
            field = f"elems[{number_}]"
            if not isinstance(element, dict):
                raise DataError(where, field, f"is {shown(element)}, not an object", _REMEDY)
            box = _box(element, image.size, where, field)
            for text in _texts(element, where, field):
                groundings.append(Grounding(text=len(texts), boxes=(box,)))
                texts.append(text)
        if not texts:
            raise DataError(where, "elems", "is empty, and there is no caption", "Give one, or remove the record.")
        name = record.get("id", record.get("__key__", record.get("image_rpath")))
        return Sample(str(where if name is None else name), (image,), tuple(texts), tuple(groundings))

    def _picture(self, record: Record, where: str) -> Image.Image:
        if isinstance(binary := record.get("binary"), str):
            try:
                return decode(base64.b64decode(binary, validate=True), where, "binary", upright=False)
            except ValueError as error:  # binascii.Error is one; letters beyond ASCII raise another
                raise DataError(where, "binary", f"not Base64 ({error})", "Encode the picture file again.") from error
        for field in ("jpg", "jpeg", "png", "webp"):
            if isinstance(record.get(field), bytes):
                return decode(record[field], where, field, upright=False)
        field = next((name for name in PATHS if record.get(name) is not None), PATHS[0])
        name = required(record, field, where, "Give the path of the picture, or the picture in Base64 as 'binary'.")
        if not isinstance(name, str) or not name:
            raise DataError(where, field, f"is {shown(name)}", "Give the path of the picture.")
        return self._images.open(name, where, field, upright=False)


def _box(element: Record, size: tuple[int, int], where: str, field: str) -> Box:
    values = required(element, "bb", where, _REMEDY)
    if not isinstance(values, list) or len(values) != 4:
        raise DataError(where, f"{field}.bb", f"is {shown(values)}", "Give 4 numbers: x, y, width, height in pixels.")
    x, y, width, height = (number(value, where, f"{field}.bb") for value in values)
    return unit_box(x, y, x + width, y + height, size, where, f"{field}.bb")


def _texts(element: Record, where: str, field: str) -> list[str]:
    captions = caption_texts(required(element, "caption", where, _REMEDY), where, f"{field}.caption")
    if not element.get("attributes"):
        return list(captions)
    attributes = caption_texts(element["attributes"], where, f"{field}.attributes")
    return [f"{attribute} {caption}" for attribute in attributes for caption in captions]
