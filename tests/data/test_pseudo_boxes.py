"""Boxes of a teacher that is written by hand: what is kept, stored, resumed and read again."""

from pathlib import Path

import pytest
from PIL import Image

from wordregion.data import pseudo_boxes
from wordregion.data.parts import part_path, start_cache
from wordregion.data.prompts import Prompt
from wordregion.data.pseudo_boxes import (
    Labelled,
    PseudoSettings,
    WithBoxes,
    label,
    make_part,
    read_parts,
    version_of,
)
from wordregion.data.tokens import Tokenizer
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample

BOXES = [(0.0, 0.0, 0.5, 0.5), (0.25, 0.0, 1.0, 0.5), (0.5, 0.5, 1.0, 1.0)]
TAGS = {"a": "DET", "red": "ADJ", "blue": "ADJ", "circle": "NOUN", "square": "NOUN"}
SETTINGS = PseudoSettings(least=0.5, most=2)


def tagger(texts):
    found = []
    for text in texts:
        words, at = [], 0
        for word in text.split():
            words.append((at, at + len(word), TAGS.get(word, "ADP")))
            at += len(word) + 1
        found.append(words)
    return found


def teacher(samples, prompts):
    """Three boxes for each phrase that says red (the second one poor), one for each other."""
    answers = []
    for own in prompts:
        row = []
        for prompt in own:
            located = []
            for number, (begin, end) in prompt.spans.items():
                red = "red" in prompt.text[begin:end]
                scores = (0.6, 0.4, 0.9) if red else (0.7,)
                located += [(number, box, score) for box, score in zip(BOXES, scores, strict=False)]
            row.append(located)
        answers.append(row)
    return answers


class Captions:
    name = "captions"

    def __init__(self, *texts: tuple[str, ...]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, index: int) -> str:
        return f"record {index}"

    def __getitem__(self, index: int) -> Sample:
        if not self.texts[index]:
            raise DataError(self.where(index), "", "is broken", "Mend it.")
        groundings = tuple(Grounding(text=i) for i in range(len(self.texts[index])))
        return Sample(f"id{index}", (Image.new("RGB", (8, 8)),), self.texts[index], groundings)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer("scenes", max_tokens=20, clean=False)


def test_boxes_over_the_threshold_stay_with_their_phrase(tokenizer: Tokenizer) -> None:
    dataset = Captions(("above a red circle left of a blue square", "left of above"))
    first, second = label([(7, dataset[0])], tagger, tokenizer, teacher, SETTINGS)
    assert (first.index, first.id, first.phrases) == (7, "id0", 2)
    assert [first.text[b:e] for b, e in first.spans] == ["a red circle", "a red circle", "a blue square"]
    assert first.boxes == (BOXES[2], BOXES[0], BOXES[0])
    assert first.scores == (0.9, 0.6, 0.7)
    assert second == Labelled(7, "id0", "left of above", 0)
    (best,) = label([(0, Captions(("a red circle",))[0])], tagger, tokenizer, teacher, PseudoSettings(0.5, 1))
    assert best.boxes == (BOXES[2],)


def test_a_long_caption_is_asked_for_in_pieces() -> None:
    asked: list[Prompt] = []

    def spy(samples, prompts):
        asked.extend(prompt for own in prompts for prompt in own)
        return teacher(samples, prompts)

    tokenizer = Tokenizer("scenes", max_tokens=8, clean=False)
    text = "above a red circle left of a blue square"
    (row,) = label([(0, Captions((text,))[0])], tagger, tokenizer, spy, SETTINGS)
    assert [prompt.text for prompt in asked] == ["above a red circle left of", "a blue square"]
    assert [row.text[b:e] for b, e in row.spans] == ["a red circle", "a red circle", "a blue square"]


def test_stopped_work_goes_on_and_gives_what_one_go_gives(tmp_path: Path, monkeypatch, tokenizer: Tokenizer) -> None:
    monkeypatch.setattr(pseudo_boxes, "CHUNK", 2)
    dataset = Captions(("a red circle",), (), ("a blue square", "a square"), ("left of",), ("a circle",))
    once, twice = tmp_path / "once", tmp_path / "twice"

    def work(folder: Path, chunks) -> list[bool]:
        start_cache(folder, version_of(dataset, SETTINGS, "tags", "weights"))
        made = [make_part(folder, c, dataset, tagger, tokenizer, teacher, SETTINGS) is not None for c in chunks]
        return made

    assert work(once, [0, 1, 2]) == [True, True, True]
    work(twice, [2])
    with pytest.raises(UsageError, match=r"part-000000\.parquet of 3 files is missing"):
        read_parts(twice)
    assert work(twice, [0, 1, 2]) == [True, True, False]
    assert read_parts(once) == read_parts(twice)
    rows, broken = read_parts(once)
    assert [row.index for row in rows] == [0, 2, 2, 3, 4]
    assert [line.split(":")[0] for line in broken] == ["record 1"]
    with pytest.raises(UsageError, match="teacher"):
        start_cache(once, version_of(dataset, SETTINGS, "tags", "other weights"))

    student = WithBoxes(dataset, once)
    sample = student[2]
    assert sample.groundings[:2] == (Grounding(text=0), Grounding(text=1))
    assert [(sample.texts[g.text][slice(*g.span)], g.boxes) for g in sample.groundings[2:]] == [
        ("a blue square", (BOXES[0],)),
        ("a square", (BOXES[0],)),
    ]
    assert [len(g.boxes) for g in student[0].groundings] == [0, 2]
    assert [len(g.boxes) for g in WithBoxes(dataset, once, least=0.8)[0].groundings] == [0, 1]
    assert student[3].groundings == (Grounding(text=0),)
    with pytest.raises(DataError, match="record 1"):
        student[1]
    with pytest.raises(UsageError, match="made for 5 records"):
        WithBoxes(Captions(("a",)), once)
    part_path(once, 1).write_bytes(b"no parquet")
    with pytest.raises(DataError, match="damaged"):
        read_parts(once)
