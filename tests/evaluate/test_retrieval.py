"""The evaluation of a whole (tiny) model: against a pair-by-pair recomputation, and over two processes."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist

from tests.processes import in_two_processes
from wordregion.errors import DataError, UsageError
from wordregion.evaluate import retrieval
from wordregion.evaluate.retrieval import evaluate_retrieval, score_matrices
from wordregion.models.zoo import albef_tiny, for_word_regions
from wordregion.schema import Grounding, Sample


@dataclass(frozen=True)
class Noise:
    """Random pictures with one to three captions; picture 4 has none."""

    size: int = 11
    name: str = "noise"

    def __len__(self):
        return self.size

    def where(self, index):
        return f"noise, record {index}"

    def __getitem__(self, index):
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        count = 0 if index == 4 else 1 + index % 3
        texts = (*(f"{'word ' * (1 + (index + t) % 5)}{index} {t}" for t in range(count)), "a phrase")
        whole = tuple(Grounding(text=t) for t in range(count))
        return Sample(f"n{index}", (image,), texts, (*whole, Grounding(text=count, boxes=((0.0, 0.0, 0.5, 0.5),))))


def tokenizer(texts):
    ids = torch.zeros(len(texts), 9, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        words = [sum(map(ord, word)) % 90 + 2 for word in text.split()]
        row[: len(words) + 1] = torch.tensor([1, *words])
    return SimpleNamespace(ids=ids, mask=ids > 0)


class WordsOnly:
    """A collator of which retrieval needs the tokenizer alone."""

    tokenizer = staticmethod(tokenizer)

    def check(self, sample, where):
        raise AssertionError

    def __call__(self, items, skipped=()):
        raise AssertionError


collator = WordsOnly()


def unchanged(sample, rng):
    return sample


def tiny_model():
    torch.manual_seed(0)
    model = albef_tiny(
        100, image_size=32, patch=16, width=64, vision_layers=1, text_layers=1, fusion_layers=2, embed=16
    )
    for parameter in model.parameters():  # spread the scores, so that rankings are not near-ties
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def run(**settings):
    return evaluate_retrieval(
        tiny_model(), Noise(), collator, unchanged, **{"k": 3, "batch": 2, "progress": False, **settings}
    )


def test_matches_a_pair_by_pair_recomputation():
    model, data = tiny_model().eval(), Noise()
    result = run(k=4)
    with torch.no_grad():
        images = model.encode_image(torch.stack([data[i].images[0] for i in range(len(data))]))
        encoded = tokenizer(list(result.captions))
        hidden = model.encode_text(encoded.ids, encoded.mask)
        similarity = model.project_image(images) @ model.project_text(hidden, encoded.mask).t()
        sum_of_both = torch.full(similarity.shape, -100.0)
        i2t, t2i = torch.full(similarity.shape, -100.0), torch.full(similarity.t().shape, -100.0)

        def logit(i, t):
            one = slice(t, t + 1)
            fused = model.fuse(hidden[one], encoded.mask[one], images[i : i + 1], torch.tensor([0]))
            no, yes = model.heads["match"](fused.cls)[0]
            sum_of_both[i, t] = yes - no + similarity[i, t] / model.temperature[0]
            return yes

        for i in range(len(images)):
            for t in similarity[i].topk(4).indices.tolist():
                i2t[i, t] = logit(i, t)
        for t in range(len(hidden)):
            for i in similarity[:, t].topk(4).indices.tolist():
                t2i[t, i] = logit(i, t)
        ours_i2t, ours_t2i = score_matrices(model, images, hidden, encoded.mask, 4)
    torch.testing.assert_close(ours_i2t, i2t, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours_t2i, t2i, atol=1e-4, rtol=1e-4)
    owner = torch.tensor(result.caption_image)
    captioned = [i for i in range(len(data)) if i != 4]
    tr = sum(bool(owner[i2t[i].argmax()] == i) for i in captioned) / len(captioned)
    ir = (t2i.argmax(1) == owner).double().mean().item()
    assert result.metrics["raw/rerank_k4/TR@1"] == pytest.approx(100 * tr)
    assert result.metrics["raw/rerank_k4/IR@1"] == pytest.approx(100 * ir)
    for t, found in enumerate(result.rankings["rerank_k4+itc"].images):
        among = similarity[:, t].topk(4).indices
        assert found[0] == among[sum_of_both[among, t].argmax()]
    for i, found in enumerate(result.rankings["rerank_k4+itc"].texts):
        among = similarity[i].topk(4).indices
        assert found[0] == among[sum_of_both[i, among].argmax()]
    tr5 = sum(bool((owner[similarity[i].topk(5).indices] == i).any()) for i in captioned) / len(captioned)
    assert result.metrics["raw/itc/TR@5"] == pytest.approx(100 * tr5)
    assert result.pairs == int(((i2t > -100) | (t2i > -100).t()).sum())


def test_names_lists_and_json():
    result = run(protocol="finetuned_on_coco")
    assert set(result.metrics) == {
        f"finetuned_on_coco/{way}/{what}@{n}"
        for way in ("itc", "rerank_k3", "rerank_k3+itc")
        for what in ("TR", "IR")
        for n in (1, 5, 10)
    }
    assert "a phrase" not in result.captions
    assert 4 not in result.caption_image
    ranking = result.rankings["rerank_k3"]
    assert len(ranking.texts) == 11
    assert len(ranking.images) == len(result.captions)
    assert all(len(row) == 10 for row in ranking.texts)
    assert ranking.text_scores[0][3] == -100
    assert json.loads(result.to_json())["metrics"] == result.metrics


def test_words_against_places_re_rank_alone_and_with_the_others(monkeypatch):
    model, data = for_word_regions(tiny_model(), embed=8).eval(), Noise()
    result = evaluate_retrieval(model, data, collator, unchanged, k=4, batch=2, progress=False)
    with torch.no_grad():
        images = model.encode_image(torch.stack([data[i].images[0] for i in range(len(data))]))
        encoded = tokenizer(list(result.captions))
        hidden = model.encode_text(encoded.ids, encoded.mask)
        similarity = model.project_image(images) @ model.project_text(hidden, encoded.mask).t()
        head = model.heads["word_region"]
        words = head(hidden, encoded.mask, head.places(images)).t()
        fused = [model.fuse(hidden, encoded.mask, image[None], None).cls for image in images]
        match = torch.stack([model.heads["match"](cls) for cls in fused])
    both = words + similarity / model.temperature
    all_three = both + match[..., 1] - match[..., 0]
    for name, score in (("_words", words), ("_words+itc", both), ("+words+itc", all_three)):
        ranking = result.rankings[f"rerank_k4{name}"]
        for i, (found, values) in enumerate(zip(ranking.texts, ranking.text_scores, strict=True)):
            among = similarity[i].topk(4).indices
            assert found[0] == among[score[i, among].argmax()]
            assert values[0] == pytest.approx(score[i, found[0]].item(), abs=1e-4)
        for t, found in enumerate(ranking.images):
            among = similarity[:, t].topk(4).indices
            assert found[0] == among[score[among, t].argmax()]
    without = run(k=4)
    for name, value in without.metrics.items():
        assert result.metrics[name] == value
    monkeypatch.setattr(retrieval, "PAIRS_AT_ONCE", 3)
    again = evaluate_retrieval(model, data, collator, unchanged, k=4, batch=2, progress=False)
    assert again.metrics == result.metrics
    with torch.no_grad():
        head.importance.weight.fill_(float("nan"))
    with pytest.raises(UsageError, match="scores are not finite"):
        evaluate_retrieval(model, data, collator, unchanged, k=1, progress=False)


def test_itc_only_and_more_candidates_than_there_are():
    assert not any("rerank" in name for name in run(k=0).metrics)
    assert run(k=1000).pairs == 11 * len(run(k=0).captions)


def test_bounded_memory_changes_nothing(monkeypatch):
    plain = run(k=8)
    monkeypatch.setattr(retrieval, "KEPT_BYTES", 0)
    assert run(k=8) == plain
    monkeypatch.setattr(retrieval, "PAIRS_AT_ONCE", 3)
    small = run(k=8)
    assert small.metrics == plain.metrics
    assert small.rankings["rerank_k8"].texts == plain.rankings["rerank_k8"].texts


def test_mode_is_restored_and_dropout_is_off():
    model = tiny_model().train()
    first, second = (evaluate_retrieval(model, Noise(), collator, unchanged, k=2, progress=False) for _ in range(2))
    assert model.training
    assert first == second


def test_reading_processes_change_nothing():
    assert run(workers=2) == run()


def test_bad_arguments_and_records():
    for settings, words in (
        ({"protocol": "zero-shot"}, "finetuned_on_X"),
        ({"k": -1}, "k must be"),
        ({"batch": 0}, "batch"),
    ):
        with pytest.raises(UsageError, match=words):
            run(**settings)
    with pytest.raises(UsageError, match="no samples"):
        evaluate_retrieval(tiny_model(), Noise(0), collator, unchanged, k=1)

    def broken(sample, rng):
        raise DataError(sample.id, "image", "cannot be read", "Remove it.")

    for workers in (0, 2):
        with pytest.raises(DataError, match="cannot be read"):
            evaluate_retrieval(tiny_model(), Noise(), collator, broken, k=1, workers=workers, progress=False)
    sick = tiny_model()
    torch.nn.init.constant_(sick.text_proj.weight, float("nan"))
    with pytest.raises(UsageError, match="features are not finite"):
        evaluate_retrieval(sick, Noise(), collator, unchanged, k=1, progress=False)


@pytest.mark.parametrize("part", ["match", "temperature"])
def test_scores_that_are_not_finite_are_refused(part):
    model = tiny_model()
    with torch.no_grad():
        for parameter in [model.temperature] if part == "temperature" else model.heads["match"].parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(UsageError, match="scores are not finite"):
        evaluate_retrieval(model, Noise(), collator, unchanged, k=1, progress=False)


def _process(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    result = run(k=3)
    Path(folder, f"{rank}.json").write_text(json.dumps(asdict(result)))
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_return_what_one_returns(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = json.loads(run(k=3).to_json())
    torch.set_num_threads(threads)
    in_two_processes(_process, 2, str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
