"""Captions measured: words, ways of writing, the nearest-neighbour baseline."""

import json
import sys

import pytest
import torch

from wordregion.data.captions import CaptionCollator
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.evaluate.caption import evaluate_captions, measured, nearest_captions, scorers, words
from wordregion.models.zoo import albef_tiny_conv, for_captioning, for_retrieval
from wordregion.schema import Grounding, Sample


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's dog, running - fast!", "a man 's dog running fast"),
        ("They don't see the T-shirt (red).", "they do n't see the t-shirt red"),
        ('two people; one says "hi" at 3:30', "two people one says hi at 3:30"),
        ("It\u2019s 1,000 birds", "it 's 1,000 birds"),
        ("I don't. Can't, won't!", "i do n't ca n't wo n't"),
        ("", ""),
    ],
)
def test_words(text, expected):
    assert " ".join(words(text)) == expected


def small():
    torch.manual_seed(0)
    return for_captioning(albef_tiny_conv(Tokenizer("scenes").vocab_size, width=32)).eval()


def settings():
    plain = EvalTransform(64, (0.5,) * 3, (0.5,) * 3)
    return CaptionCollator(Tokenizer("scenes", max_tokens=40)), plain


def scenes(split="val", size=6):
    return Scenes(split, size, image_size=64, captions=2)


def test_every_image_gets_a_caption_in_each_way_and_each_way_its_measures():
    pytest.importorskip("pycocoevalcap")
    model = small().train()
    found = evaluate_captions(
        model, scenes(), *settings(), beams=(1, 2), neighbours=lambda: scenes("train", 5), batch=4, progress=False
    )
    assert set(found.metrics) == {f"raw/{w}/{m}" for w in ("greedy", "beam2", "nearest") for m in ("BLEU-4", "CIDEr")}
    assert all(len(texts) == 6 for texts in found.predictions.values())
    assert found.items == "6 images"
    assert model.training
    whole = evaluate_captions(model, scenes(), *settings(), beams=(2,), batch=6, progress=False)
    assert whole.predictions["beam2"] == found.predictions["beam2"]
    assert json.loads(found.to_json())["ids"][0] == scenes()[0].id
    assert found.results("greedy")[1] == {"image_id": scenes()[1].id, "caption": found.predictions["greedy"][1]}


def test_people_s_own_words_get_full_marks_and_others_little():
    measures = pytest.importorskip("pycocoevalcap") and scorers()
    people = [("A dog runs on the beach.", "a dog on sand"), ("Two cats sleep in a box.",), ("A red kite in the sky",)]
    own = measured([texts[0] for texts in people], people, measures)
    other = measured(["two cats sleep in a box", "a red kite in the sky", "a dog runs"], people, measures)
    assert own["BLEU-4"] == pytest.approx(100)
    assert own["CIDEr"] > 300
    assert other["CIDEr"] < 20


def test_references_without_a_word_are_refused_and_captions_without_one_score_nothing():
    measures = pytest.importorskip("pycocoevalcap") and scorers()
    with pytest.raises(UsageError, match="no reference caption has a word"):
        measured(["..."], [["!!!"]], measures)
    assert measured(["..."], [["a dog"]], measures) == {"BLEU-4": 0, "CIDEr": 0}


def test_a_model_that_gives_nan_writes_nothing():
    pytest.importorskip("pycocoevalcap")
    sick = small()
    for parameter in sick.heads.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    for width in (1, 2):
        with pytest.raises(UsageError, match="log-probabilities are not finite"):
            evaluate_captions(sick, scenes(), *settings(), beams=(width,), batch=6, progress=False)


class Pictures:
    """Plain pictures with captions."""

    name = "pictures"

    def __init__(self, *records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def where(self, index):
        return f"pictures, {index}"

    def __getitem__(self, index):
        value, texts = self.records[index]
        image = torch.full((3, 64, 64), value)
        return Sample(str(index), (image,), texts, tuple(Grounding(text=i) for i in range(len(texts))))


def test_the_nearest_image_gives_its_most_typical_caption():
    def encode(image):
        return image.mean((1, 2, 3))[:, None, None] * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 1.0])

    model = small()
    model.encode_image = encode
    known = Pictures(
        (1.0, ("a bright day", "a very bright day", "something else")), (0.0, ("a dark night",)), (0.5, ("grey",))
    )
    asked = Pictures((0.9, ("?",)), (0.1, ("?",)))
    found = nearest_captions(model, asked, known, settings()[0], lambda s, rng: s, images=1, progress=False)
    assert found[0] in ("a bright day", "a very bright day")
    assert found[1] == "a dark night"


def test_images_without_a_place_have_no_nearest_one():
    model = small()
    model.encode_image = lambda image: torch.full((len(image), 1, 2), float("nan"))
    known = Pictures((1.0, ("a bright day",)), (0.0, ("a dark night",)))
    with pytest.raises(UsageError, match="image summaries are not finite"):
        nearest_captions(model, known, known, settings()[0], lambda s, rng: s, progress=False)


def test_wrong_use_is_one_line():
    with pytest.raises(UsageError, match="beams"):
        evaluate_captions(small(), scenes(), *settings(), beams=(0,))
    with pytest.raises(UsageError, match="masked-word head"):
        evaluate_captions(for_retrieval(albef_tiny_conv(60, width=32)), scenes(), *settings())


def test_without_pycocoevalcap_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(UsageError, match=r"wordregion\[caption\]"):
        scorers()
