"""Accuracy and consistency by hand, and a whole (tiny) model over one process and two."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion.data.scenes import ScenePairs
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.evaluate.nlvr import Judgement, consistency, evaluate_nlvr, measure
from wordregion.models.two_images import pair_logits
from wordregion.models.zoo import albef_tiny, for_statements, for_two_images


def judged(sentence, label, right, kind=None):
    return Judgement(label, 0.9 if bool(label) == right else 0.1, sentence, kind)


def test_a_sentence_counts_only_if_all_its_examples_are_right():
    """Three sentences of 4, 1 and 2 examples: one wrong in the first; the second wrong; the third whole."""
    judgements = [
        judged("dev-1-0", 1, True),
        judged("dev-1-1", 0, False),
        judged("dev-1-0", 0, False),
        judged("dev-1-0", 1, True),
        judged("dev-2-0", 1, True),
        judged("dev-1-0", 0, True),
        judged("dev-2-0", 0, True),
    ]
    assert consistency(judgements) == pytest.approx(100 / 3)
    found = measure(judgements)
    assert found["accuracy"] == pytest.approx(100 * 5 / 7)
    assert found["consistency"] == pytest.approx(100 / 3)
    assert found["majority/accuracy"] == pytest.approx(100 * 4 / 7)


@pytest.mark.parametrize(
    ("right", "accuracy", "consistent"),
    [((True,) * 4, 100, 100), ((False,) * 4, 0, 0), ((True, False) * 2, 50, 0), ((True, True, False, False), 50, 50)],
)
def test_consistency_is_at_most_what_accuracy_allows(right, accuracy, consistent):
    found = measure([judged(i // 2, i % 2, r) for i, r in enumerate(right)])
    assert (found["accuracy"], found["consistency"]) == (accuracy, consistent)


def test_kinds_are_reported_apart_and_absent_sentences_leave_consistency_out():
    found = measure([judged(None, 1, True, "one"), judged(None, 0, False, "order"), judged(None, 0, True, "order")])
    assert found["accuracy_one"] == 100
    assert found["accuracy_order"] == 50
    assert "consistency" not in found


def test_a_score_of_a_half_says_false():
    assert Judgement(0, 0.5).right
    assert not Judgement(1, 0.5).right


def tiny(make=lambda m: for_two_images(m, "nlvr")):
    torch.manual_seed(0)
    size = Tokenizer("scenes").vocab_size
    model = make(albef_tiny(size, 32, patch=16, width=64, vision_layers=1, text_layers=1, fusion_layers=1, embed=16))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def run(model=None, dataset=None, images=2, **settings):
    return evaluate_nlvr(
        model or tiny(),
        dataset or ScenePairs("val", 11, image_size=32),
        SentenceCollator(Tokenizer("scenes"), needs=("label",), images=images),
        EvalTransform(32),
        **{"batch": 3, "progress": False, **settings},
    )


def test_every_statement_is_judged_once_in_order():
    result, data, model = run(), ScenePairs("val", 11, image_size=32), tiny().eval()
    assert [j.label for j in result.judgements] == [data[i].target["label"] for i in range(11)]
    assert [j.sentence for j in result.judgements] == [i // 2 for i in range(11)]
    collator, transform = SentenceCollator(Tokenizer("scenes"), images=2), EvalTransform(32)
    with torch.no_grad():
        for i in (0, 7, 10):
            batch = collator([(i, transform(data[i]), np.random.default_rng(0))])
            score = pair_logits(model, batch, model.encode_image(batch.image)).softmax(1)[0, 1]
            assert result.judgements[i].score == pytest.approx(score.item(), abs=1e-5)
    assert set(result.metrics) >= {"raw/accuracy", "raw/consistency", "raw/majority/accuracy", "raw/accuracy_both"}
    assert result.items == "11 statements"
    assert json.loads(result.to_json())["metrics"] == result.metrics


class Lefts:
    """The left pictures alone, with the statement's label."""

    name = "lefts"

    def __init__(self):
        self.pairs = ScenePairs("val", 5, image_size=32)

    def __len__(self):
        return len(self.pairs)

    def where(self, index):
        return self.pairs.where(index)

    def __getitem__(self, index):
        sample = self.pairs[index]
        return replace(sample, images=sample.images[:1])


def test_a_model_of_one_image_judges_statements_about_one():
    result = run(tiny(for_statements), Lefts(), images=1, protocol="finetuned_on_nlvr")
    assert len(result.judgements) == 5
    assert "finetuned_on_nlvr/accuracy" in result.metrics


def test_mode_is_restored_and_bad_requests_are_refused():
    model = tiny().train()
    run(model)
    assert model.training
    with pytest.raises(UsageError, match="no head 'nlvr'"):
        run(tiny(lambda m: m))
    with pytest.raises(UsageError, match="finetuned_on_X"):
        run(protocol="zero-shot")
    torch.nn.init.constant_(model.heads["nlvr"].out.weight, float("nan"))
    with pytest.raises(UsageError, match="not finite"):
        run(model)


def _process(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    Path(folder, f"{rank}.json").write_text(run().to_json())
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_return_what_one_returns(tmp_path):
    """Eleven statements in batches of three: the last batch is short, and one process has one batch more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = json.loads(run().to_json())
    torch.set_num_threads(threads)
    in_two_processes(_process, 2, str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
