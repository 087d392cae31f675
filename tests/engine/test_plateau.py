"""Evaluation while training: when the rate falls, when training ends, and whose weights remain."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.distributed.job import tiny_recipe
from wordregion.engine.plateau import BEST, Watch
from wordregion.engine.trainer import train
from wordregion.errors import UsageError
from wordregion.recipes.recipe import AdamW, Plateau, Recipe


def test_the_rate_falls_when_torchs_schedule_lets_it() -> None:
    generator = torch.Generator().manual_seed(0)
    for patience in (0, 1, 3):
        settings = Plateau(1, "AP", patience=patience, stop=1000)
        watch = Watch(settings)
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        theirs = ReduceLROnPlateau(optimiser, "max", 0.1, patience, min_lr=settings.least)
        for step, value in enumerate((torch.rand(40, generator=generator) * 50 + 1).tolist()):
            watch.see(step, value)
            theirs.step(value)
            assert watch.factor == pytest.approx(optimiser.param_groups[0]["lr"])
        assert watch.factor == settings.least


def test_training_ends_after_some_values_below_the_best_in_a_row() -> None:
    watch = Watch(Plateau(1, "AP", patience=9, stop=3))
    good = [watch.see(step, value) for step, value in enumerate([5, 4, 5, 4, 4])]
    assert good == [True, False, True, False, False]  # as good as the best counts
    assert not watch.ended
    again = Watch(watch.settings, json.loads(json.dumps(watch.seen)))
    again.see(5, 4.9)
    assert again.ended
    assert again.seen == [(i, v) for i, v in enumerate([5, 4, 5, 4, 4, 4.9])]


def test_nothing_found_yet_does_not_lower_the_rate() -> None:
    watch = Watch(Plateau(1, "AP", patience=0))
    for step in range(5):
        assert watch.see(step, 0.0)
    assert watch.factor == 1.0


class Scripted:
    """An evaluation with given results; keeps a copy of what it was shown."""

    def __init__(self, *values: float) -> None:
        self.values: Iterator[float] = iter(values)
        self.shown: list[torch.Tensor] = []

    def __call__(self, model, dataset, collator, transform, **settings) -> SimpleNamespace:
        assert dataset == "photos"
        self.shown.append(model.vision.body.patch_embed.proj.weight.detach().clone())
        model.eval()
        return SimpleNamespace(metrics={"raw/x/AP": next(self.values), "raw/x/AP50": 1.0})


def recipe(evaluation: Scripted, steps: int = 9, **plateau: int) -> Recipe:
    base = tiny_recipe(steps=steps, save_every=1)
    data = replace(base.data, evaluate=lambda: "photos", eval_transform=base.data.transform)
    settings = Plateau(1, "x/AP", **{"patience": 0, "stop": 3, **plateau})
    constant = AdamW(lr=1e-3, schedule="step", milestones=())
    return replace(base, data=data, evaluation=evaluation, optim=constant, plateau=settings)


def rates(out: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_ends_early_with_its_best_weights_and_can_be_resumed(tmp_path: Path) -> None:
    values = (1.0, 3.0, 2.0, 2.5, 2.5)
    whole = Scripted(*values)
    result = train(recipe(whole), tmp_path / "whole")
    assert result.finished
    assert result.step == 5
    exported = load_file(tmp_path / "whole" / "model.safetensors")["vision.body.patch_embed.proj.weight"]
    assert torch.equal(exported, whole.shown[1])
    assert not torch.equal(exported, whole.shown[4])
    seen = json.loads((tmp_path / "whole" / "validation.json").read_text())
    assert seen == [[number, value] for number, value in enumerate(values, 1)]
    assert rates(tmp_path / "whole") == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-5])
    assert result.task.model.training  # an evaluation leaves the mode as it was

    train(recipe(Scripted(*values[:3]), steps=3), tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors").unlink()
    resumed = train(recipe(Scripted(*values[3:])), tmp_path / "parts", resume=True)
    assert resumed.step == 5
    again = load_file(tmp_path / "parts" / "model.safetensors")
    assert torch.equal(again["vision.body.patch_embed.proj.weight"], exported)
    assert rates(tmp_path / "parts") == rates(tmp_path / "whole")


def test_only_what_is_trained_is_kept_beside_the_run(tmp_path: Path) -> None:
    base = recipe(Scripted(1.0), steps=1)
    train(replace(base, optim=replace(base.optim, freeze=("vision.",))), tmp_path / "run")
    best = load_file(tmp_path / "run" / BEST)
    assert not any(name.startswith("vision.") and "patch_embed" in name for name in best)
    assert any(name.startswith("text.") for name in best)
    assert "vision.body.patch_embed.proj.weight" in load_file(tmp_path / "run" / "model.safetensors")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"stop": 0}, "stop, batch >= 1"), ({"every": 0}, "every, stop"), ({"drop": 1.0}, "drop < 1")],
)
def test_settings_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Plateau(**{"every": 1, "measure": "AP", **wrong})


def test_a_measure_that_is_not_there_and_missing_data_are_said(tmp_path: Path) -> None:
    base = recipe(Scripted(1.0))
    with pytest.raises(UsageError, match="0 metrics end in 'y/AP'"):
        train(replace(base, plateau=Plateau(1, "y/AP")), tmp_path / "measure")
    with pytest.raises(UsageError, match="needs Data with evaluate"):
        train(replace(base, data=replace(base.data, evaluate=None)), tmp_path / "data")
