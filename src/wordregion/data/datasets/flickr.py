"""Flickr30k Entities: five captions a photo, whose phrases are linked to boxes."""

import re
import tarfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from wordregion.data.fields import unit_box
from wordregion.data.files import check_index, existing_file
from wordregion.data.images import ImageStore
from wordregion.errors import DataError, UsageError
from wordregion.schema import Box, Grounding, Sample

_MARK = re.compile(r"\[/EN#(\d+)(/\S*)? ([^\[\]]*)\]")
_NOT_VISUAL = "0"
_XML_REMEDY = "Take the file from the Flickr30k Entities release again."
_MARK_REMEDY = "Write each phrase as [/EN#chain/type phrase]."

Phrase = tuple[int, int, str]


class Flickr30kEntities:
    """Captions with phrases and their boxes (`Dataset`).

    A sample holds the captions without marks, `Grounding(text=i)` for each, and for each phrase whose chain has boxes
    `Grounding(text=i, span=..., boxes=...)`. Phrases without a box (not visual, whole scene) get no grounding.
    ``target["types"]`` holds the types of each phrase that has boxes, in the order of the groundings.

    Args:
        root: holds ``SPLIT.txt`` and either the official folders ``Annotations``, ``Sentences`` and
            ``flickr30k-images`` or ``annotations_SPLIT.tar.gz`` and ``images_SPLIT.tar``.
        split: which list of photos: "train", "val" or "test".
        images: folder or tar of the photos, if elsewhere.

    Raises:
        UsageError: if a file or folder is missing.
        DataError: if the list is empty, or the annotation tar is damaged.
    """

    def __init__(self, root: Path | str, split: str = "train", images: Path | str | None = None) -> None:
        self.root, self.name = Path(root), f"{root}#{split}"
        self._list = existing_file(self.root / f"{split}.txt", "a list of photo ids, one a line")
        lines = self._list.read_text(encoding="utf-8", errors="replace").splitlines()
        self._ids = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not self._ids:
            raise DataError(str(self._list), "", "has no photo ids", "Write one photo id a line.")
        self._files = _Annotations(self.root, split, {name for _, name in self._ids})
        self._images = ImageStore(_images_in(self.root, split) if images is None else images)

    def __len__(self) -> int:
        return len(self._ids)

    def where(self, index: int) -> str:
        """List, line in it, and photo id."""
        number, name = self._ids[index]
        return f"{self._list}, line {number} (photo {name})"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        name, where = self._ids[index][1], self.where(index)
        boxes = parse_boxes(
            self._files.read(f"Annotations/{name}.xml", where), self._files.where(f"Annotations/{name}.xml")
        )
        spot = self._files.where(f"Sentences/{name}.txt")
        texts: list[str] = []
        groundings: list[Grounding] = []
        types: list[tuple[str, ...]] = []
        for number, line in enumerate(_lines(self._files.read(f"Sentences/{name}.txt", where), spot), 1):
            if not line.strip():
                continue
            text, phrases = parse_sentence(line, f"{spot}, line {number}")
            groundings.append(Grounding(text=len(texts)))
            for (begin, end, chain), named in zip(phrases, phrase_types(line), strict=True):
                if chain != _NOT_VISUAL and chain not in boxes:
                    problem = f"phrase '{text[begin:end]}' has chain {chain}, which no object of the XML names"
                    raise DataError(f"{spot}, line {number}", "chain", problem, _XML_REMEDY)
                if boxes.get(chain):
                    groundings.append(Grounding(text=len(texts), span=(begin, end), boxes=boxes[chain]))
                    types.append(named)
            texts.append(text)
        if not texts:
            raise DataError(spot, "sentence", "is an empty file", _XML_REMEDY)
        image = self._images.open(f"{name}.jpg", where, "photo", upright=False)
        return Sample(name, (image,), tuple(texts), tuple(groundings), {"types": tuple(types)})


def parse_sentence(line: str, where: str) -> tuple[str, list[Phrase]]:
    """A marked sentence as plain text and its phrases as (begin, end, chain id).

    Raises:
        DataError: for unbalanced or malformed marks, empty phrases, an empty sentence.
    """
    line, pieces, phrases, length, done = line.strip(), [], [], 0, 0
    for mark in _MARK.finditer(line):
        plain, phrase = line[done : mark.start()], mark[3]
        if not phrase.strip():
            raise DataError(where, "sentence", f"mark '{mark[0]}' has no phrase", _MARK_REMEDY)
        length += len(plain)
        phrases.append((length, length + len(phrase), mark[1]))
        length += len(phrase)
        pieces += [plain, phrase]
        done = mark.end()
    pieces.append(line[done:])
    plain = "".join(pieces[::2])
    if "[/" in plain or plain.count("[") != plain.count("]"):
        at = next(i for i, c in enumerate(plain) if c in "[]")
        raise DataError(where, "sentence", f"unbalanced or malformed mark near '{plain[at : at + 30]}'", _MARK_REMEDY)
    text = "".join(pieces)
    if not text.strip():
        raise DataError(where, "sentence", "is empty", "Remove the line.")
    return text, phrases


def phrase_types(line: str) -> list[tuple[str, ...]]:
    """The types of each phrase of a marked sentence: ("other", "vehicles") for ``[/EN#2/other/vehicles It]``."""
    return [tuple(filter(None, (mark[2] or "").split("/"))) for mark in _MARK.finditer(line)]


def parse_boxes(data: bytes, where: str) -> dict[str, tuple[Box, ...]]:
    """The boxes of each chain id, in [0, 1]; a chain without boxes (`scene`, `nobndbox`) has none.

    The XML counts pixels of the original photo from 1 and includes both ends.

    Raises:
        DataError: for broken XML, a missing size, missing names, and empty boxes or such outside of the photo.
    """
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(where, "", f"not XML ({error})", _XML_REMEDY) from error
    size = (_pixels(root, "size/width", where), _pixels(root, "size/height", where))
    for field, value in zip(("size/width", "size/height"), size, strict=True):
        if value < 1:
            raise DataError(where, field, f"is {value:g}", "Give the size of the original photo in pixels.")
    boxes: dict[str, tuple[Box, ...]] = {}
    for i, item in enumerate(root.iter("object"), 1):
        field = f"object {i}"
        names = [(name.text or "").strip() for name in item.iter("name")]
        if not all(names) or not names:
            raise DataError(where, f"{field}/name", "missing", _XML_REMEDY)
        found: tuple[Box, ...] = ()
        if (box := item.find("bndbox")) is not None:
            x0, y0, x1, y1 = (_pixels(box, key, where, f"{field}/") for key in ("xmin", "ymin", "xmax", "ymax"))
            if x1 < x0 or y1 < y0:
                problem = f"({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty"
                raise DataError(where, f"{field}/bndbox", problem, "Correct or remove it.")
            found = (unit_box(x0 - 1, y0 - 1, x1, y1, size, where, f"{field}/bndbox"),)
        for name in names:
            boxes[name] = boxes.get(name, ()) + found
    return boxes


def _pixels(item: ElementTree.Element, key: str, where: str, prefix: str = "") -> float:
    text = item.findtext(key)
    if text is None or not re.fullmatch(r"\s*-?\d{1,6}(\.\d*)?\s*", text):
        problem = "missing" if text is None else f"is {text.strip()!r}"
        raise DataError(where, prefix + key, problem, "Give a number of pixels.")
    return float(text)


def _lines(data: bytes, where: str) -> list[str]:
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(where, "sentence", f"not UTF-8 (byte {error.start})", "Save the file as UTF-8.") from error


def _images_in(root: Path, split: str) -> Path:
    choices = [
        root / name for name in (f"images_{split}.tar", "images.tar", "flickr30k-images", "flickr30k_images", "images")
    ]
    for choice in choices:
        if choice.exists():
            return choice
    raise UsageError(f"{root}: none of {', '.join(c.name for c in choices)} is there. Point 'images' at the photos.")


class _Annotations:
    """The files of ``Annotations`` and ``Sentences``: from folders when they are asked for, or from a tar at once."""

    def __init__(self, root: Path, split: str, ids: set[str]) -> None:
        self.origin, self._members = root, dict[str, bytes]()
        if (root / "Annotations").is_dir() and (root / "Sentences").is_dir():
            self._folder = True
            return
        self._folder = False
        choices = [root / f"annotations{part}{end}" for part in (f"_{split}", "") for end in (".tar.gz", ".tar")]
        found = next((choice for choice in choices if choice.is_file()), None)
        if found is None:
            names = ", ".join(c.name for c in choices)
            raise UsageError(
                f"{root}: neither folders Annotations and Sentences nor {names}. Unpack the release there."
            )
        self.origin = found
        try:
            with tarfile.open(found, "r:*") as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    if member.isfile() and name.rpartition(".")[0] in ids:
                        file: Any = tar.extractfile(member)
                        self._members[f"{folder.rpartition('/')[2]}/{name}"] = file.read()
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise DataError(str(found), "", f"not a sound tar ({error})", "Copy or make the tar again.") from error

    def where(self, name: str) -> str:
        return f"{self.origin / name}" if self._folder else f"{self.origin}, {name}"

    def read(self, name: str, where: str) -> bytes:
        """Raises DataError if it is missing."""
        try:
            return (self.origin / name).read_bytes() if self._folder else self._members[name]
        except KeyError as error:
            problem = f"no {name} in {self.origin}"
            raise DataError(where, "", problem, "Add it, or take the photo off the list.") from error
        except (OSError, ValueError) as error:
            problem = f"cannot read {self.where(name)}"
            raise DataError(where, "", problem, "Add it, or take the photo off the list.") from error
