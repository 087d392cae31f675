"""Accuracy of entailment by hand, and the evaluation of a tiny model on one process and two."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion.data.scenes import SceneEntailment
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.evaluate.entailment import Verdict, evaluate_entailment, measure
from wordregion.models.zoo import albef_tiny, for_entailment

SIZES = {"width": 32, "vision_layers": 1, "text_layers": 1, "fusion_layers": 1, "embed": 16}


def a_model():
    torch.manual_seed(0)
    model = for_entailment(albef_tiny(Tokenizer("scenes").vocab_size, image_size=32, **SIZES))
    torch.nn.init.normal_(model.heads["entail"].out.weight)  # spread the scores
    return model


def run(size=7, **settings):
    collator = SentenceCollator(Tokenizer("scenes"), needs=("label",))
    data = SceneEntailment("val", size, image_size=32)
    return evaluate_entailment(
        a_model(), data, collator, EvalTransform(32), **{"batch": 2, "progress": False, **settings}
    )


def test_measures_by_hand():
    def verdict(label, said, kind):
        return Verdict(label, tuple(float(c == said) for c in range(3)), kind)

    found = measure(
        [verdict(0, 0, "exists"), verdict(0, 1, "exists"), verdict(1, 1, "nothing"), verdict(0, 2, "nothing")]
    )
    assert found == {
        "accuracy": 50.0,
        "recall_contradiction": pytest.approx(100 / 3),
        "recall_neutral": 100.0,
        "accuracy_exists": 50.0,
        "accuracy_nothing": 50.0,
        "majority/accuracy": 75.0,
    }


def test_every_sentence_is_judged_once_in_order():
    result = run(protocol="finetuned_on_scenes")
    data = SceneEntailment("val", 7, image_size=32)
    assert [v.label for v in result.verdicts] == [data[i].target["label"] for i in range(7)]
    assert [v.kind for v in result.verdicts] == [data[i].target["kind"] for i in range(7)]
    assert all(sum(v.scores) == pytest.approx(1, abs=1e-5) for v in result.verdicts)
    assert result.metrics["finetuned_on_scenes/accuracy"] == pytest.approx(
        100 * sum(v.said == v.label for v in result.verdicts) / 7
    )
    assert result.items == "7 pairs of photo and sentence"
    assert json.loads(result.to_json())["metrics"] == result.metrics


def test_wrong_requests_are_refused():
    with pytest.raises(UsageError, match="finetuned_on_X"):
        run(protocol="best")
    model = albef_tiny(40, image_size=32, **SIZES)
    with pytest.raises(UsageError, match="for_entailment"):
        evaluate_entailment(
            model, SceneEntailment("val", 3), SentenceCollator(Tokenizer("scenes")), EvalTransform(32), progress=False
        )


def _process(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    Path(folder, f"{rank}.json").write_text(run(size=7).to_json())
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_return_what_one_returns(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = json.loads(run(size=7).to_json())
    torch.set_num_threads(threads)
    in_two_processes(_process, 2, str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
