"""Groundings with boxes as a batch of phrases."""

import numpy as np
import pytest
import torch

from wordregion.data.phrases import PhraseCollator
from wordregion.data.scene_phrases import ScenePhrases
from wordregion.data.tokens import Tokenizer
from wordregion.schema import Grounding, Sample

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
TOKENIZER = Tokenizer("scenes", max_tokens=8)


def sample(texts, groundings, **target):
    return Sample("s", (torch.zeros(3, 8, 8),), texts, groundings, target)


def collate(samples, phrases="alone"):
    rng = np.random.default_rng(0)
    return PhraseCollator(TOKENIZER, phrases)([(10 + i, s, rng) for i, s in enumerate(samples)])


@pytest.fixture
def samples():
    caption = "a red circle left of a blue square"
    first = sample(
        (caption, "a red circle"),
        (
            Grounding(text=0),
            Grounding(text=0, span=(2, 12), boxes=(LEFT, RIGHT)),
            Grounding(text=0, span=(23, 34), boxes=(RIGHT,)),
            Grounding(text=1, boxes=(LEFT,)),
        ),
        splits=("val", "testA"),
    )
    return [first, sample(("nothing",), (Grounding(text=0),)), sample(("a red circle",), (Grounding(0, (LEFT,)),))]


def words(batch, row):
    return TOKENIZER.decode([int(i) for i in batch.token_ids[batch.grounding_text[row]][batch.grounding_tokens[row]]])


def test_phrases_alone(samples):
    batch = collate(samples)
    assert batch.target["phrase"] == ["red circle", "blue square", "a red circle", "a red circle"]
    assert batch.target["split"] == ["val", "val", "testA", None]
    assert batch.target["proposals"] == [None, None, None]
    assert batch.image_key.tolist() == [10, 11, 12]
    assert batch.text_image.tolist() == [0, 0, 0, 2]  # one text an image and wording
    assert batch.box_grounding.tolist() == [0, 0, 1, 2, 3]
    assert [words(batch, row) for row in range(4)] == batch.target["phrase"]
    assert batch.grounding_tokens[0].sum() == 4  # with [CLS] and [SEP]


def test_phrases_in_their_captions(samples):
    batch = collate(samples, "in_caption")
    assert batch.text_image.tolist() == [0, 0, 2]
    assert batch.grounding_text.tolist() == [0, 0, 1, 2]
    assert words(batch, 0) == "red circle"
    assert batch.grounding_tokens[0].sum() == 2
    assert words(batch, 1) == "a red circle left of a"  # cut off: all of the caption that is left


def test_a_batch_without_any_box(samples):
    batch = collate(samples[1:2])
    assert batch.token_ids.shape[0] == len(batch.grounding_text) == len(batch.box) == 0
    assert batch.image.shape == (1, 3, 8, 8)


def test_scene_phrases_name_one_thing_each():
    data = ScenePhrases("val", 8, image_size=32)
    found = data[3]
    record = data.scenes.record(3)
    things = len(record.scene.things)
    assert found.captions() == tuple(range(len(found.texts)))
    boxed = [g for g in found.groundings if g.boxes]
    assert len(boxed) == things
    assert tuple(g.boxes[0] for g in boxed) == found.target["proposals"]
    for grounding, thing in zip(boxed, record.scene.things, strict=True):
        assert thing.colour in found.texts[grounding.text]
        assert thing.shape in found.texts[grounding.text]
    assert len({found.texts[g.text] for g in boxed}) == things
    assert data.where(3) == "scenes (val, seed 0), index 3"
