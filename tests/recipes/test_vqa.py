"""The recipes of visual questions: settings, published data as batches, one step of the small one."""

import json

import pytest
import torch
from PIL import Image

from wordregion.data.loader import StepLoader
from wordregion.data.scene_text import ANSWERS
from wordregion.errors import UsageError
from wordregion.recipes.recipe import resolved
from wordregion.recipes.vqa import vqa_scenes, vqa_v2


def test_the_published_settings(tmp_path):
    recipe = vqa_v2(checkpoint=tmp_path)
    assert (recipe.run.batch, recipe.run.steps, recipe.task.ramp_steps) == (256, 8 * 2570, 2570)
    rates = [recipe.optim.lr * recipe.optim.factor(step, recipe.run.steps) for step in (0, 400, 401, 8 * 2570 - 1)]
    assert rates == pytest.approx([1e-5, 1.75e-5, 2e-5, 1.7231444e-6])
    assert recipe.task.distill == 0.4


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        vqa_v2()
    with pytest.raises(UsageError, match="questions=5"):
        vqa_v2(checkpoint=tmp_path, questions=5)


def test_published_data_become_batches(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg")
    record = {"dataset": "vqa", "image": "a.jpg", "question": "What, is a Dog?", "answer": ["a-dog", "a-dog", "dog"]}
    path, vocabulary = tmp_path / "q.json", tmp_path / "vocab.txt"
    path.write_text(json.dumps([record]))
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "what", "is", "-"]))
    recipe = vqa_v2(checkpoint=tmp_path, train=(path, path), val=path, images=tmp_path, text=str(vocabulary))
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=2, seed=0)
    batch = next(iter(loader))[0]
    assert batch.image.shape == (2, 3, 384, 384)
    assert batch.token_ids.tolist() == [[2, 7, 8, 5, 6]] * 2
    assert batch.target["answer_ids"][:2].tolist() == [[2, 5, 9, 6, 3], [2, 6, 3, 0, 0]]
    assert batch.target["answer_weight"].tolist() == pytest.approx([2 / 3, 1 / 3] * 2)
    assert batch.target["answer_text"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("text_only", [False, True])
def test_the_scenes_train_and_the_baseline_sees_nothing(text_only):
    recipe = vqa_scenes(questions=50, text_only=text_only)
    assert resolved(recipe)["evaluation"]["candidates"] == list(ANSWERS)
    torch.manual_seed(0)
    task = recipe.task.build(recipe.model()).train()
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=8, seed=0)
    batch = next(iter(loader))[0]
    assert (batch.image.abs().sum() == 0) == text_only
    output = task(batch, task.counts(batch))
    output.loss.backward()
    task.after_backward()
    task.after_step()
    trained = {name.split(".")[0] for name, p in task.model.named_parameters() if p.grad is not None}
    assert trained == {"vision", "text", "fusion", "heads"}
    assert torch.isfinite(output.loss)
