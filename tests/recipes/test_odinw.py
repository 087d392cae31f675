"""The settings of adaptation to small sets, and what its prompts ask."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.test_odinw_sets import part
from tests.models.grounders import small_grounder
from wordregion.data.datasets.odinw import open_part
from wordregion.data.few_shot import Subset
from wordregion.data.ground_transforms import GroundEvalTransform, GroundTransform
from wordregion.data.prompts import DetectionPrompts, FixedPrompts
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.recipes.odinw import Mode, Tuning, odinw_tuning
from wordregion.recipes.recipe import Recipe, resolved

TOKENIZER = Tokenizer("scenes", max_tokens=24, clean=False)


def recipe(folder: Path, few: bool = True, classes: tuple[str, ...] = ("red circle", "star"), **tuning) -> Recipe:
    prompts = {"Aquarium": [{"name": name, "suffix": " shape"} for name in classes]}
    valid = open_part("Aquarium", part(folder / "a.json", classes, photos=3), prompts)
    photos = Subset(valid.dataset, [0, 1, 2], copies=8)
    return odinw_tuning(small_grounder(), photos, valid, TOKENIZER, GroundEvalTransform(), Tuning(**tuning), few)


PARTS = {"full": {"vision", "pyramid", "text", "tower", "head"}, "linear": {"head"}, "prompt": {"offset"}}


@pytest.mark.parametrize(
    ("mode", "lr", "decay"), [("full", 1e-4, 0.05), ("linear", 1e-4, 0.05), ("prompt", 0.05, 0.25)]
)
def test_settings_as_published(tmp_path: Path, mode: Mode, lr: float, decay: float) -> None:
    made = recipe(tmp_path, mode=mode)
    assert (made.optim.lr, made.optim.weight_decay, made.run.batch, made.run.clip) == (lr, decay, 4, 1.0)
    assert {made.optim.factor(step, 100) for step in (0, 50, 99)} == {1.0}
    assert made.run.steps == 200 * 6
    assert made.plateau is not None
    assert (made.plateau.every, made.plateau.patience, made.plateau.stop) == (6, 3, 8)
    assert made.plateau.least * lr == pytest.approx(1e-6)
    all_photos = recipe(tmp_path, few=False, mode=mode).plateau
    assert all_photos is not None
    assert (all_photos.patience, all_photos.stop) == (2, 4)
    trained = {name.split(".")[0] for name, p in made.model().named_parameters() if p.requires_grad}
    assert trained == PARTS[mode]
    assert isinstance(made.data.transform, GroundTransform)
    assert made.data.transform.shorter == (480, 560, 640, 720, 800)
    assert resolved(made)["plateau"]["type"] == "Plateau"


def test_training_asks_what_the_evaluation_asks(tmp_path: Path) -> None:
    made = recipe(tmp_path, mode="prompt")
    assert isinstance(made.data.transform, GroundTransform)
    assert isinstance(made.data.transform.prompter, FixedPrompts)
    sample = made.data.transform.prompter(made.data.train()[0], np.random.default_rng(0))
    assert sample.texts == ("red circle shape. star shape",)
    assert sample.texts[0][slice(*sample.groundings[0].span)] == "star"


def test_classes_beyond_one_prompt_are_drawn_and_no_prompt_is_tuned_for_them(tmp_path: Path) -> None:
    classes = tuple(f"small red circle {letter}" for letter in "abcdef")
    made = recipe(tmp_path, classes=classes)
    assert isinstance(made.data.transform, GroundTransform)
    assert isinstance(made.data.transform.prompter, DetectionPrompts)
    with pytest.raises(UsageError, match="one text"):
        recipe(tmp_path, classes=classes, mode="prompt")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="epochs and batch are at least 1"):
        Tuning(epochs=0)
