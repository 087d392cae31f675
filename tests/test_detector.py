"""A detector's answers: the model's own, however questions are put together."""

import numpy as np
import pytest
import torch

from tests.models.grounders import WIDTH, small_grounder
from wordregion.data.ground_collate import PictureCollator
from wordregion.data.prompts import Prompt, token_map
from wordregion.data.tokens import Tokenizer
from wordregion.detector import Detector, Found
from wordregion.models.detect import Thresholds, detect
from wordregion.nn.text import TextEncoder, bert_config
from wordregion.schema import Sample

TOKENIZER = Tokenizer("scenes", max_tokens=24, clean=False)
SIZES = [(140, 160), (160, 130), (100, 100)]  # the coarsest level has more than one cell
CLASSES = Prompt("red circle. blue square. star", {4: (0, 10), 0: (12, 23), 9: (25, 29)})
CAPTION = Prompt("a green star above a cross", {1: (2, 12)})


@pytest.fixture(scope="module")
def model():
    model = small_grounder()
    model.text = TextEncoder(bert_config(TOKENIZER.vocab_size, WIDTH, 1, 2, max_tokens=64, dropout=0.0))
    model.eval()
    torch.nn.init.constant_(model.head.bias, -1.0)  # untrained, it would find nothing
    torch.nn.init.normal_(model.head.box.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    samples = [Sample(f"n{i}", (torch.randn(3, *size, generator=generator),), ()) for i, size in enumerate(SIZES)]
    return PictureCollator(TOKENIZER)([(i, s, np.random.default_rng(0)) for i, s in enumerate(samples)])


QUESTIONS = [(0, CLASSES), (1, CLASSES), (2, CAPTION), (0, CAPTION)]


def test_an_answer_is_the_models_own(model, batch) -> None:
    found = Detector(model, TOKENIZER)(batch, QUESTIONS)[1]
    encoded = TOKENIZER([CLASSES.text])
    tokens = torch.stack([token_map(encoded.offsets[0], [span]) for span in CLASSES.spans.values()])
    with torch.no_grad():
        [own] = detect(model(batch.image[1:2], encoded.ids, encoded.mask), [tokens], [SIZES[1]])
    assert len(found) == len(own.score) > 5
    order = own.score.argsort(descending=True)
    torch.testing.assert_close(found.score, own.score[order], rtol=1e-4, atol=1e-5)
    assert set(found.label.tolist()) <= {0, 4, 9}
    height, width = SIZES[1]
    ends = own.box[order] + torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(found.box, ends / torch.tensor([width, height] * 2), rtol=1e-3, atol=1e-4)
    assert found.box.min() >= 0
    assert found.box.max() <= 1


def test_how_questions_are_put_together_changes_nothing_and_a_picture_is_encoded_once(
    model, batch, monkeypatch
) -> None:
    encoded = []
    encode = type(model).encode_image
    monkeypatch.setattr(
        type(model), "encode_image", lambda self, image: encoded.append(len(image)) or encode(self, image)
    )
    together = Detector(model, TOKENIZER)(batch, QUESTIONS)
    assert encoded == [3]
    alone = Detector(model, TOKENIZER, at_once=1)(batch, QUESTIONS)
    assert encoded == [3, 3]
    for a, b in zip(together, alone, strict=True):
        assert len(a) == len(b)
        torch.testing.assert_close(a.score, b.score, rtol=1e-4, atol=1e-5)
    assert Detector(model, TOKENIZER)(batch, []) == []


def test_thresholds_hold(model, batch) -> None:
    keep = Thresholds(score=0.2, most=3)
    found = Detector(model, TOKENIZER, keep)(batch, QUESTIONS)
    assert all(len(answer) == 3 for answer in found)
    assert all((answer.score.diff() <= 0).all() for answer in found)


def test_joined_answers_are_in_order() -> None:
    a = Found(torch.eye(4)[:2], torch.tensor([0.9, 0.1]), torch.tensor([0, 1]))
    b = Found(torch.eye(4)[2:], torch.tensor([0.5, 0.1]), torch.tensor([2, 3]))
    assert Found.joined([a, b]).label.tolist() == [0, 2, 1, 3]
    assert Found.joined([a, b], 2).label.tolist() == [0, 2]
    assert a.over(0.5).label.tolist() == [0]
