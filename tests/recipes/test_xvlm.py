from dataclasses import replace

import pytest

from wordregion.data.loader import StepLoader
from wordregion.errors import UsageError
from wordregion.recipes.recipe import resolved
from wordregion.recipes.xvlm import xvlm_4m, xvlm_scenes


def test_scenes_mix_captions_and_regions_and_the_step_trains():
    recipe = xvlm_scenes(scenes=64)
    data = recipe.data
    loader = StepLoader(data.train(), data.transform, data.collator(), batch=4, seed=0)
    (batch,) = next(iter(loader))
    regions = batch.regions()
    assert 0 < len(regions.text) < len(batch.token_ids)
    assert (regions.box[:, 2:] > regions.box[:, :2]).all()
    task = recipe.task.build(recipe.model())
    output = task(batch, task.counts(batch))
    output.loss.backward()
    assert {"contrast", "match", "masked_words", "box_l1", "box_giou", "box_accuracy"} <= set(output.metrics)
    assert task.teacher is None


def test_the_published_settings():
    recipe = xvlm_4m(data=("captions.jsonl",), regions=("regions.jsonl",))
    optim, run, task = recipe.optim, recipe.run, recipe.task
    assert (optim.lr, optim.weight_decay, optim.betas, optim.schedule, optim.warmup) == (
        1e-4, 0.01, (0.9, 0.98), "linear", 2500,
    )  # fmt: skip
    assert ("heads.box.", 2.0) in optim.lr_scale
    assert ("fusion.layers.5.cross.", 2.0) in optim.lr_scale
    assert (run.steps, run.batch, run.clip) == (300_000, 1024, 1.0)
    assert (task.momentum, task.queue_size, task.distill) == (None, 0, 0.0)
    assert [type(objective).__name__ for objective in task.objectives] == ["Contrast", "Match", "MaskedWords", "Box"]
    assert resolved(replace(recipe, source="xvlm_4m"))["task"]["momentum"] is None


@pytest.mark.parametrize("wrong", [{}, {"data": ("a",)}, {"data": ("a",), "regions": ("b",), "processes": 3}])
def test_what_is_missing_is_said(wrong):
    with pytest.raises(UsageError, match="xvlm_4m"):
        xvlm_4m(**wrong)
