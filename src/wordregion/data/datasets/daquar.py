"""DAQUAR: questions about photos of rooms (Malinowski and Fritz, NIPS 2014)."""

import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path

from wordregion.data.files import check_index, existing_file
from wordregion.data.images import ImageStore
from wordregion.errors import DataError, UsageError
from wordregion.schema import Sample

_NAME = re.compile(r"\bimage(\d{1,9})\b")
_REMEDY = "Write a line with a question that names its image (image12), then a line with the answer."
HELD_OUT = 5
"""Every photo whose number is divisible by it is held out for validation."""


class Daquar:
    """Questions with one answer each, which may be a list (`Dataset`): target {"answers": {answer: 1.0}}.

    In a question ``image12`` becomes ``image``; in an answer ``_`` becomes a space. The parts of a list stay together
    as one answer, "book, tape dispenser", as DAQUAR's measures take it.

    Args:
        path: a question line, then its answer line, and so on.
        images: folder or tar of ``imageN.jpg`` (or ``.png``).
        part: questions on "all" photos; or only those on the "train" photos, or on the held-out "val" photos.
        suffix: ending of the image files.

    Raises:
        UsageError: if a path does not exist, or the part is unknown.
        DataError: if it is not UTF-8, or nothing is left; while indexing, if a question has no answer or names no
            image.
    """

    def __init__(
        self,
        path: Path | str,
        images: Path | str,
        part: str = "all",
        suffix: str = ".jpg",
    ) -> None:
        if part not in ("all", "train", "val"):
            raise UsageError(f"part={part!r}: unknown. Use all, train or val.")
        self.path, self.name, self.suffix = Path(path), f"{path}#{part}", suffix
        records = _read(existing_file(self.path, "DAQUAR's questions and answers"))
        self._records = [r for r in records if part == "all" or (_held_out(r[1]) == (part == "val"))]
        if not self._records:
            raise DataError(str(path), "", f"has no questions for part '{part}'", _REMEDY)
        self._images = ImageStore(images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and line of the question."""
        return f"{self.path}, line {self._records[index][0]}"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        photo, question, answer = self.words(index)
        image = self._images.open(photo, self.where(index))
        line = self._records[index][0]
        return Sample(f"{self.path.stem}-{line}", (image,), (question,), target={"answers": {answer: 1.0}})

    def words(self, index: int) -> tuple[str, str, str]:
        """Name of the photo, question and answer; raises `DataError` if one is missing. The photo is not opened."""
        where, (_, question, answer) = self.where(index), self._records[index]
        found = _NAME.findall(question)
        if not found:
            raise DataError(where, "question", f"names no image: '{question[:60]}'", _REMEDY)
        if not answer:
            raise DataError(where, "answer", "is missing or empty", _REMEDY)
        return f"image{found[-1]}{self.suffix}", _NAME.sub("image", question), answer

    def photos(self) -> dict[str, list[int]]:
        """The records about each photo, by its name."""
        found: dict[str, list[int]] = {}
        for index in range(len(self)):
            found.setdefault(self.words(index)[0], []).append(index)
        return found

    def answers(self) -> tuple[str, ...]:
        """Every different answer, the frequent ones first: candidates for ranking."""
        counts = Counter(answer for _, _, answer in self._records if answer)
        return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer)))


def _read(path: Path) -> list[tuple[int, str, str]]:
    """(line, question, answer) of each question."""
    data = path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        where = f"{path}, line {data.count(10, 0, error.start) + 1}"
        raise DataError(where, "", f"not UTF-8 (byte {error.start})", "Save the file as UTF-8.") from error
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    answers = [", ".join(items(text)) for _, text in filled[1::2]]
    return [(*asked, answer) for asked, answer in zip_longest(filled[::2], answers, fillvalue="")]


def items(answer: str) -> tuple[str, ...]:
    """The parts of an answer, split at commas; ``_`` between words is a space."""
    return tuple(part for piece in answer.split(",") if (part := " ".join(piece.replace("_", " ").split())))


def _held_out(question: str) -> bool:
    found = _NAME.findall(question)
    return bool(found) and int(found[-1]) % HELD_OUT == 0
