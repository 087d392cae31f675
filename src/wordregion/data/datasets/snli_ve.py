"""SNLI-VE: does a photo entail a sentence, contradict it, or neither? As published, and as ALBEF's code reads it."""

from pathlib import Path
from typing import Any

from PIL.Image import Image

from wordregion.data.fields import required, shown, text_value
from wordregion.data.files import Packed, check_index, existing_file, first_object, load_json
from wordregion.data.images import ImageStore
from wordregion.data.sources import Jsonl
from wordregion.errors import DataError
from wordregion.schema import Sample

RELATIONS = ("contradiction", "neutral", "entailment")
"""The three classes in the order of ALBEF's head."""

_LINES = 'Expected lines of {"Flickr30K_ID": "1000092795", "sentence2": "...", "gold_label": "neutral"}.'
_LIST = 'Expected [{"image": "1000092795", "sentence": "...", "label": "neutral"}, ...].'


class SnliVe:
    """A photo and a hypothesis (`Dataset`): target {"label": 0 contradiction | 1 neutral | 2 entailment}.

    Two formats, told apart by their first character. Published: JSON lines with ``Flickr30K_ID``, ``sentence2`` and
    ``gold_label``; ``sentence1``, the caption that the photo stands for, becomes the target's ``"premise"`` (None where
    there is none): no model here reads it. ALBEF's: a JSON list with ``image``, ``sentence`` and ``label``. The photo
    of an id is ``ID.jpg``.

    Args:
        path: such as ``snli_ve_dev.jsonl``.
        images: the photos: a folder, a tar, or a folder of tars (all are searched); default: the folder of the file.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file has no records, or is neither format.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None) -> None:
        self.path, self.name = existing_file(Path(path), "a file of SNLI-VE"), str(path)
        self._photos = Photos(self.path.parent if images is None else Path(images))
        self._records: Packed | Jsonl
        with self.path.open(encoding="utf-8-sig", errors="replace") as file:
            self._listed = file.read(256).lstrip()[:1] == "["
        if self._listed:
            content = load_json(self.path, "a JSON list of sentences about photos")
            if not content:
                raise DataError(self.name, "", "has no records", _LIST)
            self._records = Packed(content)
        else:
            self._records = Jsonl(self.path)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and line, or position in the list; counted from 1."""
        return self._records.where(index) if isinstance(self._records, Jsonl) else f"{self.path}, record {index + 1}"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record, where = self._records[index], self.where(index)
        remedy = _LIST if self._listed else _LINES
        if not isinstance(record, dict):
            raise DataError(where, "", f"is {type(record).__name__}, not an object", remedy)
        photo, sentence, label = ("image", "sentence", "label") if self._listed else _PUBLISHED
        text = text_value(required(record, sentence, where, remedy), where, sentence)
        number = relation(required(record, label, where, remedy), where, label)
        name = required(record, photo, where, remedy)
        name = text_value(str(name) if isinstance(name, int) else name, where, photo)
        image = self._photos.open(name if Path(name).suffix else f"{name}.jpg", where, photo)
        identity = record.get("pairID") or f"{self.path.stem}-{index + 1}"
        return Sample(str(identity), (image,), (text,), target={"label": number, "premise": record.get("sentence1")})


_PUBLISHED = ("Flickr30K_ID", "sentence2", "gold_label")


class Photos:
    """Photos by name from a folder, a tar, or all the tars in a folder.

    Raises:
        UsageError: if there is no such folder or tar.
        DataError: if a tar is damaged from its beginning.
    """

    def __init__(self, root: Path) -> None:
        tars = sorted(root.glob("*.tar")) if root.is_dir() else []
        self._stores = [ImageStore(path) for path in (tars or [root])]
        self._place: dict[str, ImageStore] = {}
        if len(self._stores) > 1:
            self._place = {Path(name).name: store for store in self._stores for name in store.names()}

    def open(self, name: str, where: str, field: str) -> Image:
        """The photo as RGB. Raises DataError if it is missing or can't be decoded; names the record and the field."""
        return self._place.get(name, self._stores[0]).open(name, where, field, upright=False)


def relation(value: Any, where: str, field: str) -> int:
    """The class of a word such as "neutral". Raises DataError for anything else, "-" (no agreement) included."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in RELATIONS:
        raise DataError(where, field, f"is {shown(value)}", f"Give {', '.join(RELATIONS)}, or remove the record.")
    return RELATIONS.index(word)


def is_snli_ve(path: Path) -> bool:
    """Whether a file's first record is one of SNLI-VE, in either format."""
    if (found := first_object(path)) is None:
        return False
    record, in_list = found
    if in_list:
        return {"image", "sentence", "label"} <= record.keys()
    return {"gold_label", "sentence2"} <= record.keys()
