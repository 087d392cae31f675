"""GLIP on the scenes, and what its adaptation trains. That it learns is measured in docs/glip.md."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wordregion.data.loader import StepLoader
from wordregion.data.prompts import class_chunks
from wordregion.data.scene_detections import SceneDetections
from wordregion.engine.trainer import train
from wordregion.errors import UsageError
from wordregion.fingerprint import fingerprint
from wordregion.models.adapt import load_prompt, save_prompt
from wordregion.models.grounder import Grounder
from wordregion.models.store import load_model, save_model
from wordregion.recipes.glip_scenes import CLASSES, glip_scenes, glip_scenes_adapt
from wordregion.recipes.recipe import Recipe
from wordregion.runs import load_student


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "start"
    model = glip_scenes().model()
    assert isinstance(model, Grounder)
    save_model(model, folder)
    return folder


def short(recipe: Recipe) -> Recipe:
    run = replace(recipe.run, steps=2, batch=2, workers=0, log_every=1, device="cpu")
    return replace(recipe, run=run, optim=replace(recipe.optim, warmup=0))


def test_a_step_from_nothing_reaches_every_part() -> None:
    recipe = glip_scenes(scenes=20)
    task = recipe.task.build(recipe.model()).train()
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=4, seed=0)
    (batch,) = next(iter(loader))
    assert len(batch.box)
    output = task(batch, task.counts(batch))
    output.loss.backward()
    assert set(output.metrics) == {"words", "boxes", "centre"}
    still = {name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name.split(".")[0] for name, _ in task.model.named_parameters() if name not in still} == {
        "vision", "pyramid", "text", "tower", "head",
    }  # fmt: skip


def test_prompt_tuning_moves_no_weight_and_its_prompt_is_loaded_alone(start: Path, tmp_path: Path) -> None:
    recipe = short(glip_scenes_adapt(start, "prompt", pictures=4))
    before = fingerprint(load_model(start, Grounder))
    train(recipe, tmp_path / "run")
    assert fingerprint(load_model(start, Grounder)) == before
    tuned, _ = load_student(recipe, tmp_path / "run")
    assert isinstance(tuned, Grounder)
    save_prompt(tuned, tmp_path / "prompt.safetensors")
    prompted = load_prompt(load_model(start, Grounder), tmp_path / "prompt.safetensors")
    assert fingerprint(prompted) == fingerprint(tuned) != before
    offset = load_file(tmp_path / "prompt.safetensors")["offset.weight"]
    (prompt,) = class_chunks(recipe.data.train().classes, recipe.data.collator().tokenizer, CLASSES)
    assert len(offset) == recipe.data.collator().tokenizer([prompt.text]).mask.sum()
    assert fingerprint(load_prompt(tuned, None)) == before


@pytest.mark.parametrize(("mode", "parts"), [("linear", {"head"}), ("full", {"vision", "pyramid", "text", "head"})])
def test_other_ways_move_what_they_train(start: Path, tmp_path: Path, mode: str, parts: set[str]) -> None:
    train(short(glip_scenes_adapt(start, mode, pictures=4)), tmp_path / "run")
    old, new = load_file(start / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    moved = {name.split(".")[0] for name, value in new.items() if not torch.equal(value, old[name])}
    assert moved - {"tower"} == parts
    assert ("tower" in moved) == (mode == "full")


def test_the_evaluation_asks_what_training_asked(start: Path) -> None:
    recipe = glip_scenes_adapt(start, pictures=4)
    collator, dataset = recipe.data.collator(), SceneDetections("val", 4, names="renamed")
    assert recipe.data.evaluate is not None
    assert recipe.data.evaluate().name == dataset.name
    transformed = recipe.data.transform(recipe.data.train()[0], np.random.default_rng(0))
    (prompt,) = class_chunks(dataset.classes, collator.tokenizer, CLASSES)
    assert transformed.texts == (prompt.text,)
    assert transformed.groundings
    metrics = recipe.evaluation(recipe.model(), dataset, collator, recipe.data.eval_transform, progress=False).metrics
    assert set(metrics) == {"raw/coco/AP", "raw/coco/AP50", "raw/coco/AP75"}


def test_more_classes_than_fit_one_prompt_are_refused(start: Path) -> None:
    with pytest.raises(UsageError, match="80 classes have more than 62 tokens"):
        glip_scenes_adapt(start, names="seen")
