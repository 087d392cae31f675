"""The recipes of weakly supervised grounding: a step learns without boxes, and what is missing is named."""

import json

import pytest
import torch
from PIL import Image

from wordregion.data.loader import StepLoader
from wordregion.errors import UsageError
from wordregion.evaluate.grounding import evaluate_grounding
from wordregion.recipes import BUILTIN
from wordregion.recipes.refer import refer_refcoco_plus, refer_scenes


def test_a_step_on_scenes_reaches_the_image_encoder() -> None:
    recipe = BUILTIN["refer_scenes"](10)
    torch.manual_seed(0)
    task = recipe.task.build(recipe.model())
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=3, seed=0)
    (batch,) = next(iter(loader))
    assert len(batch.token_ids) == 9
    output = task.train()(batch, task.counts(batch))
    output.loss.backward()
    assert "contrast" in output.metrics
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.vision.parameters())


def test_refcoco_plus_has_the_published_settings(tmp_path) -> None:
    recipe = refer_refcoco_plus(tmp_path, text="bert")
    assert recipe.run.steps == 5 * (120_191 // 256)
    assert (recipe.run.batch, recipe.optim.lr, recipe.optim.weight_decay) == (256, 1e-5, 0.02)
    assert recipe.optim.factor(0, recipe.run.steps) == 1
    assert recipe.optim.factor(recipe.run.steps, recipe.run.steps) == pytest.approx(0.1)
    assert recipe.evaluation is evaluate_grounding
    assert (recipe.task.distill, recipe.task.queue_size, recipe.task.momentum) == (0.4, 65536, 0.995)


def test_refcoco_plus_reads_its_files(tmp_path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg")
    content = {
        "train": [{"image": "a.jpg", "text": "a thing"}],
        "val": [{"image": "a.jpg", "text": "the thing", "ref_id": 1}],
        "refs": [{"ref_id": 1, "ann_id": 2, "image_id": 3, "split": "val"}],
        "instances": {
            "images": [{"id": 3, "width": 40, "height": 20}],
            "annotations": [{"id": 2, "bbox": [0, 0, 20, 20]}],
        },
        "dets": {"3": [[0, 0, 20, 20], [20, 0, 20, 20]]},
    }
    files = {name: tmp_path / f"{name}.json" for name in content}
    for name, path in files.items():
        path.write_text(json.dumps(content[name]))
    recipe = refer_refcoco_plus(
        tmp_path, files["train"], (files["val"],), tmp_path, files["refs"], files["instances"], files["dets"]
    )
    assert recipe.data.train()[0].texts == ("a thing",)
    assert recipe.data.evaluate is not None
    assert len(recipe.data.evaluate()[0].target["proposals"]) == 2


def test_what_is_missing_is_named(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"no checkpoint.*--checkpoint"):
        refer_refcoco_plus()
    with pytest.raises(UsageError, match="less than one batch of 256"):
        refer_refcoco_plus(tmp_path, expressions=255)
    assert refer_scenes(5).data.train().where(0).startswith("scenes (train")
