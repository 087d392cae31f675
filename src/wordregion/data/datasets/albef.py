"""ALBEF's caption files: a JSON list of {"image": path, "caption": text or list of texts}."""

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

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file is not a JSON list, or empty.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None, content: Any = None) -> None:
        self.path, self.name = Path(path), str(path)
        content = load_json(self.path, "a JSON list of captions") if content is None else content
        if not isinstance(content, list):
            raise DataError(self.name, "", f"the top level is {type(content).__name__}, not a list", _REMEDY)
        if not content:
            raise DataError(self.name, "", "has no records", _REMEDY)
        self._records = Packed(content)
        self._images = ImageStore(self.path.parent if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and position in the list, counted from 1."""
        return f"{self.path}, record {index + 1}"

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
