"""ALBEF's caption files: a JSON list of {"image": path, "caption": text or list of texts}."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordregion.data.fields import caption_texts, required, text_value
from wordregion.data.files import Packed, check_index, load_json
from wordregion.data.images import ImageStore
from wordregion.errors import DataError
from wordregion.schema import Grounding, Sample

_REMEDY = 'Expected [{"image": "a.jpg", "caption": "..."}, ...].'


class AlbefJson:
    """Whole-image captions from a JSON list (`Dataset`).

    Args:
        path: the JSON file.
        images: folder or tar where the image paths begin; default: the folder of the JSON file.
        content: the parsed file, if the caller has it already.
        by_image: one sample an image, with all its captions, instead of one a record.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file is not a JSON list, or empty.
    """

    def __init__(
        self, path: Path | str, images: Path | str | None = None, content: Any = None, by_image: bool = False
    ) -> None:
        self.path, self.name = Path(path), str(path)
        content = _checked(self.path, load_json(self.path, "a JSON list of captions") if content is None else content)
        self._records = Packed(_grouped(self.path, content) if by_image else content)
        self._images = ImageStore(self.path.parent if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and position in the list, counted from 1; of the first record of an image."""
        record = self._records[index]
        return f"{self.path}, record {record.get('record', index + 1) if isinstance(record, dict) else index + 1}"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record, where = self._records[index], self.where(index)
        if not isinstance(record, dict):
            raise DataError(where, "", f"is {type(record).__name__}, not an object", _REMEDY)
        texts = caption_texts(required(record, "caption", where, _REMEDY), where, "caption")
        name = text_value(required(record, "image", where, _REMEDY), where, "image")
        image = self._images.open(name, where)
        groundings = tuple(Grounding(text=i) for i in range(len(texts)))
        return Sample(f"{self.path.stem}-{index + 1}", (image,), texts, groundings)


def captions_by_image(path: Path) -> list[Sequence[str]]:
    """The captions of each image of such a file, without reading the images.

    Raises:
        UsageError: if there is no such file.
        DataError: if it is not a JSON list, or a record is broken.
    """
    captions: list[Sequence[str]] = []
    for record in _grouped(path, _checked(path, load_json(path, "a JSON list of captions"))):
        where = f"{path}, record {record['record']}"
        captions.append(caption_texts(required(record, "caption", where, _REMEDY), where, "caption"))
    return captions


def _checked(path: Path, content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise DataError(str(path), "", f"the top level is {type(content).__name__}, not a list", _REMEDY)
    if not content:
        raise DataError(str(path), "", "has no records", _REMEDY)
    return content


def _grouped(path: Path, content: list[Any]) -> list[dict[str, Any]]:
    """One record an image, with the number of its first one; a broken record stays alone."""
    groups: dict[Any, dict[str, Any]] = {}
    for number, record in enumerate(content, 1):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {number}", "", f"is {type(record).__name__}, not an object", _REMEDY)
        image, caption = record.get("image"), record.get("caption")
        group = groups.setdefault(
            image if isinstance(image, str) else number, {**record, "caption": [], "record": number}
        )
        if isinstance(caption, str | list) and isinstance(group["caption"], list):
            group["caption"] += [caption] if isinstance(caption, str) else caption
        else:  # reported when the record is read
            group["caption"] = None
    return list(groups.values())
