"""NegGen (VL-Match section 3.3): false captions that differ from true ones in some nouns and adjectives.

Tag the caption, mask half of its nouns and adjectives, refill them by a masked language model, drop what a model of
matching thinks true all the same. The result is a folder of Parquet files, each made from a fixed range of records by
draws of its own, so that it is the same however many processes make it and however often they are stopped.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wordregion.data.fields import shown
from wordregion.data.files import Packed
from wordregion.data.masked_lm import MaskedLM
from wordregion.data.parts import part_path, read_records, read_version, sound_records, write_part
from wordregion.data.tagging import Tagged, Tagger
from wordregion.data.tokens import clean_caption
from wordregion.errors import DataError, UsageError
from wordregion.schema import Dataset, Grounding, Sample

CHUNK = 64
"""Records of a file. Part of the version: the language model reads the captions of a file together."""
REPLACED = ("NOUN", "PROPN", "ADJ")
MOST_WORDS = 60
"""Longer captions are left alone: a language model would read a part of them only."""
FORMAT = 2
WHAT, COMMAND = "false captions", "data neggen"

Judge = Callable[[Sequence[Sample], Sequence[Sequence[str]]], list[list[float]]]
"""Samples and texts about each to the probability that each text describes the first image of its sample."""


@dataclass(frozen=True)
class NegGen:
    """How false captions are made.

    Attributes:
        count: candidates of each caption, before the filter.
        share: of a caption's nouns and adjectives that are replaced, in (0, 1]; at least one is.
        top: most probable words from which a replacement is drawn.
        threshold: a candidate whose probability of matching is this or more is dropped, in (0, 1].
        seed: of all draws.
    """

    count: int = 3
    share: float = 0.5
    top: int = 20
    threshold: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count, self.top) < 1 or self.seed < 0:
            raise UsageError(f"{self}: count and top must be at least 1, the seed 0 or more.")
        if not (0 < self.share <= 1 and 0 < self.threshold <= 1):
            raise UsageError(f"{self}: share and threshold must be above 0 and at most 1.")


@dataclass(frozen=True)
class Row:
    """What was made of one caption.

    Attributes:
        index: of the record in its data set.
        id: of the sample.
        text: the true caption.
        kept: false captions.
        kept_scores: their probability of matching; empty without a filter.
        dropped: candidates that the filter takes for true.
        dropped_scores: theirs.
        score: the true caption's own probability of matching; None without a filter.
    """

    index: int
    id: str
    text: str
    kept: tuple[str, ...] = ()
    kept_scores: tuple[float, ...] = ()
    dropped: tuple[str, ...] = ()
    dropped_scores: tuple[float, ...] = ()
    score: float | None = None


def replaceable(text: str, words: Tagged) -> list[tuple[int, int]]:
    """The characters of the nouns and adjectives of a text that are plain words."""
    spans = [(begin, end) for begin, end, tag in words if tag in REPLACED and text[begin:end].isalpha()]
    return spans if len(words) <= MOST_WORDS else []


def choose(spans: Sequence[tuple[int, int]], share: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """A share of the spans, at least one, in their order. There must be some."""
    count = max(1, round(share * len(spans)))
    return [spans[int(i)] for i in sorted(rng.choice(len(spans), count, replace=False))]


def alike(text: str) -> str:
    """What makes two captions the same: their words, whatever case and punctuation."""
    return clean_caption(text, 10**6)[0]


def propose(
    captions: Sequence[tuple[int, int, str]],
    true: Sequence[Iterable[str]],
    tagger: Tagger,
    lm: MaskedLM,
    settings: NegGen,
) -> list[list[str]]:
    """False captions, none of which is a true one of its image.

    Args:
        captions: (record, number within it, text); with the seed, they decide the draws.
        true: all true captions of each one's image.
        tagger: marks nouns and adjectives.
        lm: refills them.
        settings: how many, and how.

    Returns:
        for each caption at most `count` texts, all different.
    """
    jobs: list[tuple[int, str, list[tuple[int, int]], np.random.Generator]] = []
    for row, ((record, number, text), words) in enumerate(
        zip(captions, tagger([text for _, _, text in captions]), strict=True)
    ):
        spans = replaceable(text, words)
        for variant in range(settings.count if spans else 0):
            rng = np.random.default_rng([settings.seed, record, number, variant])
            jobs.append((row, text, choose(spans, settings.share, rng), rng))
    filled = lm.fill([job[1] for job in jobs], [job[2] for job in jobs], [job[3] for job in jobs], settings.top)
    found: list[dict[str, str]] = [{} for _ in captions]
    forbidden = [{alike(text) for text in own} for own in true]
    for (row, *_), text in zip(jobs, filled, strict=True):
        if (key := alike(text)) not in forbidden[row]:
            found[row].setdefault(key, text)
    return [list(own.values()) for own in found]


def make_rows(
    records: Sequence[tuple[int, Sample]], tagger: Tagger, lm: MaskedLM, judge: Judge | None, settings: NegGen
) -> list[Row]:
    """One row for each different caption of the records' first images.

    Args:
        records: (index in the data set, sample as it is there).
        tagger: see `propose`.
        lm: see `propose`.
        judge: the filter; None keeps everything.
        settings: how many, and how.
    """
    captions: list[tuple[int, int, str]] = []
    owner: list[int] = []
    for place, (index, sample) in enumerate(records):
        texts = dict.fromkeys(sample.texts[text] for text in sample.captions())
        captions += [(index, number, text) for number, text in enumerate(texts)]
        owner += [place] * len(texts)
    true = [[records[place][1].texts[t] for t in records[place][1].captions()] for place in owner]
    found = propose(captions, true, tagger, lm, settings)
    rows = [Row(index, records[place][1].id, text) for place, (index, _, text) in zip(owner, captions, strict=True)]
    if judge is None:
        return [replace(row, kept=tuple(own)) for row, own in zip(rows, found, strict=True)]
    texts_of: dict[int, list[str]] = defaultdict(list)
    for row, place, own in zip(rows, owner, found, strict=True):
        texts_of[place] += [row.text, *own]
    asked = sorted(texts_of)
    scores = judge([records[place][1] for place in asked], [texts_of[place] for place in asked])
    score_of = {p: dict(zip(texts_of[p], own, strict=True)) for p, own in zip(asked, scores, strict=True)}
    judged = []
    for row, place, own in zip(rows, owner, found, strict=True):
        told = [(text, score_of[place][text]) for text in own]
        kept = [(text, score) for text, score in told if score < settings.threshold]
        dropped = [(text, score) for text, score in told if score >= settings.threshold]
        judged.append(
            replace(
                row,
                kept=tuple(text for text, _ in kept),
                kept_scores=tuple(score for _, score in kept),
                dropped=tuple(text for text, _ in dropped),
                dropped_scores=tuple(score for _, score in dropped),
                score=score_of[place][row.text],
            )
        )
    return judged


def version_of(dataset: Dataset, settings: NegGen, tagger: str, lm: str, judge: str | None) -> dict[str, Any]:
    """All that the result depends on.

    Args:
        dataset: its name and length count.
        settings: all of them.
        tagger: name and version.
        lm: name of exactly these weights.
        judge: likewise of the filter; None without one.
    """
    facts = {"format": FORMAT, "data": dataset.name, "records": len(dataset), "chunk": CHUNK, **asdict(settings)}
    return facts | {"tagger": tagger, "lm": lm, "filter": judge}


def make_part(
    folder: Path, chunk: int, dataset: Dataset, tagger: Tagger, lm: MaskedLM, judge: Judge | None, settings: NegGen
) -> list[Row] | None:
    """Makes one file of the cache; None if it is there already. A broken record has no row and is noted in the file."""
    import pyarrow as pa

    path = part_path(folder, chunk)
    if path.is_file():
        return None
    records, broken = sound_records(dataset, chunk, CHUNK)
    rows = make_rows(records, tagger, lm, judge, settings)
    texts, scores = pa.list_(pa.string()), pa.list_(pa.float32())
    fields = [
        ("index", pa.int64()), ("id", pa.string()), ("text", pa.string()),
        ("kept", texts), ("kept_scores", scores), ("dropped", texts), ("dropped_scores", scores),
        ("score", pa.float32()),
    ]  # fmt: skip
    write_part(path, rows, fields, broken)
    return rows


def read_parts(folder: Path) -> tuple[list[Row], list[str]]:
    """All rows of a cache in the order of the records, and one line for each broken record.

    Raises:
        UsageError: if there is no such cache, or files are missing.
        DataError: if a file is damaged.
    """
    records, broken = read_records(folder, WHAT, COMMAND)
    lists = ("kept", "kept_scores", "dropped", "dropped_scores")
    rows = [Row(**{**record, **{name: tuple(record[name]) for name in lists}}) for record in records]
    return rows, broken


class GeneratedContests:
    """Each caption against its false ones of a cache (`Dataset`), as `evaluate_compositional` takes them.

    The true caption is the sample's first text; target {"kind": "generated", "group": None}. Captions without a false
    one are left out.

    Args:
        dataset: the one that the cache was made from.
        folder: the cache.

    Raises:
        UsageError: see `WithNegatives`; or if no caption has a false one.
    """

    def __init__(self, dataset: Dataset, folder: Path | str) -> None:
        self._dataset, self.name = WithNegatives(dataset, folder), dataset.name
        false = (self._dataset.false_captions(index) for index in range(len(dataset)))
        self._cases = [(i, text, kept) for i, own in enumerate(false) for text, kept in own.items() if kept]
        if not self._cases:
            raise UsageError(f"{folder}: has no false caption. Make it again with a higher --threshold or --count.")

    def __len__(self) -> int:
        return len(self._cases)

    def where(self, index: int) -> str:
        """Of the record, as its data set says."""
        return self._dataset.where(self._cases[index][0])

    def __getitem__(self, index: int) -> Sample:
        record, text, false = self._cases[index]
        sample = self._dataset[record]
        target = {"kind": "generated", "group": None}
        return Sample(f"{sample.id}-{index}", sample.images[:1], (text, *false), (Grounding(text=0),), target)


class WithNegatives:
    """A data set whose captions have the false ones of a cache beside them (`Dataset`): see `Sample.negatives`.

    Args:
        dataset: the one that the cache was made from.
        folder: the cache.

    Raises:
        UsageError: if there is no such cache, it is not finished, or it was made from a data set of another length.
    """

    def __init__(self, dataset: Dataset, folder: Path | str) -> None:
        self.dataset, self.folder, self.name = dataset, Path(folder), dataset.name
        version = read_version(self.folder, WHAT, COMMAND)
        if version["records"] != len(dataset):
            raise UsageError(
                f"{folder}: was made from {version['records']} records of {version['data']}, but {dataset.name} has "
                f"{len(dataset)}. Make it again: wordregion data neggen"
            )
        found: list[dict[str, Any]] = [{} for _ in range(len(dataset))]
        for row in read_parts(self.folder)[0]:
            own = found[row.index]
            own["id"] = row.id
            own.setdefault("false", {})[row.text] = row.kept
        self._found = Packed(found)

    def __len__(self) -> int:
        return len(self.dataset)

    def where(self, index: int) -> str:
        """As the data set names it."""
        return self.dataset.where(index)

    def false_captions(self, index: int) -> dict[str, tuple[str, ...]]:
        """Of each caption of a record, by its text."""
        return {text: tuple(kept) for text, kept in self._found[index].get("false", {}).items()}

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        own = self._found[index]
        if own and own["id"] != sample.id:
            problem = f"is {shown(sample.id)}, but false captions were made for {shown(own['id'])}"
            raise DataError(self.where(index), "id", problem, f"Make {self.folder} again: wordregion data neggen")
        texts, negatives, made = list(sample.texts), dict(sample.negatives), self.false_captions(index)
        for caption in sample.captions():
            if false := made.get(sample.texts[caption], ()):
                negatives[caption] = tuple(range(len(texts), len(texts) + len(false)))
                texts += false
        return replace(sample, texts=tuple(texts), negatives=negatives)
