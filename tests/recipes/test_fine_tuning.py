"""Recipes of retrieval and entailment: their parts fit together, and wrong arguments are named."""

from pathlib import Path

import numpy as np
import pytest

from wordregion.errors import UsageError
from wordregion.models.store import save_model
from wordregion.models.zoo import albef_tiny_conv
from wordregion.recipes.entailment import entail_scenes, entail_snli_ve
from wordregion.recipes.retrieval import retrieval_coco, retrieval_flickr, retrieval_scenes


def one_loss(recipe):
    task = recipe.task.build(recipe.model())
    data, collate = recipe.data.train(), recipe.data.collator()
    draws = [(i, np.random.default_rng(i)) for i in range(4)]
    batch = collate([(i, recipe.data.transform(data[i], rng), rng) for i, rng in draws])
    return task(batch, task.counts(batch)), batch


def test_entailment_on_scenes_looks_at_them_unless_told_otherwise():
    output, batch = one_loss(entail_scenes(pairs=12))
    assert output.loss.isfinite()
    assert batch.image.std() > 0.1
    assert (one_loss(entail_scenes(pairs=12, text_only=True))[1].image == 0).all()


def test_retrieval_on_scenes_starts_from_a_run(tmp_path):
    before = retrieval_scenes(scenes=8).model()
    trained = albef_tiny_conv(before.text.vocab_size, 64)
    save_model(trained, tmp_path)
    recipe = retrieval_scenes(checkpoint=tmp_path, scenes=8)
    assert (recipe.model().text_proj.weight == trained.text_proj.weight).all()
    output, batch = one_loss(recipe)
    assert output.loss.isfinite()
    assert len(batch.token_ids) == 2 * len(batch.image)


def test_published_settings():
    flickr, coco = retrieval_flickr(checkpoint=Path("x")), retrieval_coco(checkpoint=Path("x"))
    assert (flickr.run.steps, coco.run.steps) == (10 * (145_000 // 256), 5 * (566_747 // 256))
    assert flickr.task.ramp_steps == 145_000 // 256
    assert flickr.optim.factor(0, flickr.run.steps) * flickr.optim.lr == pytest.approx(1e-5)
    entail = entail_snli_ve(checkpoint=Path("x"))
    rate = [entail.optim.lr * entail.optim.factor(step, entail.run.steps) for step in (100, 101, entail.run.steps)]
    assert rate == pytest.approx([1e-5, 2e-5, 1e-6])
    assert entail.run.steps == 5 * (529_527 // 256)


@pytest.mark.parametrize("recipe", [retrieval_flickr, retrieval_coco, entail_snli_ve])
def test_a_missing_checkpoint_or_a_tiny_set_is_named(recipe):
    with pytest.raises(UsageError, match=r"no checkpoint\. Name a pre-trained model"):
        recipe()
    count = {"pairs": 3} if recipe is entail_snli_ve else {"captions": 3}
    with pytest.raises(UsageError, match="less than one batch of 256"):
        recipe(checkpoint=Path("x"), **count)
