"""NLVR2: statements about two photos, true or false; as published, and as ALBEF's code reads it."""

import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from wordregion.data.fields import required, shown, text_value
from wordregion.data.files import Packed, check_index, existing_file, first_object, load_json
from wordregion.data.images import ImageStore
from wordregion.data.sources import Jsonl
from wordregion.errors import DataError
from wordregion.schema import Sample

_LINES = 'Expected lines of {"identifier": "dev-850-0-0", "sentence": "...", "label": "True"}.'
_LIST = 'Expected [{"images": ["a.png", "b.png"], "sentence": "...", "label": "True"}, ...].'


class Nlvr2:
    """Two images, left and right, and a sentence (`Dataset`): target {"label": 1 true | 0 false, "sentence": id}.

    Two formats, told apart by their first character. Published: JSON lines, whose `identifier`
    (``split-set-pair-sentence``) names the images ``split-set-pair-img0.png`` (left) and ``-img1.png`` (right),
    wherever below `images` they lie; the id of the sentence is the identifier without the pair, as in the official
    script. ALBEF's: a JSON list whose `images` are two paths below `images`; it has no identifiers, so equal
    sentences about the same set of photos (their names without ``-pair-imgK``) are one sentence.

    Args:
        path: such as ``dev.json``.
        images: folder or tar of the photos; default: the folder of the file.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file has no records, or is neither format.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None) -> None:
        self.path, self.name = existing_file(Path(path), "a file of NLVR2"), str(path)
        self._images = ImageStore(self.path.parent if images is None else images)
        self._records: Packed | Jsonl
        with self.path.open(encoding="utf-8-sig", errors="replace") as file:
            self._listed = file.read(256).lstrip()[:1] == "["
        if self._listed:
            content = load_json(self.path, "a JSON list of sentences about two images")
            if not content:
                raise DataError(self.name, "", "has no records", _LIST)
            self._records, self._full = Packed(content), {}
        else:
            self._records = Jsonl(self.path)
            self._full = {PurePosixPath(name).name: name for name in self._images.names()}

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and line, or position in the list; counted from 1."""
        return self._records.where(index) if isinstance(self._records, Jsonl) else f"{self.path}, record {index + 1}"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record, where = self._records[index], self.where(index)
        if not isinstance(record, dict):
            raise DataError(where, "", f"is {type(record).__name__}, not an object", _LIST)
        remedy = _LIST if self._listed else _LINES
        sentence = text_value(required(record, "sentence", where, remedy), where, "sentence")
        label = truth(required(record, "label", where, remedy), where)
        if self._listed:
            field, identity = "images", f"{self.path.stem}-{index + 1}"
            names = two_names(required(record, field, where, remedy), where)
            unique = f"{names[0].rpartition('-img')[0].rpartition('-')[0]} {sentence}"
        else:
            field, identity = (
                "identifier",
                text_value(required(record, "identifier", where, remedy), where, "identifier"),
            )
            parts = identity.split("-")
            if len(parts) != 4:
                raise DataError(where, field, f"is {shown(identity)}", "Give split-set-pair-sentence, as published.")
            pair = "-".join(parts[:3])
            names = tuple(self._full.get(name, name) for name in (f"{pair}-img0.png", f"{pair}-img1.png"))
            unique = "-".join((*parts[:2], parts[3]))
        pictures = tuple(self._images.open(name, where, field) for name in names)
        return Sample(identity, pictures, (sentence,), target={"label": label, "sentence": unique})


def kind_of_statements(path: Path) -> Literal["nlvr2", "nlvr"] | None:
    """What a file's first record shows it to be: NLVR2 in either of its formats, NLVR, or neither."""
    if (found := first_object(path)) is None:
        return None
    record, in_list = found
    if not {"sentence", "label"} <= record.keys():
        return None
    if in_list:
        return "nlvr2" if isinstance(record.get("images"), list) else None
    identity = str(record.get("identifier", ""))
    return "nlvr2" if identity.count("-") == 3 else "nlvr" if re.fullmatch(r"\d+-\d+", identity) else None


def truth(value: Any, where: str, field: str = "label") -> int:
    """1 for true, 0 for false, as a boolean or a word of any case. Raises DataError for anything else."""
    word = str(value).strip().lower() if isinstance(value, str | bool) else ""
    if word not in ("true", "false"):
        raise DataError(where, field, f"is {shown(value)}", "Give True or False.")
    return int(word == "true")


def two_names(value: Any, where: str) -> tuple[str, ...]:
    """The paths of two images. Raises DataError unless it is a list of two texts."""
    if not isinstance(value, list) or len(value) != 2:
        raise DataError(where, "images", f"is {shown(value)}", "Give a list of two image paths, left and right.")
    return tuple(text_value(name, where, f"images[{i}]") for i, name in enumerate(value))
