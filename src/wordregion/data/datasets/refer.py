"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg) in ALBEF's JSON form, with RefCOCO's boxes and proposals.

The release keeps its references in a pickle, ``refs(unc).p``, which we never open: a pickle can run any program.
docs/grounding.md has the line that turns it into ``refs.json``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordregion.data.fields import image_size, number, required, shown, text_value, unit_box
from wordregion.data.files import Packed, check_index, load_json
from wordregion.data.images import ImageStore
from wordregion.errors import DataError, UsageError
from wordregion.schema import Box, Grounding, Sample

_REMEDY = 'Expected [{"image": "a.jpg", "text": "man in red", "ref_id": 7}, ...].'
_REFS_REMEDY = 'Expected [{"ref_id": 7, "ann_id": 3, "image_id": 5, "split": "val"}, ...].'
_BOX_REMEDY = "Give 4 numbers: x, y, width, height in pixels."


class Referring:
    """All expressions about an image as one sample, or each as its own (`Dataset`).

    Each expression is a caption of the image, which is all that weak supervision sees: ``Grounding(text=i)``. With
    `refs` and `instances` it has its box too, ``Grounding(text=i, boxes=(box,))``, and ``target["splits"]`` names the
    split of each expression; with `proposals`, ``target["proposals"]`` holds the boxes to choose from.

    Args:
        path: one or several files such as ``refcoco+_val.json``: lists of {"image", "text", "ref_id"}.
        images: folder or tar where the image paths begin; default: the folder of the first file.
        refs: ``refs.json``: {"ref_id", "ann_id", "image_id", "split"} of every reference.
        instances: RefCOCO's ``instances.json`` (COCO's layout): the boxes of the annotations, the sizes of the images.
        proposals: ``dets.json``: {image id: [[x, y, width, height, ...], ...]}, pixels.
        by_image: False = one sample an expression, as X-VLM crops around its box.

    Raises:
        UsageError: if a path does not exist, or `refs`, `instances` and `proposals` do not go together.
        DataError: if a file as a whole has another form, or no records.
    """

    def __init__(
        self,
        path: Path | str | Sequence[Path | str],
        images: Path | str | None = None,
        refs: Path | str | None = None,
        instances: Path | str | None = None,
        proposals: Path | str | None = None,
        by_image: bool = True,
    ) -> None:
        if (refs is None) != (instances is None) or (proposals is not None and refs is None):
            raise UsageError("boxes need both refs and instances, and proposals need them too. Name all, or none.")
        paths = [Path(p) for p in ([path] if isinstance(path, Path | str) else path)]
        if not paths:
            raise UsageError("no file of referring expressions. Name one such as refcoco+_val.json.")
        self.name = ", ".join(map(str, paths))
        self._records = _grouped(paths, by_image)
        self._images = ImageStore(paths[0].parent if images is None else images)
        self._truth = None if refs is None or instances is None else _Truth(Path(refs), Path(instances))
        self._proposals = None if proposals is None else _proposals(Path(proposals))
        self._proposals_path = proposals

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and record, of an image the first; counted from 1."""
        return self._records[index]["where"]

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record = self._records[index]
        where = record["where"]
        if "broken" in record:
            raise DataError(where, *record["broken"])
        texts: list[str] = []
        groundings: list[Grounding] = []
        target: dict[str, Any] = {}
        for entry in record["entries"]:
            groundings.append(Grounding(text=len(texts)))
            if self._truth is not None:
                found = self._truth.find(entry["ref_id"], entry["where"])
                groundings.append(Grounding(text=len(texts), boxes=(found.box,)))
                target.setdefault("splits", []).append(found.split)
                if self._proposals is not None and "proposals" not in target:
                    target["proposals"] = self._boxes(found, entry["where"])
            texts.append(text_value(entry["text"], entry["where"], "text"))
        image = self._images.open(record["image"], where, upright=self._truth is None)
        frozen = {name: tuple(value) for name, value in target.items()}
        return Sample(Path(record["image"]).stem, (image,), tuple(texts), tuple(groundings), frozen)

    def _boxes(self, found: "_Found", where: str) -> list[Box]:
        assert self._proposals is not None
        rows = self._proposals.get(str(found.image_id))
        if not isinstance(rows, list) or not rows:
            problem = f"no boxes for image {found.image_id} in {self._proposals_path}"
            raise DataError(where, "proposals", problem, "Add them, or leave the image out.")
        spot = f"{self._proposals_path}, image {found.image_id}"
        return [_pixel_box(row, found.size, spot, f"box {i + 1}") for i, row in enumerate(rows)]


class _Found:
    """A reference: its box, and what it belongs to."""

    def __init__(self, box: Box, split: str, image_id: int | str, size: tuple[float, float]) -> None:
        self.box, self.split, self.image_id, self.size = box, split, image_id, size


class _Truth:
    """References by id, joined with the boxes of their annotations."""

    def __init__(self, refs: Path, instances: Path) -> None:
        self.refs_path, self.instances_path = refs, instances
        content = load_json(refs, "a JSON list of references")
        if not isinstance(content, list) or not content:
            problem = "has no references" if content == [] else f"the top level is {type(content).__name__}, not a list"
            raise DataError(str(refs), "", problem, _REFS_REMEDY)
        self._refs: dict[Any, tuple[Any, Any, str]] = {}
        for i, ref in enumerate(content):
            where = f"{refs}, record {i + 1}"
            if not isinstance(ref, dict):
                raise DataError(where, "", f"is {type(ref).__name__}, not an object", _REFS_REMEDY)
            key, note, image = (required(ref, k, where, _REFS_REMEDY) for k in ("ref_id", "ann_id", "image_id"))
            split = text_value(required(ref, "split", where, _REFS_REMEDY), where, "split")
            for name, value in (("ref_id", key), ("ann_id", note), ("image_id", image)):
                if not isinstance(value, int | str):
                    raise DataError(where, name, f"is {shown(value)}", _REFS_REMEDY)
            self._refs[key] = (note, image, split)
        content = load_json(instances, "COCO instances")
        self._boxes = _by_id(content, "annotations", instances, ("bbox",))
        self._sizes = _by_id(content, "images", instances, ("width", "height"))

    def find(self, ref_id: Any, where: str) -> _Found:
        """Raises DataError if the reference, its annotation or its image is missing or broken."""
        if not isinstance(ref_id, int | str) or ref_id not in self._refs:
            problem = "missing" if ref_id is None else f"no reference {shown(ref_id)} in {self.refs_path}"
            raise DataError(where, "ref_id", problem, "Use the references of the same data set and partition.")
        note, image, split = self._refs[ref_id]
        for key, table, what in ((note, self._boxes, "annotation"), (image, self._sizes, "image")):
            if key not in table:
                problem = f"reference {ref_id} names {what} {key}, which is not in {self.instances_path}"
                raise DataError(where, "ref_id", problem, "Use the instances.json of the same release.")
        spot = f"{self.instances_path}, annotation {note}"
        size = image_size(self._sizes[image], f"{self.instances_path}, image {image}")
        return _Found(_pixel_box(self._boxes[note].get("bbox"), size, spot, "bbox"), split, image, size)


def _by_id(content: Any, key: str, path: Path, kept: tuple[str, ...]) -> dict[Any, dict[str, Any]]:
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(str(path), key, "no such list", "Expected COCO's layout.")
    found: dict[Any, dict[str, Any]] = {}
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("id"), int | str):
            raise DataError(f"{path}, {key} {i + 1}", "id", f"no id in {shown(row)}", "Expected COCO's layout.")
        found[row["id"]] = {name: row.get(name) for name in kept}
    return found


def _proposals(path: Path) -> dict[str, Any]:
    content = load_json(path, "a JSON object of boxes by image id")
    if not isinstance(content, dict) or not content:
        problem = f"the top level is {type(content).__name__}" if content else "is empty"
        raise DataError(str(path), "", problem, 'Expected {"image id": [[x, y, width, height], ...], ...}.')
    return content


def _pixel_box(values: Any, size: tuple[float, float], where: str, field: str) -> Box:
    if not isinstance(values, list) or len(values) < 4:
        raise DataError(where, field, f"is {shown(values)}", _BOX_REMEDY)
    x, y, width, height = (number(value, where, field) for value in values[:4])
    return unit_box(x, y, x + width, y + height, size, where, field)


def _grouped(paths: list[Path], by_image: bool) -> Packed:
    """One record an image, in the order of first mention, or one an entry; a broken one for each entry that cannot be
    assigned.
    """
    records: list[dict[str, Any]] = []
    first: dict[str, dict[str, Any]] = {}
    for path in paths:
        content = load_json(path, "a JSON list of referring expressions")
        if not isinstance(content, list):
            raise DataError(str(path), "", f"the top level is {type(content).__name__}, not a list", _REMEDY)
        if not content:
            raise DataError(str(path), "", "has no records", _REMEDY)
        for i, entry in enumerate(content):
            where = f"{path}, record {i + 1}"
            try:
                if not isinstance(entry, dict):
                    raise DataError(where, "", f"is {type(entry).__name__}, not an object", _REMEDY)
                image = text_value(required(entry, "image", where, _REMEDY), where, "image")
                text = text_value(required(entry, "text", where, _REMEDY), where, "text")
            except DataError as error:
                records.append({"where": where, "broken": (error.field, error.problem, error.remedy)})
                continue
            if image not in first or not by_image:
                first[image] = {"where": where, "image": image, "entries": []}
                records.append(first[image])
            first[image]["entries"].append({"where": where, "text": text, "ref_id": entry.get("ref_id")})
    return Packed(records)
