"""Batches of one sentence a sample."""

import numpy as np
import pytest
import torch

from wordregion.data.scenes import ScenePairs, SceneQuestions
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import DataError, UsageError
from wordregion.schema import Sample

TOKENIZER = Tokenizer("scenes")


def items(dataset, count):
    transform = EvalTransform(32)
    return [(i, transform(dataset[i]), np.random.default_rng(i)) for i in range(count)]


def test_two_pictures_a_sentence_stay_together():
    batch = SentenceCollator(TOKENIZER, needs=("label",), images=2)(items(ScenePairs("val", 4, image_size=32), 3))
    assert batch.image.shape == (6, 3, 32, 32)
    assert batch.text_image.tolist() == [0, 2, 4]
    second = 1 << 40
    assert batch.image_key.tolist() == [0, second, 1, 1 + second, 2, 2 + second]  # six pictures
    assert batch.target["label"].tolist() == [1, 0, 1]


def test_answers_are_tokens_with_weights_linked_to_their_question():
    samples = [(0, EvalTransform(32)(SceneQuestions("val", 2, image_size=32)[0]), np.random.default_rng(0))]
    two = Sample("q", samples[0][1].images, ("what ?",), target={"answers": {"red": 0.7, "blue circle": 0.3}})
    batch = SentenceCollator(TOKENIZER, answers=TOKENIZER)([*samples, (1, two, np.random.default_rng(1))])
    assert batch.target["answer_text"].tolist() == [0, 1, 1]
    assert torch.allclose(batch.target["answer_weight"], torch.tensor([1.0, 0.7, 0.3]))
    texts = [TOKENIZER.decode(ids.tolist()) for ids in batch.target["answer_ids"][1:]]
    assert texts == ["red", "blue circle"]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (Sample("a", (torch.zeros(3, 2, 2),), ()), "no sentence"),
        (Sample("a", (), ("a dog",), target={"label": 0}), "0 images instead of 1"),
        (Sample("a", (torch.zeros(3, 2, 2),), ("a dog",)), "label"),
        (Sample("a", (torch.zeros(3, 2, 2),), ("a dog",), target={"label": 1, "answers": {}}), "answers"),
    ],
)
def test_a_sample_that_lacks_something_is_named(sample, words):
    with pytest.raises(DataError, match=words):
        SentenceCollator(TOKENIZER, needs=("label",), answers=TOKENIZER).check(sample, "file.jsonl, line 3")


def test_no_images_at_all_is_refused():
    with pytest.raises(UsageError, match="images=0"):
        SentenceCollator(TOKENIZER, images=0)
