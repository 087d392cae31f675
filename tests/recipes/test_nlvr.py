"""The recipes of statements about two images: settings, and one step of the small one."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wordregion.data.loader import StepLoader
from wordregion.errors import CheckpointError, UsageError
from wordregion.models.store import save_model
from wordregion.models.zoo import albef_tiny
from wordregion.recipes.nlvr import nlvr2, nlvr2_pretrain, nlvr_scenes, nlvr_scenes_pretrain, two_images


def test_the_published_settings(tmp_path):
    recipe = nlvr2(checkpoint=tmp_path)
    assert (recipe.run.batch, recipe.run.steps, recipe.task.ramp_steps) == (128, 10 * 674, 674)
    rates = [recipe.optim.lr * recipe.optim.factor(step, recipe.run.steps) for step in (0, 100, 101, 6739)]
    assert rates == pytest.approx([1e-5, 1e-5, 2e-5, 1.4649631e-6])
    assert recipe.data.transform.flip == 0
    first = nlvr2_pretrain(checkpoint=tmp_path, data=("a.json",), records=1_000_000)
    assert (first.run.batch, first.run.steps) == (512, 1953)
    rates = [first.optim.lr * first.optim.factor(step, first.run.steps) for step in (0, 101, 1952)]
    assert rates == pytest.approx([1e-5, 2e-5, 2e-5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (nlvr2, "no checkpoint"),
        (nlvr2_pretrain, "no checkpoint"),
        (lambda: nlvr2_pretrain(checkpoint=Path("a")), "no data"),
        (lambda: nlvr2_pretrain(checkpoint=Path("a"), data=("a.json",), records=3), "records=3"),
        (lambda: nlvr2(checkpoint=Path("a"), statements=5), "statements=5"),
    ],
)
def test_what_is_missing_is_named(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_published_data_become_batches(tmp_path):
    for name in ("dev-1-0-img0.png", "dev-1-0-img1.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    (tmp_path / "dev.json").write_text(json.dumps({"identifier": "dev-1-0-0", "sentence": "a dog", "label": "True"}))
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    path = tmp_path / "dev.json"
    recipe = nlvr2(checkpoint=tmp_path, train=path, val=path, images=tmp_path, text=str(vocabulary))
    collator, dataset = recipe.data.collator(), recipe.data.train()
    batch = next(iter(StepLoader(dataset, recipe.data.transform, collator, batch=2, seed=0)))[0]
    assert batch.image.shape == (4, 3, 384, 384)
    assert batch.token_ids.tolist() == [[2, 5, 6], [2, 5, 6]]
    assert batch.target["label"].tolist() == [1, 1]
    sample = recipe.data.eval_transform(recipe.data.evaluate()[0], np.random.default_rng(0))
    assert sample.images[1].shape == (3, 384, 384)


def trained_on_a_batch(recipe):
    model = recipe.model()
    task = recipe.task.build(model)
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=8, seed=0)
    batch = next(iter(loader))[0]
    output = task(batch, task.counts(batch))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    return model


def test_the_scenes_train_from_nothing_and_from_a_run(tmp_path):
    recipe = nlvr_scenes(statements=8)
    model = trained_on_a_batch(recipe)
    save_model(model, tmp_path)
    again = nlvr_scenes(checkpoint=tmp_path).model()
    assert torch.equal(again.fusion.layers[0].second.cross.q.weight, model.fusion.layers[0].second.cross.q.weight)
    wider = partial(albef_tiny, recipe.data.collator().tokenizer.vocab_size, width=64, vision_layers=1)
    with pytest.raises(CheckpointError, match="does not fill"):
        two_images(lambda size, **weights: wider(size), "nlvr", tmp_path, 64)


def test_on_the_scenes_too_text_assignment_comes_first(tmp_path):
    recipe = nlvr_scenes_pretrain(scenes=8)
    model = trained_on_a_batch(recipe)
    save_model(model, tmp_path)
    then = nlvr_scenes(checkpoint=tmp_path).model()
    assert list(then.heads) == ["nlvr"]
    for name, value in model.fusion.state_dict().items():
        assert torch.equal(then.fusion.state_dict()[name], value)


def test_hidden_pictures_are_zero():
    recipe = nlvr_scenes(statements=4, text_only=True)
    sample = recipe.data.transform(recipe.data.train()[0], np.random.default_rng(0))
    assert all(not image.any() for image in sample.images)
    assert sample.texts == recipe.data.train()[0].texts
