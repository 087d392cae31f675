"""Evaluation of a tiny model that answers questions, alone and over two processes."""

import json
import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion.data.scene_text import ANSWERS
from wordregion.data.scenes import SceneQuestions
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.evaluate.vqa import _parts, evaluate_vqa, written
from wordregion.models.questions import encode_distinct, encode_for_prior
from wordregion.models.zoo import albef_tiny, for_questions
from wordregion.nn.word_prior import WordPrior

TOKENIZER = Tokenizer("scenes")
COLLATOR = SentenceCollator(TOKENIZER, answers=TOKENIZER)


@dataclass(frozen=True)
class Asked:
    """Scenes with ten people's answers and question ids; `answered` False = a test set."""

    size: int = 9
    answered: bool = True
    name: str = "asked"

    def __len__(self):
        return self.size

    def where(self, index):
        return f"asked, record {index}"

    def __getitem__(self, index):
        sample = SceneQuestions("val", 14, image_size=32)[index]
        if not self.answered:
            return replace(sample, target={"question_id": 100 + index})
        human = [*sample.target["answers"]] * 2 + ["nobody"] * 8
        return replace(sample, target={**sample.target, "human_answers": human, "question_id": 100 + index})


def tiny_model():
    torch.manual_seed(0)
    model = for_questions(
        albef_tiny(
            TOKENIZER.vocab_size,
            image_size=32, patch=16, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def run(data=None, model=None, **settings):
    settings = {"candidates": ANSWERS, "k": 5, "batch": 2, "progress": False, **settings}
    data = Asked() if data is None else data
    return evaluate_vqa(model or tiny_model(), data, COLLATOR, EvalTransform(32), **settings)


def test_measures_follow_from_the_predictions():
    result = run()
    assert len(result.predictions) == result.questions == 9
    assert result.items == "9 questions"
    assert set(result.predictions) <= set(ANSWERS)
    data = Asked()
    right = [p == next(iter(data[i].target["answers"])) for i, p in enumerate(result.predictions)]
    assert result.metrics["raw/rank_k5/exact"] == pytest.approx(100 * sum(right) / 9)
    two_of_ten = (2 / 3 + 8 * 2 / 3) / 10
    assert result.metrics["raw/rank_k5/accuracy"] == pytest.approx(100 * two_of_ten * sum(right) / 9)
    relation = [right[i] for i in range(9) if data[i].target["kind"] == "relation"]
    assert len(relation) == 1
    assert result.metrics["raw/rank_k5/accuracy_relation"] == pytest.approx(100 * two_of_ten * sum(relation))
    assert result.submission()[2] == {"question_id": 102, "answer": result.predictions[2]}
    assert json.loads(result.to_json())["questions"] == 9


def test_a_model_that_knows_the_answer_scores_in_full(monkeypatch):
    answers = iter([next(iter(Asked()[i].target["answers"])) for i in range(9)])
    ranker = lambda *a: lambda batch: [next(answers) for _ in batch.token_ids]  # noqa: E731
    monkeypatch.setattr("wordregion.evaluate.vqa._ranker", ranker)
    assert run().metrics["raw/rank_k5/exact"] == 100


def test_without_answers_there_are_predictions_only():
    result = run(Asked(answered=False))
    assert result.metrics == {}
    assert [entry["question_id"] for entry in result.submission()] == list(range(100, 109))
    assert result.predictions == run().predictions


def test_some_questions_without_answers_are_counted_and_refused():
    class Mixed(Asked):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return replace(sample, target={**sample.target, "answers": {}}) if index in (2, 5) else sample

    with pytest.raises(UsageError, match="asked: 2 of 9 questions have no answer"):
        run(Mixed())


def test_exact_compares_parts_by_the_rules_of_vqa():
    assert _parts("the two, a book") == _parts("book, 2")
    assert _parts("two books") != _parts("two, books")


@pytest.mark.parametrize("settings", [{}, {"candidates": None}, {"candidates": None, "beams": 3}])
def test_a_model_that_gives_nan_is_refused(settings):
    sick = tiny_model()
    for parameter in sick.heads["answer"].parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(UsageError, match="log-probabilities are not finite"):
        run(model=sick, **settings)


def test_generation_and_the_original_ranking_have_names_of_their_own():
    assert "raw/greedy/exact" in run(candidates=None).metrics
    assert "finetuned_on_x/beam3/exact" in run(candidates=None, beams=3, protocol="finetuned_on_x").metrics
    assert "raw/rank_k26_original/exact" in run(k=100, candidates=ANSWERS[:26], original_behaviour=True).metrics


def test_what_the_photo_tells_of_words_is_added_and_named():
    model, wanted = tiny_model(), [*ANSWERS[:9]]
    images = torch.stack([EvalTransform(32)(Asked()[i]).images[0] for i in range(9)])
    with torch.no_grad():
        summary = torch.stack([model.eval().encode_image(seen)[:, 0] for seen in (images, images.flip(-1))]).mean(0)
    plain = run(model=model)
    said = [TOKENIZER([answer]).ids[0, 1:-1].tolist() for answer in wanted]
    words = {word for ids in said for word in ids}
    prior = WordPrior(model.vision.width, 9, len(words)).fit(words, summary, said)
    model.heads["prior"] = prior
    result = run(model=model, k=len(ANSWERS))
    assert "raw/rank_k5/exact" in plain.metrics
    assert f"raw/rank_k{len(ANSWERS)}+prior/exact" in result.metrics
    for i in range(9):  # the tokens of an answer to each photo are likelier with that photo than elsewhere
        own = prior(summary)[:, torch.isin(prior.word, torch.tensor(said[i]))].mean(1)
        assert own[i] > own.mean()
    prior.weight *= 100
    assert sum(map(str.__eq__, run(model=model, k=len(ANSWERS)).predictions, wanted)) > sum(
        map(str.__eq__, plain.predictions, wanted)
    )


def test_batch_size_changes_nothing():
    assert run(batch=9).predictions == run(batch=2).predictions


def test_words_are_written_as_people_do():
    assert written("t - shirt") == "t-shirt"
    assert written("don ' t") == "don't"
    assert written("book , tape dispenser") == "book, tape dispenser"
    assert written("1 , 000") == "1,000"
    assert written("red") == "red"


@pytest.mark.parametrize(
    "answer",
    """st. louis|mr. clean|u.s. open|no. 1|100%|3.5%|$10|$1.50|$.50|#1|b&w|at&t|black & white|3+|3 + 4|1.5|.5|1,000
u.s.a.|washington, d.c.|5:30 p.m.|www.amazon.com|t-shirt|3/4|mcdonald's|a man. a dog""".replace("\n", "|").split("|"),
)
def test_words_and_marks_as_bert_parts_them_become_the_answer_again(answer):
    assert written(" ".join(re.findall(r"\w+|[^\w\s]", answer))) == answer


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "k = 0"),
        ({"beams": 0}, "beams = 0"),
        ({"candidates": ()}, "empty list"),
        ({"protocol": "mine"}, "protocol"),
        ({"data": Asked(size=0)}, "no samples"),
    ],
)
def test_bad_requests_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        run(**settings)


def test_a_collator_or_model_without_answers_is_refused():
    with pytest.raises(UsageError, match="no tokenizer of answers"):
        evaluate_vqa(tiny_model(), Asked(), SentenceCollator(TOKENIZER), EvalTransform(32))
    plain = albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=1, fusion_layers=1, embed=16)
    with pytest.raises(UsageError, match="no answer decoder"):
        evaluate_vqa(plain, Asked(), COLLATOR, EvalTransform(32))


def test_a_photo_with_several_questions_in_a_row_is_encoded_once(monkeypatch):
    model, data, sizes = tiny_model(), Asked(size=2), []
    image, encode = torch.stack([EvalTransform(32)(data[i]).images[0] for i in range(2)]), model.vision.whole
    monkeypatch.setattr(model.vision, "whole", lambda found: sizes.append(len(found)) or encode(found))
    row = torch.tensor([0, 0, 0, 1, 0])
    torch.testing.assert_close(encode_distinct(model, image[row]), encode(image)[row])
    tokens, summary = encode_for_prior(model, image[row])
    torch.testing.assert_close(tokens, encode(image)[row])
    torch.testing.assert_close(summary, (encode(image) + encode(image.flip(-1)))[row, 0] / 2)
    assert sizes == [3, 3, 3]  # the last are mirror images


def process(rank, file, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    (out / f"{rank}.json").write_text(run().to_json())
    dist.destroy_process_group()


def test_two_processes_give_the_result_of_one(tmp_path):
    in_two_processes(process, tmp_path / "store", tmp_path)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == json.loads(run().to_json())
