"""False captions: what they are, and a cache that is the same however it was made."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from wordregion.data import negatives
from wordregion.data.collate import Collator
from wordregion.data.masked_lm import open_lm, train_lm
from wordregion.data.negatives import (
    GeneratedContests,
    NegGen,
    Row,
    WithNegatives,
    alike,
    choose,
    make_part,
    make_rows,
    propose,
    read_parts,
    replaceable,
    version_of,
)
from wordregion.data.parts import part_path, start_cache
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import DataError, UsageError
from wordregion.neggen import examples, run_neggen, summarise
from wordregion.schema import Grounding, Sample

NOUNS = {"dog", "cat", "bird", "mat", "roof"}
ADJECTIVES = {"red", "blue", "green"}
CAPTIONS = [
    f"a {colour} {thing} sits on the {place}" for colour in ADJECTIVES for thing in ("dog", "cat") for place in ("mat",)
]


def tagger(texts):
    tags = {**dict.fromkeys(NOUNS, "NOUN"), **dict.fromkeys(ADJECTIVES, "ADJ")}
    return [[(m.start(), m.end(), tags.get(m[0].lower(), "X")) for m in re.finditer(r"\w+|[^\w\s]", t)] for t in texts]


class Pets:
    """Records of two captions each; record 3 is broken."""

    name = "pets"

    def __init__(self, size=5):
        self.size = size

    def __len__(self):
        return self.size

    def where(self, index):
        return f"pets, record {index}"

    def __getitem__(self, index):
        if index == 3:
            raise DataError(self.where(index), "image", "is damaged", "Replace it")
        texts = (sorted(CAPTIONS)[index % len(CAPTIONS)], "The red bird is on the roof.", "left out")
        image = Image.new("RGB", (16, 16), (40 * index, 0, 0))
        return Sample(f"pet{index}", (image,), texts, (Grounding(0), Grounding(1), Grounding(2, ((0, 0, 1, 1),))))


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "lm"
    texts = [f"a {c} {t} sits on the {p}" for c in sorted(ADJECTIVES) for t in sorted(NOUNS) for p in sorted(NOUNS)]
    train_lm(texts, folder, steps=30, batch=16, width=64, layers=1, lr=5e-3)
    return open_lm(folder)


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(negatives, "CHUNK", 2)
    monkeypatch.setattr("wordregion.neggen.CHUNK", 2)


def make(folder, lm, settings=None, judge=None, data=None):
    return run_neggen(
        data or Pets(), folder, settings or NegGen(), tagger, "test 1", lm, judge, judge and "judge 1", progress=False
    )


def digests(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_half_of_the_nouns_and_adjectives_are_chosen():
    text = "a red dog and a blue cat on the mat"
    [words] = tagger([text])
    spans = replaceable(text, words)
    assert [text[b:e] for b, e in spans] == ["red", "dog", "blue", "cat", "mat"]
    rng = np.random.default_rng(0)
    counts = np.zeros(5)
    for _ in range(2000):
        chosen = choose(spans, 0.5, rng)
        assert chosen == sorted(chosen)
        assert len(chosen) == 2
        counts += [span in chosen for span in spans]
    assert counts / 2000 == pytest.approx([0.4] * 5, abs=0.05)  # every one as often
    assert len(choose(spans[:1], 0.5, rng)) == 1  # at least one
    assert len(choose(spans, 1.0, rng)) == 5


def test_words_of_letters_alone_are_replaced_and_long_texts_left_alone():
    assert replaceable("t-shirt 7up", [(0, 7, "NOUN"), (8, 11, "NOUN")]) == []
    long = "dog " * 70
    assert replaceable(long, tagger([long])[0]) == []


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_no_text_is_the_original_or_another_true_caption_or_said_twice(lm, share):
    text = "A red dog sits on the mat."
    others = [text, "a BLUE cat sits, on the roof", "a green bird sits on the roof"]
    seen = set()
    for seed in range(30):
        [found] = propose([(0, 0, text)], [others], tagger, lm, NegGen(count=4, share=share, top=4, seed=seed))
        assert len({alike(new) for new in found}) == len(found)
        for new in found:
            assert alike(new) not in {alike(other) for other in others}
            assert len(new.split()) == len(text.split())
            assert new.endswith(".")
        seen |= set(found)
    assert len(seen) > 3


def test_a_text_without_nouns_or_adjectives_has_no_false_ones(lm):
    assert propose([(0, 0, "it is there")], [["it is there"]], tagger, lm, NegGen()) == [[]]


def test_the_seed_decides(lm):
    given = [(7, 0, "a red dog sits on the mat"), (7, 1, "a red dog sits on the mat")]
    true = [[text] for _, _, text in given]
    first = propose(given, true, tagger, lm, NegGen(seed=1))
    assert first == propose(given, true, tagger, lm, NegGen(seed=1))
    assert first != propose(given, true, tagger, lm, NegGen(seed=2))
    assert first[0] != first[1]  # another number, other draws


def test_the_filter_drops_what_it_takes_for_true(lm):
    asked = []

    def judge(samples, texts):
        asked.extend(sample.id for sample in samples)
        return [[0.9 if "cat" in text else 0.1 for text in own] for own in texts]

    rows = make_rows([(0, Pets()[0]), (1, Pets()[1])], tagger, lm, judge, NegGen(count=6, top=4))
    assert asked == ["pet0", "pet1"]
    assert all("cat" not in text for row in rows for text in row.kept)
    assert all("cat" in text for row in rows for text in row.dropped)
    assert any(row.dropped for row in rows)
    assert {score for row in rows for score in row.kept_scores} == {0.1}
    assert [row.score for row in rows] == [0.9 if "cat" in row.text else 0.1 for row in rows]
    assert [row.text for row in rows] == [t for i in range(2) for t in Pets()[i].texts[:2]]  # whole-image captions
    exact = make_rows([(0, Pets()[0])], tagger, lm, lambda s, t: [[0.5 for _ in own] for own in t], NegGen())
    assert not exact[0].kept  # the threshold itself is dropped


def test_a_cache_resumes_to_the_same_files(lm, tmp_path, small_files):
    whole = make(tmp_path / "whole", lm)
    expected = digests(tmp_path / "whole")
    assert len(expected) == 3
    version = version_of(Pets(), NegGen(), "test 1", lm.fingerprint(), None)
    start_cache(tmp_path / "stopped", version)
    make_part(tmp_path / "stopped", 1, Pets(), tagger, lm, None, NegGen())  # another process got so far
    time = part_path(tmp_path / "stopped", 1).stat().st_mtime_ns
    again = make(tmp_path / "stopped", lm)
    assert digests(tmp_path / "stopped") == expected
    assert part_path(tmp_path / "stopped", 1).stat().st_mtime_ns == time
    assert again == whole
    assert whole.broken == 1
    assert whole.captions == 8


def test_another_version_is_refused_by_name(lm, tmp_path, small_files):
    make(tmp_path / "cache", lm)
    for settings in (NegGen(seed=1), NegGen(threshold=0.4), NegGen(count=2)):
        with pytest.raises(UsageError, match=r"was made with (seed|threshold|count) ="):
            make(tmp_path / "cache", lm, settings)
    with pytest.raises(UsageError, match="was made with records ="):
        make(tmp_path / "cache", lm, data=Pets(4))
    with pytest.raises(UsageError, match="was made with filter ="):
        make(tmp_path / "cache", lm, judge=lambda s, t: [[0.0] * len(own) for own in t])


def test_the_report_has_counts_histogram_and_examples(lm, tmp_path, small_files):
    made = make(
        tmp_path / "c", lm, NegGen(count=6), lambda s, t: [[i / len(own) for i in range(len(own))] for own in t]
    )
    content = json.loads((tmp_path / "c" / "report.json").read_text())
    assert content["summary"]["kept"] == made.kept
    assert sum(made.histogram) == made.kept + made.dropped
    assert sum(made.true_histogram) == made.captions
    assert made.share_dropped == pytest.approx(made.dropped / (made.kept + made.dropped))
    assert len(content["examples"]) == min(50, made.kept + made.dropped)
    page = (tmp_path / "c" / "report.html").read_text()
    assert content["examples"][0]["true"] in page
    assert "true captions that it knows" in page
    assert "<script" not in page


def test_examples_are_spread_and_both_kept_and_dropped():
    rows = [Row(i, str(i), f"true {i}", (f"kept {i}",), (0.25,), (f"dropped {i}",), (0.75,), 0.97) for i in range(100)]
    picked = examples(rows)
    assert len(picked) == 50
    assert picked[0] == ("true 0", "kept 0", 0.25, True)
    assert picked[-1][0] == "true 98"
    made = summarise(rows, (), "v")
    assert made.histogram[5] == made.histogram[15] == made.true_histogram[19] == 100


def test_samples_carry_the_false_texts_of_their_captions(lm, tmp_path, small_files):
    make(tmp_path / "cache", lm)
    data = WithNegatives(Pets(), tmp_path / "cache")
    rows, _ = read_parts(tmp_path / "cache")
    sample = data[1]
    assert sample.texts[:3] == Pets()[1].texts
    assert sample.captions() == (0, 1)
    for caption in (0, 1):
        [row] = [row for row in rows if row.index == 1 and row.text == sample.texts[caption]]
        assert tuple(sample.texts[i] for i in sample.negatives[caption]) == row.kept
    with pytest.raises(DataError):
        data[3]
    with pytest.raises(UsageError, match="made from 5 records"):
        WithNegatives(Pets(4), tmp_path / "cache")

    class Renamed(Pets):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return Sample("other", sample.images, sample.texts, sample.groundings)

    with pytest.raises(DataError, match="false captions were made for"):
        WithNegatives(Renamed(), tmp_path / "cache")[0]


def test_each_caption_with_false_ones_is_a_contest(lm, tmp_path, small_files):
    make(tmp_path / "cache", lm)
    contests = GeneratedContests(Pets(), tmp_path / "cache")
    rows = [row for row in read_parts(tmp_path / "cache")[0] if row.kept]
    assert [(c.texts[0], c.texts[1:]) for c in map(contests.__getitem__, range(len(contests)))] == [
        (row.text, row.kept) for row in rows
    ]
    sample = contests[0]
    assert sample.captions() == (0,)
    assert sample.target["kind"] == "generated"
    assert contests.where(0) == Pets().where(rows[0].index)


def test_a_cache_that_is_missing_unfinished_or_damaged_says_so(lm, tmp_path, small_files):
    with pytest.raises(UsageError, match="no cache"):
        WithNegatives(Pets(), tmp_path)
    make(tmp_path / "cache", lm)
    part_path(tmp_path / "cache", 1).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged"):
        WithNegatives(Pets(), tmp_path / "cache")
    part_path(tmp_path / "cache", 1).unlink()
    with pytest.raises(UsageError, match="missing"):
        WithNegatives(Pets(), tmp_path / "cache")


def test_the_files_say_what_is_in_them(lm, tmp_path, small_files):
    make(tmp_path / "cache", lm)
    table = pq.read_table(part_path(tmp_path / "cache", 1))
    assert table.column("index").to_pylist() == [2, 2]
    assert "pets, record 3" in json.loads(table.schema.metadata[b"broken"])[0]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"share": 0}, {"share": 1.5}, {"threshold": 0}, {"seed": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        NegGen(**wrong)


def test_the_collator_draws_them_without_changing_anything_else():
    scenes = Scenes("train", 6, image_size=32, negatives=4)
    transform = EvalTransform(32)
    tokenizer = Tokenizer("scenes", max_tokens=25)

    def batch(count, seed=0):
        items = [(i, transform(scenes[i]), np.random.default_rng([seed, i])) for i in range(6)]
        return Collator(tokenizer, Masking(0.3), negatives=count, pad_to_max=True)(items)

    without, two = batch(0), batch(2)
    assert without.negative_ids is None
    for name in ("token_ids", "masked_ids", "labels", "words"):
        assert torch.equal(getattr(without, name), getattr(two, name))
    assert torch.equal(batch(2).negative_ids, two.negative_ids)
    assert two.negative_text.tolist() == sorted(two.negative_text.tolist())
    assert max(torch.bincount(two.negative_text)) == 2
    for ids, row in zip(two.negative_ids, two.negative_text, strict=True):
        true = tokenizer.decode(two.token_ids[row].tolist())
        false = tokenizer.decode(ids.tolist())
        assert false != true
        assert sorted(false.split()) == sorted(true.split())  # the scenes' false texts use the same words
    special = torch.tensor(sorted(tokenizer.special_ids))
    assert torch.equal(without.words, ~torch.isin(without.token_ids, special))


def test_scenes_are_the_same_with_and_without_negatives():
    plain, more = Scenes("train", 8, image_size=32), Scenes("train", 8, image_size=32, negatives=2)
    for index in range(8):
        one, other = plain[index], more[index]
        assert other.texts[: len(one.texts)] == one.texts
        assert other.groundings == one.groundings
        assert one.negatives == {}
        assert set(other.negatives) == set(other.captions())
        assert other == more[index]
