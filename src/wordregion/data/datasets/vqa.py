"""Visual questions: VQA v2's published files, and ALBEF's own JSON.

Both give ``Sample(images, (question,), target)`` with ``target = {"answers": {answer: weight}, "human_answers": [...],
"question_id": int, "kind": ...}``, the answers only where the file has them. As in ALBEF's code the weight of an answer
is the share of the people who gave it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordregion.data.fields import required, shown, text_value, whole_number
from wordregion.data.files import Packed, check_index, load_json
from wordregion.data.images import ImageStore
from wordregion.errors import DataError
from wordregion.schema import Sample

VG_WEIGHT = 0.5
"""Weight of the single answer to a Visual Genome question (ALBEF's code)."""
_V2_REMEDY = "Take the file from the VQA v2 release again."
_ALBEF_REMEDY = 'Expected [{"dataset": "vqa", "image": "a.jpg", "question": "...", "answer": [...]}, ...].'


def agreement(answers: Sequence[str]) -> dict[str, float]:
    """Each different answer with the share of the people who gave it, in (0, 1]."""
    return {answer: count / len(answers) for answer, count in Counter(answers).items()}


class VqaV2:
    """VQA v2 (`Dataset`): a file of questions and, for training and validation, one of annotations.

    A question's ``kind`` is the annotations' answer type: "yes_no", "number" or "other".

    Args:
        questions: ``v2_OpenEnded_mscoco_SUBSET_questions.json``.
        annotations: ``v2_mscoco_SUBSET_annotations.json``; None for a test set.
        images: folder or tar of ``COCO_SUBSET_NUMBER.jpg``; default: the folder SUBSET beside the questions.
        content: the parsed file of questions, if the caller has it already.

    Raises:
        UsageError: if a path does not exist.
        DataError: if a file is not of this format, empty, or a question has no annotation.
    """

    def __init__(
        self,
        questions: Path | str,
        annotations: Path | str | None = None,
        images: Path | str | None = None,
        content: Any = None,
    ) -> None:
        self.path, self.name = Path(questions), str(questions)
        content = load_json(self.path, "VQA v2 questions") if content is None else content
        records = _list_in(content, "questions", self.name)
        subset = text_value(required(content, "data_subtype", self.name, _V2_REMEDY), self.name, "data_subtype")
        self._subset = "test2015" if subset.startswith("test") else subset
        notes = None if annotations is None else _by_question(Path(annotations))
        keys = [r.get("question_id") if isinstance(r, dict) else None for r in records]
        keys = [key if isinstance(key, int | float | str) else None for key in keys]  # others are broken records
        if notes is None:
            self._records = Packed((record, None) for record in records)
        else:
            missing = [key for key in keys if key is not None and key not in notes]
            if missing:
                problem = f"has no annotation of question {shown(missing[0])} ({len(missing)} in all)"
                raise DataError(str(annotations), "question_id", problem, "Give the annotations of the same subset.")
            self._records = Packed((record, notes.get(key)) for record, key in zip(records, keys, strict=True))
        self._images = ImageStore(self.path.parent / self._subset if images is None else images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and position in the list, counted from 1."""
        return f"{self.path}, question {index + 1}"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        where, (record, note) = self.where(index), self._records[index]
        if not isinstance(record, dict):
            raise DataError(where, "", f"is {type(record).__name__}, not an object", _V2_REMEDY)
        question = text_value(required(record, "question", where, _V2_REMEDY), where, "question")
        image_id, question_id = (
            whole_number(required(record, field, where, _V2_REMEDY), where, field)
            for field in ("image_id", "question_id")
        )
        target: dict[str, Any] = {"question_id": question_id}
        if note is not None:
            given = [a.get("answer") if isinstance(a, dict) else a for a in _list_in(note, "answers", where)]
            answers = [text_value(answer, where, f"answers[{i}]") for i, answer in enumerate(given)]
            kind = text_value(required(note, "answer_type", where, _V2_REMEDY), where, "answer_type")
            target |= {"answers": agreement(answers), "human_answers": answers, "kind": kind.replace("/", "_")}
        image = self._images.open(f"COCO_{self._subset}_{image_id:012d}.jpg", where)
        return Sample(str(question_id), (image,), (question,), target=target)


class AlbefVqa:
    """Questions in ALBEF's JSON (`Dataset`): a list of {"dataset", "image", "question", "question_id", "answer"}.

    ``answer`` is a list of people's answers, or one text (Visual Genome), with the weight 0.5; it may be left out.

    Args:
        path: the JSON file.
        images: folder or tar where the image paths begin; default: the folder of the JSON file.
        vg_images: likewise for records whose ``dataset`` is "vg"; default: `images`.
        content: the parsed file, if the caller has it already.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file is not a JSON list, or empty.
    """

    def __init__(
        self,
        path: Path | str,
        images: Path | str | None = None,
        vg_images: Path | str | None = None,
        content: Any = None,
    ) -> None:
        self.path, self.name = Path(path), str(path)
        content = load_json(self.path, "a JSON list of questions") if content is None else content
        if not isinstance(content, list) or not content:
            problem = "is empty" if content == [] else f"the top level is {type(content).__name__}, not a list"
            raise DataError(self.name, "", problem, _ALBEF_REMEDY)
        self._records = Packed(content)
        self._images = ImageStore(self.path.parent if images is None else images)
        self._vg_images = self._images if vg_images is None else ImageStore(vg_images)

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int) -> str:
        """File and position in the list, counted from 1."""
        return f"{self.path}, record {index + 1}"

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        record, where = self._records[index], self.where(index)
        if not isinstance(record, dict):
            raise DataError(where, "", f"is {type(record).__name__}, not an object", _ALBEF_REMEDY)
        question = text_value(required(record, "question", where, _ALBEF_REMEDY), where, "question")
        name = text_value(required(record, "image", where, _ALBEF_REMEDY), where, "image")
        target: dict[str, Any] = {}
        if record.get("question_id") is not None:
            target["question_id"] = whole_number(record["question_id"], where, "question_id")
        given = record.get("answer")
        if isinstance(given, list) and given:
            answers = [text_value(answer, where, f"answer[{i}]") for i, answer in enumerate(given)]
            target |= {"answers": agreement(answers), "human_answers": answers}
        elif given is not None:
            target["answers"] = {text_value(given, where, "answer"): VG_WEIGHT}
        store = self._vg_images if record.get("dataset") == "vg" else self._images
        identity = str(target.get("question_id", f"{self.path.stem}-{index + 1}"))
        return Sample(identity, (store.open(name, where),), (question,), target=target)


def open_questions(
    path: Path | str, images: Path | str | None = None, vg_images: Path | str | None = None, content: Any = None
) -> VqaV2 | AlbefVqa:
    """VQA v2 questions, with the annotations that lie beside them under their published name, or ALBEF's JSON.

    Args:
        path: the file of questions.
        images: folder or tar of the images; see the classes.
        vg_images: of Visual Genome, for ALBEF's JSON.
        content: the parsed file, if the caller has it already.

    Raises:
        UsageError: if a path does not exist.
        DataError: if the file is of neither format.
    """
    path = Path(path)
    content = load_json(path, "VQA v2 questions or ALBEF's list of questions") if content is None else content
    if isinstance(content, list):
        return AlbefVqa(path, images, vg_images, content)
    beside = path.with_name(path.name.replace("OpenEnded_", "").replace("_questions", "_annotations"))
    return VqaV2(path, beside if beside != path and beside.is_file() else None, images, content)


def read_answers(path: Path | str) -> tuple[str, ...]:
    """A list of candidate answers: a JSON list of texts, as ALBEF's ``answer_list.json``.

    Raises:
        UsageError: if there is no such file.
        DataError: if it is not such a list.
    """
    content = load_json(Path(path), "a JSON list of answers")
    if not isinstance(content, list) or not content:
        raise DataError(str(path), "", "is no list of answers", 'Expected ["yes", "no", "2", ...].')
    return tuple(text_value(answer, str(path), f"[{index}]") for index, answer in enumerate(content))


def _list_in(content: Any, field: str, where: str) -> list[Any]:
    found = content.get(field) if isinstance(content, dict) else None
    if not isinstance(found, list) or not found:
        raise DataError(where, field, "no such list, or empty", _V2_REMEDY)
    return found


def _by_question(path: Path) -> dict[Any, Any]:
    notes = _list_in(load_json(path, "VQA v2 annotations"), "annotations", str(path))
    found: dict[Any, Any] = {}
    for i, note in enumerate(notes, 1):
        where = f"{path}, annotation {i}"
        if not isinstance(note, dict):
            raise DataError(where, "", f"is {shown(note)}, not an object", _V2_REMEDY)
        key = required(note, "question_id", where, _V2_REMEDY)
        if not isinstance(key, int | float | str):
            raise DataError(where, "question_id", f"is {shown(key)}", _V2_REMEDY)
        found[key] = note
    return found
