"""Boxes that a teacher put on the noun phrases of captions, in a folder of Parquet files, and their use in training.

The loop of GLIP's section 3.3: captions -> noun phrases -> teacher -> threshold -> files -> student. A file holds what
became of a chunk of records, so that work can stop, go on, and be shared by processes.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wordregion.data.fields import shown
from wordregion.data.files import Packed
from wordregion.data.noun_phrases import noun_phrases
from wordregion.data.parts import part_path, read_records, read_version, sound_records, write_part
from wordregion.data.prompts import Prompt, Span, phrase_prompts
from wordregion.data.tagging import Tagger
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Box, Dataset, Grounding, Sample

CHUNK = 256
FORMAT = 1
WHAT, COMMAND = "pseudo-boxes", "data pseudo-label"

Located = tuple[int, Box, float]
"""Number of a phrase, box in [0, 1] of the picture, score in [0, 1]."""
Teacher = Callable[[Sequence[Sample], Sequence[Sequence[Prompt]]], Sequence[Sequence[Sequence[Located]]]]
"""Samples with pictures and the prompts for each, to the boxes for each prompt; its phrases numbered by their keys."""


@dataclass(frozen=True)
class PseudoSettings:
    """How boxes are made.

    Attributes:
        least: score below which a box is dropped; GLIP keeps what is above 0.5.
        most: boxes of a phrase that are kept at most, the best ones.
        overlap: IoU above which the teacher suppresses the lower box of a phrase.
    """

    least: float = 0.5
    most: int = 20
    overlap: float = 0.6

    def __post_init__(self) -> None:
        if not (0 < self.least <= 1 and 0 < self.overlap <= 1) or self.most < 1:
            raise UsageError(f"{self}: 0 < least <= 1, 0 < overlap <= 1 and most >= 1 must hold.")


@dataclass(frozen=True)
class Labelled:
    """What was made of one caption; a phrase without boxes has no place here.

    Attributes:
        index: of the record in its data set.
        id: of the sample.
        text: the caption.
        phrases: how many noun phrases it has.
        spans: (begin, end) of the phrase of each box.
        boxes: xyxy in [0, 1].
        scores: of each box.
    """

    index: int
    id: str
    text: str
    phrases: int
    spans: tuple[Span, ...] = ()
    boxes: tuple[Box, ...] = ()
    scores: tuple[float, ...] = ()


def label(
    records: Sequence[tuple[int, Sample]],
    tagger: Tagger,
    tokenizer: Tokenizer,
    teacher: Teacher,
    settings: PseudoSettings,
) -> list[Labelled]:
    """One row for each different caption of the records' pictures.

    A caption over the tokenizer's limit is asked for in pieces.

    Args:
        records: (index in the data set, sample as it is there).
        tagger: finds the parts of speech.
        tokenizer: of the teacher.
        teacher: finds boxes.
        settings: which boxes to keep.
    """
    captions = [
        (place, text)
        for place, (_, sample) in enumerate(records)
        for text in dict.fromkeys(sample.texts[t] for t in sample.captions())
    ]
    spans = [noun_phrases(words) for words in tagger([text for _, text in captions])]
    prompts: list[list[Prompt]] = [[] for _ in records]
    owner: list[list[int]] = [[] for _ in records]  # the caption of each prompt
    for row, ((place, text), own) in enumerate(zip(captions, spans, strict=True)):
        for prompt in phrase_prompts(text, own, tokenizer):
            prompts[place].append(prompt)
            owner[place].append(row)
    asked = [place for place in range(len(records)) if prompts[place]]
    answers = teacher([records[place][1] for place in asked], [prompts[place] for place in asked])
    kept: dict[int, list[Located]] = defaultdict(list)
    for place, found in zip(asked, answers, strict=True):
        for row, located in zip(owner[place], found, strict=True):
            kept[row] += _kept(located, settings)
    return [
        Labelled(
            records[place][0],
            records[place][1].id,
            text,
            len(own),
            tuple(own[number] for number, _, _ in kept[row]),
            tuple(box for _, box, _ in kept[row]),
            tuple(score for _, _, score in kept[row]),
        )
        for row, ((place, text), own) in enumerate(zip(captions, spans, strict=True))
    ]


def _kept(located: Sequence[Located], settings: PseudoSettings) -> list[Located]:
    count: dict[int, int] = defaultdict(int)
    kept = []
    for number, box, score in sorted(located, key=lambda row: -row[2]):
        if score >= settings.least and count[number] < settings.most:
            count[number] += 1
            kept.append((number, box, score))
    return sorted(kept, key=lambda row: row[0])


def version_of(dataset: Dataset, settings: PseudoSettings, tagger: str, teacher: str) -> dict[str, Any]:
    """All that the result depends on: the data set's name and length, the settings, the names of tagger and weights."""
    facts = {"format": FORMAT, "data": dataset.name, "records": len(dataset), "chunk": CHUNK, **asdict(settings)}
    return facts | {"tagger": tagger, "teacher": teacher}


def make_part(
    folder: Path,
    chunk: int,
    dataset: Dataset,
    tagger: Tagger,
    tokenizer: Tokenizer,
    teacher: Teacher,
    settings: PseudoSettings,
) -> list[Labelled] | None:
    """Makes one file; None if it is there already. A broken record has no row and is noted in the file."""
    import pyarrow as pa

    path = part_path(folder, chunk)
    if path.is_file():
        return None
    records, broken = sound_records(dataset, chunk, CHUNK)
    rows = label(records, tagger, tokenizer, teacher, settings)
    numbers = pa.list_(pa.float32())
    fields = [
        ("index", pa.int64()), ("id", pa.string()), ("text", pa.string()), ("phrases", pa.int32()),
        ("spans", pa.list_(pa.list_(pa.int32()))), ("boxes", pa.list_(numbers)), ("scores", numbers),
    ]  # fmt: skip
    write_part(path, rows, fields, broken)
    return rows


def read_parts(folder: Path) -> tuple[list[Labelled], list[str]]:
    """All rows in the order of the records, and one line for each broken record.

    Raises:
        UsageError: if there are no pseudo-boxes, or files are missing.
        DataError: if a file is damaged.
    """
    records, broken = read_records(folder, WHAT, COMMAND)
    rows: list[Labelled] = []
    for record in records:
        nested = {name: tuple(tuple(value) for value in record[name]) for name in ("spans", "boxes")}
        rows.append(Labelled(**{**record, **nested, "scores": tuple(record["scores"])}))
    return rows, broken


class WithBoxes:
    """A data set of captions with a teacher's boxes on its noun phrases (`Dataset`).

    A record has its captions and, for each phrase with boxes, a grounding with span and boxes; groundings that the data
    set itself has with boxes are left out, so that a student sees the teacher's alone.

    Args:
        dataset: the one that the boxes were made for.
        folder: what `wordregion data pseudo-label` wrote.
        least: score below which a box is left out, if above the one that they were made with.

    Raises:
        UsageError: if the folder is unfinished, or made for a data set of another length.
    """

    def __init__(self, dataset: Dataset, folder: Path | str, least: float = 0.0) -> None:
        self.dataset, self.folder, self.name = dataset, Path(folder), f"{dataset.name} with boxes of {folder}"
        version = read_version(self.folder, WHAT, COMMAND)
        if version["records"] != len(dataset):
            raise UsageError(
                f"{folder}: was made for {version['records']} records of {version['data']}, but {dataset.name} has "
                f"{len(dataset)}. Make it again: wordregion data pseudo-label"
            )
        found: list[dict[str, Any]] = [{} for _ in range(len(dataset))]
        for row in read_parts(self.folder)[0]:
            own = found[row.index]
            own["id"] = row.id
            kept = [
                [span, box] for span, box, score in zip(row.spans, row.boxes, row.scores, strict=True) if score >= least
            ]
            own.setdefault("captions", {})[row.text] = kept
        self._found = Packed(found)

    def __len__(self) -> int:
        return len(self.dataset)

    def where(self, index: int) -> str:
        """As the data set names it."""
        return self.dataset.where(index)

    def __getitem__(self, index: int) -> Sample:
        sample, own = self.dataset[index], self._found[index]
        if own and own["id"] != sample.id:
            problem = f"is {shown(sample.id)}, but boxes were made for {shown(own['id'])}"
            raise DataError(self.where(index), "id", problem, f"Make {self.folder} again: wordregion data pseudo-label")
        groundings = [g for g in sample.groundings if not g.boxes]
        for caption in sample.captions():
            boxes: dict[Span, list[Box]] = defaultdict(list)
            for span, box in own.get("captions", {}).get(sample.texts[caption], ()):
                boxes[(span[0], span[1])].append((box[0], box[1], box[2], box[3]))
            groundings += [Grounding(text=caption, span=span, boxes=tuple(found)) for span, found in boxes.items()]
        target = {name: value for name, value in sample.target.items() if name != "types"}
        return replace(sample, groundings=tuple(groundings), target=target)
