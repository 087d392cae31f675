"""The recipes of captioning: settings, published data as batches, one step of each."""

import json

import pytest
import torch
from PIL import Image

from wordregion.data.loader import StepLoader
from wordregion.data.tokens import SPECIAL
from wordregion.errors import DataError, UsageError
from wordregion.models.store import save_model
from wordregion.recipes.caption import caption_coco, caption_coco_cider, caption_scenes, caption_scenes_cider
from wordregion.recipes.recipe import resolved


def test_the_published_settings(tmp_path):
    recipe = caption_coco(checkpoint=tmp_path)
    assert (recipe.run.batch, recipe.run.steps, recipe.task.smoothing) == (256, 5 * 2213, 0.1)
    rates = [recipe.optim.lr * recipe.optim.factor(step, recipe.run.steps) for step in (0, 1105, 11064)]
    assert rates == pytest.approx([1e-5 / 1106, 1e-5, 1e-9], rel=1e-2)
    recipe = caption_coco_cider(checkpoint=tmp_path)
    assert (recipe.run.batch, recipe.run.steps, recipe.task.samples, recipe.optim.lr) == (64, 44_275, 5, 1e-5)
    assert recipe.optim.betas == (0.9, 0.98)
    assert resolved(recipe)["task"]["reward"] == "CaptionReward"


def test_what_is_missing_is_named(tmp_path):
    for recipe in (caption_coco, caption_coco_cider):
        with pytest.raises(UsageError, match=f"{recipe.__name__}: no checkpoint"):
            recipe()
    with pytest.raises(UsageError, match="no checkpoint"):
        caption_scenes_cider()
    with pytest.raises(UsageError, match="captions=5"):
        caption_coco(checkpoint=tmp_path, captions=5)


@pytest.fixture
def karpathy(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    records = [
        {"image": "a.jpg", "caption": "A red dog.", "image_id": "1"},
        {"image": "b.jpg", "caption": "A dog", "image_id": "2"},
        {"image": "a.jpg", "caption": "the red dog", "image_id": "1"},
    ]
    (tmp_path / "train.json").write_text(json.dumps(records))
    words = ["a", "picture", "of", "red", "dog", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *words]))
    return tmp_path


def test_published_data_become_batches(karpathy):
    given = {
        "checkpoint": karpathy,
        "train": karpathy / "train.json",
        "images": karpathy,
        "text": str(karpathy / "vocab.txt"),
    }
    by_word, by_reward = caption_coco(**given), caption_coco_cider(**given)
    for recipe, records, references in ((by_word, 3, 1), (by_reward, 2, 2)):
        dataset = recipe.data.train()
        assert len(dataset) == records
        loader = StepLoader(dataset, recipe.data.transform, recipe.data.collator(), batch=2, seed=0)
        (batch,) = next(iter(loader))
        assert batch.image.shape == (2, 3, 384, 384)
        assert max(map(len, batch.target["references"])) == references
    ids = by_reward.data.collator().tokenizer(["the red dog"]).ids[0, 1:-1].tolist()
    reward = by_reward.task.reward
    assert reward([ids], [["The red dog."]]) == pytest.approx([10])
    assert reward.cider.images == 2


def test_a_broken_caption_file_is_one_line(karpathy):
    (karpathy / "train.json").write_text(json.dumps([{"image": "a.jpg", "caption": "A"}, {"image": "b.jpg"}]))
    recipe = caption_coco_cider(checkpoint=karpathy, train=karpathy / "train.json", text=str(karpathy / "vocab.txt"))
    with pytest.raises(DataError, match=r"record 2, field 'caption': missing"):
        recipe.task.reward([[7]], [["a"]])


def test_one_step_of_the_small_ones(tmp_path):
    first = caption_scenes(scenes=8)
    torch.manual_seed(0)
    model = first.model()
    save_model(model, tmp_path)
    second = caption_scenes_cider(checkpoint=tmp_path, scenes=8)
    assert torch.equal(second.model().heads["mask"].dense.weight, model.heads["mask"].dense.weight)
    for recipe in (first, second):
        task = recipe.task.build(recipe.model()).train()
        loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=2, seed=0)
        (batch,) = next(iter(loader))
        output = task(batch, task.counts(batch))
        output.loss.backward()
        assert torch.isfinite(output.loss)
        assert task.model.fusion.layers[0].cross.kv.weight.grad is not None
