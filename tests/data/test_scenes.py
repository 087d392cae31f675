"""The built-in data set: what its texts say is true, its splits are disjoint, and words alone are not enough."""

import hashlib
import pickle
import subprocess
import sys
from collections import Counter, defaultdict
from importlib.resources import files

import numpy as np
import pytest
from PIL import ImageChops
from tokenizers import BertWordPieceTokenizer

from wordregion.data import scene_graph, scene_text
from wordregion.data.scene_render import box_of, render
from wordregion.data.scene_text import words_of
from wordregion.data.scenes import (
    SceneEntailment,
    SceneNegatives,
    ScenePairs,
    SceneQuestions,
    Scenes,
    build_vocab,
)
from wordregion.errors import UsageError

VIEWS = (SceneQuestions, SceneEntailment, ScenePairs, SceneNegatives)
SPLITS = ("train", "val")
BLIND = ("relation", "binding", "spatial")
VOCAB = files("wordregion.data") / "scenes_vocab.txt"

DIGEST = """
import hashlib
from wordregion.data.scenes import *
digest = hashlib.sha256()
for kind in (Scenes, SceneQuestions, SceneEntailment, ScenePairs, SceneNegatives):
    for split in ("train", "val"):
        data = kind(split, 8, seed=3, image_size=32)
        samples = {i: data[i] for i in ORDER}
        for i in range(8):
            s = samples[i]
            digest.update(repr((s.id, s.texts, s.groundings, s.target)).encode())
            for image in s.images:
                digest.update(image.tobytes())
print(digest.hexdigest())
"""


def looks(scene):
    return frozenset((t.colour, t.shape) for t in scene.things)


def vocabulary(sample):
    return {word for text in (*sample.texts, sample.target.get("premise", "")) for word in words_of(text)}


@pytest.fixture(scope="module")
def train():
    data = Scenes("train", size=2000)
    return [data.record(i) for i in range(len(data))]


@pytest.fixture(scope="module")
def val():
    data = Scenes("val", size=256)
    return [data.record(i) for i in range(len(data))]


def test_record_depends_only_on_seed_split_and_index():
    digests = set()
    for order, hash_seed in (("range(8)", "1"), ("reversed(range(8))", "2")):
        command = [sys.executable, "-c", DIGEST.replace("ORDER", order)]
        run = subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1
    assert Scenes(seed=0, size=9).record(3) == Scenes(seed=0, size=20).record(3) != Scenes(seed=1).record(3)
    assert Scenes("val", size=5).record(4) == Scenes("val", size=30).record(4)


def test_survives_the_way_to_a_loader_process():
    for kind in (Scenes, *VIEWS):
        data = kind("val", size=4, image_size=32)
        again = pickle.loads(pickle.dumps(data))
        assert again[3].texts == data[3].texts
        assert again.where(3) == data.where(3)


def test_compositions_of_train_and_validation_are_disjoint(train, val):
    assert {looks(r.scene) for r in train}.isdisjoint(looks(r.scene) for r in val)
    assert all(scene_graph.split_of(r.scene.things) == "train" for r in train)
    assert all(scene_graph.split_of(r.scene.things) == "val" for r in val)
    seen = {frozenset((a, b)) for r in train for a in looks(r.scene) for b in looks(r.scene) if a != b}
    for record in val:  # two things that are never seen together in training
        pairs = {frozenset((a, b)) for a in looks(record.scene) for b in looks(record.scene) if a != b}
        assert pairs - seen


@pytest.mark.parametrize("kind", VIEWS)
def test_views_keep_to_their_side_of_the_split(kind):
    for split in SPLITS:
        data = kind(split, size=120)
        for index in range(120):
            for scene in data.groups.item(index).scenes:
                assert scene_graph.valid(scene.things, split)


def test_every_attribute_and_word_of_validation_occurs_in_training(train):
    assert {look for r in train for look in looks(r.scene)} == {
        (c, s) for c in scene_graph.COLOURS for s in scene_graph.SHAPES
    }
    assert {(t.size, t.texture) for r in train for t in r.scene.things} == {
        (z, t) for z in scene_graph.SIZES for t in scene_graph.TEXTURES
    }
    for kind in (Scenes, *VIEWS):
        known, asked = (
            {word for i in range(n) for word in vocabulary(kind(split, size=n, image_size=16)[i])}
            for split, n in (("train", 700), ("val", 60))
        )
        assert asked <= known, kind


def test_a_scene_can_have_five_things():
    scene = scene_graph.draw_scene(scene_graph.generator("test", 0, "train", 0), "train", count=5)
    assert len(scene.things) == 5


def test_captions_are_true_distinct_and_short(train, val):
    for record in (*train[:300], *val):
        texts = [scene_text.say(claim).text for claim in record.captions]
        assert len(set(texts)) == 3
        assert all(scene_text.true_of(claim, record.scene) for claim in record.captions)


def test_a_validation_caption_is_true_of_its_own_scene_only(val):
    texts = Counter(scene_text.say(claim).text for r in val for claim in r.captions)
    assert max(texts.values()) == 1
    for i, record in enumerate(val):
        for claim in record.captions:
            assert [j for j, other in enumerate(val) if scene_text.true_of(claim, other.scene)] == [i]


def test_relations_are_antisymmetric_and_survive_the_mirror(train):
    for record in train[:200]:
        scene = record.scene
        for a in range(len(scene.things)):
            for b in range(a):
                for relation in scene_graph.relations(scene, a, b):
                    opposite = scene_graph.OPPOSITE[relation]
                    assert opposite in scene_graph.relations(scene, b, a)
                    assert scene_graph.may_hold(scene, a, relation, b)
                    if opposite != relation:
                        assert not scene_graph.may_hold(scene, a, opposite, b)
                    if relation in ("left", "right"):
                        assert opposite in scene_graph.relations(scene.mirrored("x"), a, b)


@pytest.mark.parametrize("split", SPLITS)
def test_sample_has_captions_phrases_and_boxes(split):
    data = Scenes(split, size=40, image_size=64)
    for index in range(40):
        sample, things = data[index], data.record(index).scene.things
        assert sample.images[0].size == (64, 64)
        assert sample.images[0].mode == "RGB"
        assert sample.captions() == (0, 1, 2)
        boxes = {box_of(t): t for t in things}
        for grounding in sample.groundings:
            for x0, y0, x1, y1 in grounding.boxes:
                assert 0 <= x0 < x1 <= 1
                assert 0 <= y0 < y1 <= 1
            if grounding.span is not None:
                begin, end = grounding.span
                phrase, thing = sample.texts[grounding.text][begin:end], boxes[grounding.boxes[0]]
                assert phrase.split()[0] in ("a", "the")
                assert phrase.endswith(f"{thing.colour} {thing.shape}")
        regions = {g.text: g for g in sample.groundings if g.span is None and g.boxes}
        assert len(sample.texts) == 3 + len(regions)
        assert len(regions) >= len(things)


def test_boxes_hug_what_is_drawn(train):
    size = 128
    for record in train[:60]:
        things = record.scene.things
        free = [t for t in things if t.host is None and not any(o.host is not None for o in things)]
        for thing in free:
            without = scene_graph.Scene(tuple(t for t in things if t != thing), record.scene.background)
            drawn = ImageChops.difference(render(record.scene, size), render(without, size)).getbbox()
            shadow = 0.02 * size
            for edge, (seen, box) in enumerate(zip(drawn, box_of(thing), strict=True)):
                assert abs(seen - box * size) <= (1.5 if edge < 2 else 1.5 + shadow), (thing, drawn, box_of(thing))


def test_vocabulary_file_holds_every_word():
    assert VOCAB.read_text().split("\n")[:-1] == list(build_vocab())
    assert len(set(build_vocab())) == len(build_vocab()) < 400
    assert build_vocab()[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = BertWordPieceTokenizer(str(VOCAB))
    for kind in (Scenes, *VIEWS):
        for split in SPLITS:
            data = kind(split, size=200, image_size=16)
            for sample in map(data.__getitem__, range(200)):
                captions = sample.captions()
                for i, text in enumerate(sample.texts):
                    encoded = tokenizer.encode(text)
                    assert "[UNK]" not in encoded.tokens
                    assert not any(token.startswith("##") for token in encoded.tokens)
                    assert i not in captions or len(encoded.tokens) <= scene_text.MAX_TOKENS
                answers = sample.target.get("answers", {})
                assert set(answers) <= set(scene_text.ANSWERS) <= set(build_vocab())


def questions(split, size=700):
    data = SceneQuestions(split, size=size)
    return [(data.groups.kind(i), data.groups.item(i)) for i in range(size)]


def oracle(kind, question, scene):
    """The answer read off the scene graph, independently of how the question was made."""
    words = words_of(question)
    things = scene.things
    colours = [w for w in words if w in scene_graph.COLOURS]
    shapes = [w for w in words if w in scene_graph.SHAPES]
    yes = {True: "yes", False: "no"}
    if kind == "colour":
        (thing,) = (t for t in things if t.shape == shapes[0])
        return thing.colour
    if kind == "shape":
        (thing,) = (t for t in things if t.colour == colours[0])
        return thing.shape
    if kind == "count":
        return str(sum(t.colour == colours[0] for t in things))
    if kind == "exists":
        return yes[(colours[0], shapes[0]) in looks(scene)]
    if kind == "binding":
        said = [w for w in words if w in scene_graph.COLOURS + scene_graph.TEXTURES]
        by_shape = {t.shape: (t.colour, t.texture) for t in things}
        return yes[all(value in by_shape[shape] for shape, value in zip(shapes, said, strict=True))]
    if kind == "spatial":
        nearest = {
            "left": lambda t: t.x,
            "right": lambda t: -t.x,
            "top": lambda t: t.y,
            "bottom": lambda t: -t.y,
        }[words[words.index("nearest") + 2]]
        return min(things, key=nearest).colour
    a, b = (next(t for t in things if (t.colour, t.shape) == look) for look in zip(colours, shapes, strict=True))
    if "left" in words:
        return yes[a.x < b.x]
    if "right" in words:
        return yes[a.x > b.x]
    return yes[a.y < b.y if {"above", "over"} & set(words) else a.y > b.y]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right(split):
    asked = questions(split)
    assert {kind for kind, _ in asked} == set(SceneQuestions.kinds)
    for kind, item in asked:
        assert oracle(kind, item.texts[0], item.scenes[0]) == item.answer, (kind, item)


@pytest.mark.parametrize("split", SPLITS)
def test_words_and_attributes_without_their_binding_leave_relation_binding_and_spatial_at_chance(split):
    """The best possible predictor from (bag of words, bag of attributes) is right half of the time."""
    answers = defaultdict(Counter)
    for kind, item in questions(split):
        if kind in BLIND:
            attributes = Counter(a for t in item.scenes[0].things for a in t.look())
            key = (kind, tuple(sorted(words_of(item.texts[0]))), tuple(sorted(attributes.items())))
            answers[key][item.answer] += 1
    best = sum(max(counts.values()) for counts in answers.values())
    assert best / sum(sum(counts.values()) for counts in answers.values()) == 0.5


def test_relation_questions_even_show_the_same_things():
    asked = questions("train")
    for (kind, one), (_, other) in zip(asked[::2], asked[1::2], strict=True):
        assert one.texts == other.texts
        assert one.answer != other.answer
        if kind in ("relation", "spatial"):
            assert Counter(t.look() for t in one.scenes[0].things) == Counter(t.look() for t in other.scenes[0].things)


def test_logistic_regression_on_words_is_at_chance():
    """Fitted on training questions of yes or no, tried on validation: words, attributes shown, and their products."""
    index = {word: i for i, word in enumerate(build_vocab())}

    def features(split, size):
        rows, labels = [], []
        for kind, item in questions(split, size):
            if kind in ("relation", "binding"):
                text, shown = np.zeros(len(index)), np.zeros(len(index))
                for word in words_of(item.texts[0]):
                    text[index[word]] += 1
                for thing in item.scenes[0].things:
                    for word in thing.look():
                        shown[index[word]] += 1
                rows.append(np.concatenate([text, shown, text * shown]))
                labels.append(item.answer == "yes")
        return np.array(rows), np.array(labels, dtype=float)

    x, y = features("train", 2800)
    weights = np.zeros(x.shape[1])
    for _ in range(200):
        weights -= 0.5 / len(y) * (x.T @ (1 / (1 + np.exp(-x @ weights)) - y) + 0.01 * weights)
    x, y = features("val", 1400)
    assert abs(((x @ weights > 0) == y).mean() - 0.5) < 0.05


def test_entailment_has_one_sentence_with_all_three_labels():
    data = SceneEntailment("train", size=180)
    boxed = Counter()
    for group in range(60):
        items = [data.groups.item(3 * group + k) for k in range(3)]
        assert [item.answer for item in items] == [0, 1, 2]
        assert [data[3 * group + k].target["label"] for k in range(3)] == [2, 1, 0]  # as SNLI-VE's classes
        assert len({item.texts[0] for item in items}) == 1
        assert items[1].scenes[0].present is not None  # only a closed box leaves room for doubt
        boxed.update(item.answer for item in items if item.scenes[0].present is not None)
        kind = data.groups.kind(3 * group)
        words = words_of(items[0].texts[0])
        colours = [w for w in words if w in scene_graph.COLOURS]
        shapes = [w for w in words if w in scene_graph.SHAPES]
        for item in items:
            visible = item.scenes[0]
            if kind == "exists":
                assert ((colours[0], shapes[0]) in looks(visible)) == (item.answer == 0)
            elif kind == "nothing":
                assert any(t.colour == colours[0] for t in visible.things) == (item.answer == 2)
            elif item.answer != 1:
                question = " ".join(words)
                assert oracle("relation", question, visible) == ("yes" if item.answer == 0 else "no")
            else:
                assert (colours[1], shapes[1]) not in looks(visible)
    assert boxed[0] > 5  # a box alone does not mean neutral
    assert boxed[2] > 5


def holds(sentence, scene):
    words = words_of(sentence)
    asked = list(zip(*([w for w in words if w in s] for s in (scene_graph.COLOURS, scene_graph.SHAPES)), strict=True))
    return set(asked) <= looks(scene) and oracle("relation", sentence, scene) == "yes"


def test_pairs_have_one_sentence_true_and_false():
    data = ScenePairs("val", size=160)
    for index in range(160):
        item, kind = data.groups.item(index), data.groups.kind(index)
        left, right = item.scenes
        sentence = item.texts[0]
        words = words_of(sentence)
        assert sentence == data.groups.item(index ^ 1).texts[0]
        assert item.answer == 1 - index % 2
        if kind == "both":
            truth = holds(sentence, left) and holds(sentence, right)
        elif kind == "one":
            truth = holds(sentence, left) != holds(sentence, right)
        elif kind == "count":
            more = len(left.things) - len(right.things)
            truth = more > 0 if words[1] == "left" else more < 0
        else:
            colours = [w for w in words if w in scene_graph.COLOURS]
            shapes = [w for w in words if w in scene_graph.SHAPES]
            truth = (colours[0], shapes[0]) in looks(left) and (colours[1], shapes[1]) in looks(right)
        assert truth == bool(item.answer), (kind, item)


def test_negatives_say_something_false_in_the_same_words(train):
    kinds = Counter()
    for record in train[:150]:
        for claim in record.captions:
            for kind, wrong in scene_text.negatives(claim, record.scene):
                kinds[kind] += 1
                assert not scene_text.true_of(wrong, record.scene)
                assert sorted(words_of(scene_text.say(wrong).text)) == sorted(words_of(scene_text.say(claim).text))
    assert min(kinds["attribute"], kinds["relation"]) > 100
    sample = SceneNegatives("val", size=4)[1]
    assert sample.target == {"label": 0, "kind": "relation"}
    assert sample.captions() == (0,)
    assert sorted(words_of(sample.texts[0])) == sorted(words_of(sample.texts[1]))


def test_pictures_differ():
    data = Scenes(size=50, image_size=32)
    assert len({hashlib.sha256(data[i].images[0].tobytes()).digest() for i in range(50)}) == 50


@pytest.mark.parametrize("kind", [Scenes, *VIEWS])
def test_bad_settings_are_one_clear_line(kind):
    for bad in ({"split": "test"}, {"size": 0}, {"image_size": 4}):
        with pytest.raises(UsageError, match=str(next(iter(bad.values())))):
            kind(**bad)
    with pytest.raises(IndexError, match="out of range"):
        kind(size=3)[3]


def test_too_many_captions_are_refused():
    with pytest.raises(UsageError, match="captions is 9"):
        Scenes(captions=9)
