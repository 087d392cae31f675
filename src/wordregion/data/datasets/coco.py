"""COCO's annotation files: captions, and instances (boxes with category names); LVIS and Objects365 use them too."""

from pathlib import Path
from typing import Any

from wordregion.data.fields import image_size, number, required, shown, text_value, unit_box
from wordregion.data.files import Packed, check_index, load_json
from wordregion.data.images import ImageStore
from wordregion.data.prompts import ABSENT
from wordregion.errors import DataError
from wordregion.schema import Box, Grounding, Sample

LAYOUT_REMEDY = "Expected COCO's layout."


class CocoCaptions:
    """All captions of each image (`Dataset`). An image without a caption is a broken record.

    Args:
        path: such as ``captions_val2017.json``.
        images: folder or tar of the photos; default: ``val2017`` or ``val2017.tar`` near the JSON file.
        content: the parsed file, if the caller has it already.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file is not JSON in COCO's layout, or has no images.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None, content: Any = None) -> None:
        self.path, self.name = Path(path), str(path)
        content = load_json(self.path, "COCO captions") if content is None else content
        self._records = records_by_image(self.path, content, ("caption",))
        self._images = ImageStore(images_near(self.path) if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and entry of `images`, or of `annotations` if that belongs to no image; counted from 1."""
        return self._records[index]["where"]

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record = whole_record(self._records[index])
        where = record["where"]
        if not record["annotations"]:
            raise DataError(where, "caption", "no annotation of this image", "Add a caption, or remove the image.")
        texts = tuple(
            text_value(required(a, "caption", a["where"], LAYOUT_REMEDY), a["where"], "caption")
            for a in record["annotations"]
        )
        image = self._images.open(record["file_name"], where, "file_name")
        return Sample(record["id"], (image,), texts, tuple(Grounding(text=i) for i in range(len(texts))))


class CocoInstances:
    """Boxes by category name (`Dataset`): a text is a category's name, its grounding holds the boxes of that category.

    Crowd regions (`iscrowd`) are left out. An image without boxes is a sample without texts. ``target["absent"]`` names
    the classes that the image could be asked for in vain: those that LVIS's annotators looked for and did not find
    (`neg_category_ids`), or else all that have no box here.

    Args:
        path: such as ``instances_val2017.json``.
        images: folder or tar of the photos; default: ``val2017`` or ``val2017.tar`` near the JSON file.
        content: the parsed file, if the caller has it already.

    Attributes:
        categories: names of all categories, by category id.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file is not JSON in COCO's layout, or has no images.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None, content: Any = None) -> None:
        self.path, self.name = Path(path), str(path)
        content = load_json(self.path, "COCO instances") if content is None else content
        self._records = records_by_image(self.path, content, ("bbox", "category_id", "iscrowd"), ("neg_category_ids",))
        self.categories: dict[int, str] = {}
        for i, category in enumerate(_list(content, "categories", self.path)):
            where = f"{self.path}, category {i + 1}"
            if not isinstance(category, dict) or not isinstance(category.get("id"), int):
                raise DataError(where, "id", f"no number in {shown(category)}", LAYOUT_REMEDY)
            name = text_value(required(category, "name", where, LAYOUT_REMEDY), where, "name")
            if self.categories.setdefault(category["id"], name) != name:
                problem = f"{category['id']} is both '{self.categories[category['id']]}' and '{name}'"
                raise DataError(where, "id", problem, "Give each category an id of its own.")
        self._images = ImageStore(images_near(self.path) if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and entry of `images`, or of `annotations` if that belongs to no image; counted from 1."""
        return self._records[index]["where"]

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record = whole_record(self._records[index])
        size = image_size(record, record["where"])
        boxes: dict[str, list[Box]] = {}
        present: set[str] = set()
        for annotation in record["annotations"]:
            name, box = self._named_box(annotation, size)
            present.add(name)
            if not annotation.get("iscrowd"):
                boxes.setdefault(name, []).append(box)
        image = self._images.open(record["file_name"], record["where"], "file_name", upright=False)
        groundings = tuple(Grounding(text=i, boxes=tuple(b)) for i, b in enumerate(boxes.values()))
        return Sample(record["id"], (image,), tuple(boxes), groundings, {ABSENT: self._absent(record, present)})

    def shown(self, index: int) -> set[int]:
        """Ids of the categories with boxes in an image, which is not opened; none of a broken record."""
        notes = self._records[index].get("annotations", ())
        return {note["category_id"] for note in notes if "category_id" in note and not note.get("iscrowd")}

    def _absent(self, record: dict[str, Any], present: set[str]) -> tuple[str, ...]:
        verified = record.get("neg_category_ids")
        if verified is None:
            return tuple(name for name in self.categories.values() if name not in present)
        if not isinstance(verified, list) or not all(isinstance(n, int) and n in self.categories for n in verified):
            problem = f"is {shown(verified)}"
            raise DataError(record["where"], "neg_category_ids", problem, "Give a list of category ids.")
        return tuple(self.categories[number] for number in verified)

    def _named_box(self, annotation: dict[str, Any], size: tuple[float, float]) -> tuple[str, Box]:
        where = annotation["where"]
        category = required(annotation, "category_id", where, LAYOUT_REMEDY)
        if not isinstance(category, int) or category not in self.categories:
            problem = f"no category has id {shown(category)}"
            raise DataError(where, "category_id", problem, "Add the category, or correct the id.")
        return self.categories[category], xywh_box(annotation, size)


def xywh_box(annotation: dict[str, Any], size: tuple[float, float]) -> Box:
    """The ``bbox`` of an annotation in [0, 1]. Raises DataError unless it is a box in the image."""
    where = annotation["where"]
    values = required(annotation, "bbox", where, LAYOUT_REMEDY)
    if not isinstance(values, list) or len(values) != 4:
        raise DataError(where, "bbox", f"is {shown(values)}", "Give 4 numbers: x, y, width, height in pixels.")
    x, y, width, height = (number(value, where, "bbox") for value in values)
    return unit_box(x, y, x + width, y + height, size, where, "bbox")


def _list(content: Any, key: str, path: Path) -> list[Any]:
    if not isinstance(content, dict):
        raise DataError(str(path), "", f"the top level is {type(content).__name__}, not an object", LAYOUT_REMEDY)
    if not isinstance(value := content.get(key), list):
        found = f"has {', '.join(list(content)[:12]) or 'no keys'}" if value is None else f"is {type(value).__name__}"
        raise DataError(str(path), key, f"no such list (the file {found})", LAYOUT_REMEDY)
    return value


def records_by_image(path: Path, content: Any, kept: tuple[str, ...], of_image: tuple[str, ...] = ()) -> Packed:
    """A record for each image with its annotations, and a broken one for each entry that fits no image.

    Args:
        path: of the file, for messages.
        content: the parsed file.
        kept: fields of annotations to keep.
        of_image: fields of images to keep beside id, name and size.

    Raises:
        DataError: if the file as a whole is not in COCO's layout, or has no images.
    """
    images, annotations = _list(content, "images", path), _list(content, "annotations", path)
    if not images:
        raise DataError(str(path), "images", "has no entries", "Give at least one image.")
    records: list[dict[str, Any]] = []
    first: dict[int | str, dict[str, Any]] = {}
    for i, image in enumerate(images):
        where = f"{path}, image {i + 1}"
        key = image.get("id") if isinstance(image, dict) else None
        if not isinstance(key, int | str):
            records.append(_broken(where, "id", f"no id in {shown(image)}", LAYOUT_REMEDY))
            continue
        where = f"{where} (id {key})"
        name = image.get("file_name", _name_of_url(image.get("coco_url")))
        if not isinstance(name, str):
            records.append(_broken(where, "file_name", f"is {shown(name)}", "Give the name of the image file."))
            first.setdefault(key, {"annotations": []})
            continue
        more = {k: image[k] for k in ("width", "height", *of_image) if k in image}
        records.append({"where": where, "id": str(key), "file_name": name, **more, "annotations": []})
        first.setdefault(key, records[-1])
    for i, annotation in enumerate(annotations):
        where = f"{path}, annotation {i + 1}"
        if not isinstance(annotation, dict):
            records.append(_broken(where, "", f"is {shown(annotation)}, not an object", LAYOUT_REMEDY))
            continue
        where = f"{where} (id {annotation.get('id')})"
        key = annotation.get("image_id")
        if not isinstance(key, int | str) or key not in first:
            remedy = "Add the image to 'images', or remove the annotation."
            records.append(_broken(where, "image_id", f"no image has id {shown(key)}", remedy))
            continue
        first[key]["annotations"].append({"where": where, **{k: annotation[k] for k in kept if k in annotation}})
    return Packed(records)


def _name_of_url(url: Any) -> str | None:
    """LVIS names a photo by its address alone: FOLDER/NAME.jpg is its end."""
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) else None


def _broken(where: str, field: str, problem: str, remedy: str) -> dict[str, Any]:
    return {"where": where, "broken": (field, problem, remedy)}


def whole_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record itself. Raises DataError if it is a broken one."""
    if "broken" in record:
        raise DataError(record["where"], *record["broken"])
    return record


def images_near(path: Path) -> Path:
    """For ``annotations/captions_val2017.json`` the folder or tar ``val2017`` beside it or one level up."""
    split = path.stem.rpartition("_")[2]
    for folder in (path.parent, path.parent.parent):
        for name in (split, f"{split}.tar"):
            if (folder / name).exists():
                return folder / name
    return path.parent
