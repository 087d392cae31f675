"""VL-Match's recipes: four arms that differ in their objectives alone."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from wordregion.data.collate import Collator
from wordregion.data.loader import StepLoader
from wordregion.errors import UsageError
from wordregion.evaluate.compositional import evaluate_compositional
from wordregion.models.store import load_model, save_model
from wordregion.objectives import Contrast, MaskedWords, Match, ReplacedWords
from wordregion.recipes.albef import albef_4m, albef_demo
from wordregion.recipes.vl_match import vl_match, vl_match_4m, vl_match_regions_scenes, vl_match_scenes

ARMS = [(words, match) for words in ("mlm", "rtd") for match in ("itm", "fg_itm")]


def first_batch(recipe):
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=6, seed=3)
    [batch] = next(iter(loader))
    loader.close()
    return batch


@pytest.mark.parametrize(("words", "match"), ARMS)
def test_each_arm_takes_a_step_and_is_measured(words, match, tmp_path):
    recipe = vl_match_scenes(scenes=40, words=words, match=match)
    torch.manual_seed(0)
    model = recipe.model()
    task = replace(recipe.task, first_alone=0).build(model)
    batch = first_batch(recipe)
    output = task(batch, task.counts(batch))
    output.loss.backward()
    task.after_step()
    names = {"contrast", "match", *(("replaced_words", "generator") if words == "rtd" else ("masked_words",))}
    assert names <= set(output.metrics)
    assert ("generated_accuracy" in output.metrics) == (match == "fg_itm")
    idle = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith("vision.")]
    assert idle == []
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")  # with its new heads
    assert set(again.heads) == set(model.heads)
    data = recipe.data.evaluate()
    data.groups = replace(data.groups, size=4)
    found = evaluate_compositional(
        again, data, recipe.data.collator(), recipe.data.eval_transform, batch=4, progress=False
    )
    assert {"raw/itm/accuracy", "raw/itc/accuracy"} <= set(found.metrics)


def test_regions_replaced_words_generated_negatives_and_a_teacher_together():
    recipe = vl_match_regions_scenes(scenes=20)
    torch.manual_seed(0)
    task = recipe.task.build(recipe.model())
    task.step += 300  # the teacher's opinion counts fully
    batch = first_batch(recipe)
    assert len(batch.regions().text) > 0
    assert len(batch.negative_text) > 0
    output = task(batch, task.counts(batch))
    output.loss.backward()
    assert {"contrast", "match", "generated_accuracy", "replaced_words", "generator", "box_l1"} <= set(output.metrics)
    idle = [n for n, p in task.model.named_parameters() if p.grad is None and not n.startswith("vision.")]
    assert idle == []
    assert task.distill_weight() == 0.2


def test_the_arms_see_the_same_pictures_words_and_masked_positions():
    batches = [first_batch(vl_match_scenes(scenes=40, words=words, match=match)) for words, match in ARMS]
    plain = batches[0]
    for other in batches[1:]:
        assert torch.equal(other.image, plain.image)
        length = min(plain.token_ids.shape[1], other.token_ids.shape[1])
        assert torch.equal(other.token_ids[:, :length], plain.token_ids[:, :length])
        assert torch.equal(other.labels[:, :length], plain.labels[:, :length])
        assert not other.token_mask[:, length:].any()
    masked = batches[2]  # replaced words: all chosen positions are hidden from the generator
    assert (masked.masked_ids[masked.labels != -100] == masked.masked_ids[masked.labels != -100][0]).all()


def test_objectives_are_exchanged_and_the_rest_is_kept():
    base = albef_demo(20)
    recipe = vl_match(base, "rtd", "fg_itm", negatives=3, detect=50.0)
    assert recipe.task.objectives == (
        Contrast(same_image_positives=True),
        replace(next(o for o in base.task.objectives if isinstance(o, Match)), generated=3),
        ReplacedWords(weight=50.0, generator_weight=1.0),
    )
    same = vl_match(base, "mlm", "itm", negatives=3, detect=50.0)
    assert same.task.objectives == base.task.objectives
    assert same.data is base.data
    collator = recipe.data.collator()
    assert isinstance(collator, Collator)
    assert collator.negatives == 3
    assert collator.texts_per_image == 3
    with pytest.raises(UsageError, match="MaskedWords"):
        vl_match(replace(base, task=replace(base.task, objectives=(Contrast(), Match()))), "rtd", "itm", 1, 1.0)


def test_the_published_scale_wants_a_cache_for_each_data_set():
    with pytest.raises(UsageError, match="neggen"):
        vl_match_4m(data=("a.json", "b.json"))
    recipe = vl_match_4m(data=("a.json", "b.json"), cache=(Path("a"), Path("b")))
    assert recipe.name == "vl_match_4m"
    assert recipe.run == albef_4m(data=("a.json", "b.json")).run
    assert isinstance(recipe.model, partial)
    assert any(isinstance(o, ReplacedWords) for o in recipe.task.objectives)
    plain = vl_match_4m(data=("a.json",), words="mlm", match="itm")
    assert any(isinstance(o, MaskedWords) for o in plain.task.objectives)


@pytest.mark.parametrize("words", ["mlm", "rtd"])
def test_the_scenes_arm_starts_from_a_run(words, tmp_path):
    trained = albef_demo(scenes=8).model()
    save_model(trained, tmp_path)
    recipe = vl_match_scenes(scenes=40, words=words, checkpoint=tmp_path)
    model = recipe.model()
    torch.testing.assert_close(model.image_proj.weight, trained.image_proj.weight)
    batch = first_batch(recipe)
    task = recipe.task.build(model)
    assert "match" in task(batch, task.counts(batch)).metrics  # from the first step on
