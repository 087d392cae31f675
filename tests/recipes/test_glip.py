"""GLIP's published recipes: their settings, what they mix, and what they miss. Nothing is downloaded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.test_detection_datasets import lines, odvg, photo
from tests.data.test_odinw_sets import part
from tests.data.test_pseudo_boxes import SETTINGS, tagger, teacher
from tests.models.grounders import small_grounder
from tests.parity.glip_data import DATA
from wordregion.data.datasets import open_source
from wordregion.data.ground_transforms import GroundTransform
from wordregion.data.mix import Mix
from wordregion.data.parts import start_cache
from wordregion.data.prompts import ABSENT, DetectionPrompts, class_chunks
from wordregion.data.pseudo_boxes import make_part, version_of
from wordregion.data.tokens import Tokenizer
from wordregion.engine.optim import parameter_groups
from wordregion.errors import UsageError
from wordregion.models.official_glip import GLIP, glip_checkpoint
from wordregion.recipes import glip
from wordregion.recipes.recipe import resolved
from wordregion.schema import Grounding, Sample

VOCAB = str(DATA / "vocab.txt")


@pytest.mark.parametrize(
    ("recipe", "steps", "decay"),
    [(glip.glip_tiny_a, 309_360, 1e-4), (glip.glip_tiny, 684_360, 1e-4), (glip.glip_large, 1_000_000, 0.01)],
)
def test_pretraining_as_published(recipe, steps: int, decay: float) -> None:
    made = recipe(data=("a.json",), text=VOCAB)
    optim, run = made.optim, made.run
    assert (run.steps, run.batch, run.clip, run.precision) == (steps, 64, 1.0, "bf16")
    assert (optim.lr, optim.weight_decay, optim.warmup, optim.milestones) == (1e-4, decay, 2000, (0.67, 0.89))
    rates = [optim.lr * optim.factor(step, steps) for step in (2000, round(0.67 * steps) - 1, round(0.67 * steps))]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5])
    assert isinstance(made.data.transform, GroundTransform)
    assert isinstance(made.data.transform.prompter, DetectionPrompts)
    assert (made.data.transform.shorter, made.data.transform.longest) == ((480, 560, 640, 720, 800), 1333)
    assert resolved(replace(made, source="x"))["model"]["text"] == VOCAB


def test_three_epochs_of_other_data_are_another_number_of_steps() -> None:
    assert glip.glip_tiny(data=("a.json",), epoch=6400, text=VOCAB).run.steps == 30 * 100
    with pytest.raises(UsageError, match="epoch=63 is less than one batch of 64"):
        glip.glip_tiny(data=("a.json",), epoch=63, text=VOCAB)


def test_sources_come_as_often_as_their_copies_and_captions_with_a_teachers_boxes(tmp_path: Path) -> None:
    boxes = part(tmp_path / "instances_train.json", ("fish",), photos=2)
    photo(tmp_path, "a.jpg")
    regions = [{"bbox": [0, 0, 20, 30], "phrase": "a red circle"}]
    caption = {"grounding": {"caption": "a red circle above a square", "regions": regions}}
    captions = str(lines(tmp_path, *(odvg(id=i, **caption) for i in range(3))))
    dataset, out = open_source(captions), tmp_path / "pseudo"
    start_cache(out, version_of(dataset, SETTINGS, "tags", "weights"))
    make_part(out, 0, dataset, tagger, Tokenizer("scenes", clean=False), teacher, SETTINGS)
    recipe = glip.glip_large(data=(str(boxes), captions), pseudo=(f"{captions}::{out}",), copies=(3, 1), text=VOCAB)
    train = recipe.data.train()
    assert isinstance(train, Mix)
    assert len(train) == 2 + 3 + 3
    assert train.order.quotas == (4, 2, 2)  # 6 : 3 : 3 of 8
    alone = glip.glip_tiny_a(data=(str(boxes),), text=VOCAB).data.train()
    assert not isinstance(alone, Mix)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (glip.glip_tiny_a, "glip_tiny_a: no data"),
        (glip.glip_tiny, "glip_tiny: no data"),
        (lambda: glip.glip_large(data=("a", "b"), copies=(1,)), "1 copies for 2 sources"),
        (lambda: glip.glip_tiny(data=("a",), pseudo=("b",), text=VOCAB).data.train(), "no such file|CAPTIONS::FOLDER"),
        (glip.glip_coco, "glip_coco: no checkpoint"),
        (lambda: glip.glip_coco(Path("x"), "huge", text=VOCAB), "unknown model 'huge'"),
    ],
)
def test_what_is_missing_is_said(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_fine_tuning_on_coco_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GLIP, "glip/tiny", small_grounder)
    start = small_grounder(seed=3)
    torch.save({"model": glip_checkpoint(start)}, tmp_path / "glip.pth")
    recipe = glip.glip_coco(tmp_path / "glip.pth", text=VOCAB)
    model = recipe.model()
    assert torch.equal(model.head.text_proj.weight, start.head.text_proj.weight)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (recipe.run.steps, recipe.run.batch) == (24 * (118_287 // 32), 32)
    groups = {(group["lr_scale"], group["weight_decay"]) for group in parameter_groups(model, recipe.optim)}
    assert recipe.optim.lr == 1e-5
    assert groups == {(1.0, 1e-4), (2.0, 0.0)}


def test_coco_is_asked_for_in_one_prompt_in_training_and_evaluation() -> None:
    assert (len(glip.COCO_CLASSES), glip.COCO_CLASSES[0], glip.COCO_CLASSES[-1]) == (80, "person", "toothbrush")
    recipe = glip.glip_coco(Path("x"), text=VOCAB)
    tokenizer, size = recipe.data.collator().tokenizer, recipe.evaluation.keywords["per_prompt"]
    (prompt,) = class_chunks(glip.COCO_CLASSES, tokenizer, size)
    transform = recipe.data.transform
    assert isinstance(transform, GroundTransform)
    assert transform.prompter is not None
    sample = Sample("1", (), ("dog",), (Grounding(text=0, boxes=((0, 0, 1, 1),)),), {ABSENT: ("person",)})
    asked = transform.prompter(sample, np.random.default_rng(0))
    assert asked.texts == (prompt.text,)
    assert asked.texts[0][slice(*asked.groundings[0].span)] == "dog"


def test_cocos_photos_are_found_in_a_folder_of_the_splits_name(tmp_path: Path) -> None:
    path = part(tmp_path / "photos" / "val2017" / "x.json", ("fish",))
    content = json.loads(path.read_text())
    (tmp_path / "instances_val2017.json").write_text(json.dumps(content))
    recipe = glip.glip_coco(
        Path("x"), val=str(tmp_path / "instances_val2017.json"), images=tmp_path / "photos", text=VOCAB
    )
    assert recipe.data.evaluate is not None
    assert recipe.data.evaluate()[0].texts == ("fish",)
