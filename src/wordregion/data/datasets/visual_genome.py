"""Visual Genome: objects with attributes, and descriptions of regions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wordregion.data.fields import image_size, number, required, shown, text_value
from wordregion.data.files import Packed, check_index, existing_file, load_json
from wordregion.data.images import ImageStore
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample

IMAGES, OBJECTS, ATTRIBUTES, REGIONS = "image_data.json", "objects.json", "attributes.json", "region_descriptions.json"
_REMEDY = "Take the file from the release again."


class VisualGenome:
    """Texts of regions (`Dataset`): objects by name, with their attributes in front, and region descriptions.

    Each text has one box, ``Grounding(text=i, boxes=(box,))``; an object with several attributes has a text for each.
    Boxes stick out of the photos now and then: they are cut off at the edges, and left out where nothing is left.

    Args:
        root: holds ``image_data.json`` and at least one of ``attributes.json`` (objects with attributes),
            ``objects.json`` (read where there are no attributes) and ``region_descriptions.json``.
        images: folder or tar of ``VG_100K`` and ``VG_100K_2``; default: `root`.
        regions: whether to read the region descriptions.
        objects: whether to read the objects.

    Raises:
        UsageError: if a file is missing, or nothing is to be read.
        DataError: if a file has another layout, or names an image that ``image_data.json`` lacks.
    """

    def __init__(
        self, root: Path | str, images: Path | str | None = None, regions: bool = True, objects: bool = True
    ) -> None:
        self.root, self.name = Path(root), str(root)
        records: dict[Any, dict[str, Any]] = {}
        for where, image in _entries(existing_file(self.root / IMAGES, "Visual Genome's images")):
            key = _id(image, where)
            if key in records:
                problem = f"is {shown(key)}, as in {records[key]['where']}"
                raise DataError(where, "image_id", problem, "Remove one of the two.")
            url = text_value(required(image, "url", where, _REMEDY), where, "url")
            size = {name: image.get(name) for name in ("width", "height")}
            file = "/".join(url.split("/")[-2:])
            records[key] = {"where": where, "id": str(key), "file": file, **size, "texts": []}
        for path, key, named in self._files(regions, objects):
            for where, entry in _entries(path):
                number_ = _id(entry, where)
                if number_ not in records:
                    raise DataError(where, "image_id", f"{shown(number_)} is not in {IMAGES}", _REMEDY)
                for i, row in enumerate(_rows(entry, key, where)):
                    records[number_]["texts"].append([f"{where}, {key} {i + 1}", list(named(row, where)), _edges(row)])
        self._records = Packed(record for record in records.values() if record["texts"])
        if not len(self._records):
            raise DataError(self.name, "", "no image has a text", _REMEDY)
        self._images = ImageStore(self.root if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and entry of the image."""
        return self._records[index]["where"]

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record = self._records[index]
        width, height = image_size(record, record["where"])
        texts: list[str] = []
        groundings: list[Grounding] = []
        for where, names, edges in record["texts"]:
            x, y, w, h = (number(value, where, "box") for value in edges)
            if w < 0 or h < 0:
                problem = f"is {w:g} wide and {h:g} high"
                raise DataError(where, "box", problem, "Give it a width and height above 0, or remove it.")
            box = (max(x / width, 0.0), max(y / height, 0.0), min((x + w) / width, 1.0), min((y + h) / height, 1.0))
            if not (box[0] < box[2] and box[1] < box[3]):
                continue
            for name in names:
                groundings.append(Grounding(text=len(texts), boxes=(box,)))
                texts.append(text_value(name, where, "text"))
        image = self._images.open(record["file"], record["where"], "url", upright=False)
        return Sample(record["id"], (image,), tuple(texts), tuple(groundings))

    def _files(self, regions: bool, objects: bool) -> Iterator[tuple[Path, str, Any]]:
        """Files to read, the list of each entry in them, and what makes texts of its rows."""
        found = []
        if objects:
            for name, key in ((ATTRIBUTES, "attributes"), (OBJECTS, "objects")):
                if (self.root / name).is_file():
                    found.append((self.root / name, key, _object_texts))
                    break
        if regions and (self.root / REGIONS).is_file():
            found.append((self.root / REGIONS, "regions", _region_texts))
        if not found:
            raise UsageError(
                f"{self.root}: none of {ATTRIBUTES}, {OBJECTS}, {REGIONS} to read. Unpack the release there."
            )
        yield from found


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = load_json(path, "a JSON list of images")
    if not isinstance(content, list) or not content:
        problem = "has no entries" if content == [] else f"the top level is {type(content).__name__}, not a list"
        raise DataError(str(path), "", problem, _REMEDY)
    for i, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}, image {i}", "", f"is {type(entry).__name__}, not an object", _REMEDY)
        yield f"{path}, image {i}", entry


def _rows(entry: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    rows = required(entry, key, where, _REMEDY)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(where, key, f"is {shown(rows)}, not a list of objects", _REMEDY)
    return rows


def _object_texts(row: dict[str, Any], where: str) -> Iterator[str]:
    names = required(row, "names", where, _REMEDY)
    if not isinstance(names, list) or not names:
        raise DataError(where, "names", f"is {shown(names)}", _REMEDY)
    attributes = row.get("attributes") or [""]
    if not isinstance(attributes, list):
        raise DataError(where, "attributes", f"is {shown(attributes)}", _REMEDY)
    for name in names:
        yield from (f"{attribute} {name}".strip() for attribute in attributes)


def _region_texts(row: dict[str, Any], where: str) -> Iterator[Any]:
    """The phrase; nothing for a blank one. What is no text makes its image a broken record when that is read."""
    phrase = required(row, "phrase", where, _REMEDY)
    if not isinstance(phrase, str) or phrase.strip():
        yield phrase


def _id(entry: dict[str, Any], where: str) -> int | str:
    key = entry.get("image_id", entry.get("id"))
    if not isinstance(key, int | str):
        raise DataError(where, "image_id", f"is {shown(key)}", _REMEDY)
    return key


def _edges(row: dict[str, Any]) -> list[Any]:
    return [row.get("x"), row.get("y"), row.get("w", row.get("width")), row.get("h", row.get("height"))]
