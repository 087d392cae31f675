"""Compositional accuracy by hand, and a tiny model on one process and two."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion.data.scenes import SceneNegatives
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import DataError, UsageError
from wordregion.evaluate.compositional import Contest, chance, evaluate_compositional, measure, outcome
from wordregion.models.zoo import albef_tiny, for_entailment
from wordregion.schema import Grounding, Sample

SIZES = {"width": 32, "vision_layers": 1, "text_layers": 1, "fusion_layers": 1, "embed": 16}


def a_model():
    torch.manual_seed(0)
    model = albef_tiny(Tokenizer("scenes").vocab_size, image_size=32, **SIZES)
    torch.nn.init.normal_(model.heads["match"].weight)  # spread the scores
    return model.eval()


def run(size=7, data=None, model=None, **settings):
    data = data or SceneNegatives("val", size, image_size=32)
    collator = SentenceCollator(Tokenizer("scenes"))
    return evaluate_compositional(
        model or a_model(), data, collator, EvalTransform(32), **{"batch": 2, "progress": False, **settings}
    )


class Pairs:
    """Winoground's kind: two scenes and two captions."""

    name = "pairs"

    def __len__(self):
        return 3

    def where(self, index):
        return f"pairs, {index}"

    def __getitem__(self, index):
        scenes = SceneNegatives("val", 6, image_size=32)
        first, second = scenes[2 * index], scenes[2 * index + 1]
        texts = (first.texts[0], second.texts[0])
        groundings = (Grounding(0, image=0), Grounding(1, image=1))
        return Sample(f"{index}", first.images + second.images, texts, groundings, {"kind": "Object"})


def test_one_picture_is_right_if_its_caption_beats_all_others():
    assert outcome([[2.0], [1.0], [1.5]], (0,)) == {"accuracy": 1.0}
    assert outcome([[2.0], [2.5], [1.5]], (0,)) == {"accuracy": 0.0}
    assert outcome([[2.0], [2.0]], (0,)) == {"accuracy": 0.0}  # a tie is no win
    assert outcome([[2.0], [2.0]], (0,), ties=0.5) == {"accuracy": 0.5}
    assert outcome([[2.0], [2.0], [2.0]], (0,), ties=0.5) == {"accuracy": pytest.approx(1 / 3)}
    assert outcome([[1.0], [2.0]], (1,)) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("scores", "text", "image"),
    [
        ([[4, 1], [2, 3]], 1, 1),  # each caption prefers its picture, each picture its caption
        ([[4, 1], [2, 1]], 0, 0),  # text: picture 1 ties; image: caption 1 prefers picture 0
        ([[4, 1], [5, 6]], 0, 1),  # picture 0 prefers caption 1, yet both captions choose rightly
        ([[4, 5], [2, 6]], 1, 0),  # caption 0 prefers picture 1, yet both pictures choose rightly
    ],
)
def test_two_pictures_by_winogrounds_three_scores(scores, text, image):
    assert outcome(scores, (0, 1)) == {"text": text, "image": image, "group": text * image}


def test_chance_is_what_random_scores_reach():
    assert chance(2, 1) == {"accuracy": 0.5}
    assert chance(5, 1) == {"accuracy": 0.2}
    generator = torch.Generator().manual_seed(0)
    drawn = [outcome(torch.rand(2, 2, generator=generator).tolist(), (0, 1)) for _ in range(20000)]
    for name, expected in chance(2, 2).items():
        assert sum(d[name] for d in drawn) / len(drawn) == pytest.approx(expected, abs=0.01)
    with pytest.raises(UsageError):
        chance(3, 2)


def test_measures_by_hand():
    def contest(kind, itc, itm, words, group):
        scores = {"itc": ((itc,), (0.0,)), "itm": ((itm,), (0.0,)), "shorter": ((-words[0],), (-words[1],))}
        return Contest((0,), scores, kind, group)

    found = measure(
        [
            contest("swap", 1.0, 1.0, (5.0, 5.0), "on"),
            contest("swap", 1.0, -1.0, (5.0, 5.0), "on"),
            contest("swap", -1.0, -1.0, (5.0, 5.0), "by"),
            contest("add", 1.0, 1.0, (5.0, 7.0), "by"),
        ]
    )
    assert found["itc/accuracy"] == 75.0
    assert found["itm/accuracy"] == 50.0
    assert found["itm/accuracy_swap"] == pytest.approx(100 / 3)
    assert found["itm/accuracy_add"] == 100.0
    assert found["itm/mean_of_kinds"] == pytest.approx(200 / 3)
    assert found["itm/mean_of_groups"] == 50.0
    assert found["shorter/accuracy_swap"] == 50.0  # the length says nothing
    assert found["shorter/accuracy_add"] == 100.0  # the length gives it away
    assert found["chance/accuracy"] == 50.0
    assert "likelier/accuracy" not in found


def test_every_contest_is_asked_once_in_order():
    data = SceneNegatives("val", 7, image_size=32)
    found = run(7)
    assert [c.kind for c in found.contests] == [data[i].target["kind"] for i in range(7)]
    model, tokenizer = a_model(), Tokenizer("scenes")
    for index in (0, 5):
        sample = EvalTransform(32)(data[index])
        encoded = tokenizer(list(sample.texts))
        image = model.encode_image(sample.images[0][None])
        text = model.encode_text(encoded.ids, encoded.mask)
        itc = model.project_text(text, encoded.mask) @ model.project_image(image).T
        logits = model.heads["match"](model.fuse(text, encoded.mask, image).cls)
        scores = found.contests[index].scores
        torch.testing.assert_close(torch.tensor(scores["itc"]), itc.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            torch.tensor(scores["itm"]), (logits[:, 1:] - logits[:, :1]).detach(), rtol=1e-4, atol=1e-5
        )
    assert json.loads(found.to_json())["metrics"] == found.metrics
    assert found.items == "7 contests of captions"
    assert found.metrics["raw/shorter/accuracy"] == 50.0  # the scenes' false captions have the same words


def test_every_picture_is_scored_with_every_text():
    found = run(data=Pairs())
    model, tokenizer, transform = a_model(), Tokenizer("scenes"), EvalTransform(32)
    sample = transform(Pairs()[1])
    encoded = tokenizer(list(sample.texts))
    text = model.encode_text(encoded.ids, encoded.mask)
    image = model.encode_image(torch.stack(sample.images))
    for t in range(2):
        for i in range(2):
            fused = model.fuse(text[t : t + 1], encoded.mask[t : t + 1], image[i : i + 1])
            logits = model.heads["match"](fused.cls)[0].tolist()
            assert found.contests[1].scores["itm"][t][i] == pytest.approx(logits[1] - logits[0], rel=1e-3, abs=1e-4)
    assert {"raw/itm/text", "raw/itm/image", "raw/itm/group", "raw/itc/group"} <= set(found.metrics)
    assert found.metrics["raw/chance/group"] == pytest.approx(100 / 6)


class Alphabetical:
    def log_likelihood(self, texts):
        return [-float(sorted(texts).index(text)) for text in texts]


def test_a_language_models_choice_is_reported_beside():
    found = run(6, lm=Alphabetical())
    data = SceneNegatives("val", 6, image_size=32)
    expected = sum(data[i].texts[0] < data[i].texts[1] for i in range(6)) / 6
    assert found.metrics["raw/likelier/accuracy"] == pytest.approx(100 * expected)


def test_without_a_match_head_the_contrast_is_judged_alone():
    found = run(3, model=for_entailment(a_model()))
    assert "raw/itc/accuracy" in found.metrics
    assert "raw/itm/accuracy" not in found.metrics


def test_wrong_data_is_refused():
    class Bare(Pairs):
        def __getitem__(self, index):
            return Sample("x", (Image.new("RGB", (8, 8)),), ("a red circle", "a blue circle"))

    with pytest.raises(DataError, match="one true text"):
        run(data=Bare())
    with pytest.raises(UsageError, match="finetuned_on_X"):
        run(protocol="best")


def _process(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    Path(folder, f"{rank}.json").write_text(run(7).to_json())
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_return_what_one_returns(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = json.loads(run(7).to_json())
    torch.set_num_threads(threads)
    in_two_processes(_process, 2, str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
