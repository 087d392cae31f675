"""One process: what a run leaves behind, and what it refuses."""

import json
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.distributed.job import state_of, tiny_recipe
from wordregion.data.scenes import Scenes
from wordregion.engine import trainer
from wordregion.engine.checkpoint import checkpoints
from wordregion.engine.trainer import Interrupt, train
from wordregion.errors import CheckpointError, DataError, UsageError, WordregionError
from wordregion.models.fusion import FusionModel
from wordregion.objectives import MaskedWords
from wordregion.schema import Sample
from wordregion.tasks.align import Align


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 3 steps with checkpoints at 2 and 3."""
    out = tmp_path_factory.mktemp("runs") / "done"
    train(tiny_recipe(steps=3, save_every=1), out)
    return out


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


def test_what_a_run_leaves(done: Path) -> None:
    assert [path.name for path in checkpoints(done)] == ["step_000002", "step_000003"]
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"loss", "contrast", "match", "masked_words", "lr", "gradient_norm", "pairs_per_second"} <= lines[0].keys()
    record = json.loads((done / "recipe.json").read_text())
    assert record["run"]["batch"] == 8
    assert record["optim"]["lr"] == 1e-3
    assert json.loads((done / "checkpoints/step_000003/facts.json").read_text())["recipe"] == record
    student = tiny_recipe().model()
    missing, unexpected = student.load_state_dict(load_file(done / "model.safetensors"), strict=False)
    assert not unexpected
    assert set(missing) <= {"heads.mask.decoder.weight"}  # tied to the word embeddings
    assert any((done / "tensorboard").iterdir())


def damage_tensors(folder: Path) -> None:
    file = folder / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate_tensors(folder: Path) -> None:
    os.truncate(folder / "__0_0.distcp", 1000)


def remove_index(folder: Path) -> None:
    (folder / ".metadata").unlink()


def break_facts(folder: Path) -> None:
    (folder / "facts.json").write_text("{")


def strip_facts(folder: Path) -> None:
    (folder / "facts.json").write_text("{}")


def remove_random_state(folder: Path) -> None:
    (folder / "random_0.pt").unlink()


@pytest.mark.parametrize(
    "damage", [damage_tensors, truncate_tensors, remove_index, break_facts, strip_facts, remove_random_state]
)
def test_a_damaged_checkpoint_is_one_clear_line(copy: Path, damage) -> None:
    damage(copy / "checkpoints/step_000003")
    with pytest.raises(CheckpointError, match=r"step_000003.*Delete this folder") as caught:
        train(tiny_recipe(steps=4), copy, resume=True)
    assert "\n" not in str(caught.value)
    shutil.rmtree(copy / "checkpoints/step_000003")
    assert train(tiny_recipe(steps=3), copy, resume=True).finished


class Evil:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.target),)


def test_an_index_that_runs_code_is_refused(copy: Path, tmp_path: Path) -> None:
    folder = copy / "checkpoints/step_000003"
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(str(tmp_path / "owned"))))
    facts = json.loads((folder / "facts.json").read_text())
    del facts["files"][".metadata"]
    (folder / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="the index names"):
        train(tiny_recipe(steps=4), copy, resume=True)
    assert not (tmp_path / "owned").exists()


def test_a_half_written_checkpoint_is_not_seen(copy: Path) -> None:
    (copy / "checkpoints/step_000003").rename(copy / "checkpoints/draft_000003")
    result = train(tiny_recipe(steps=4), copy, resume=True)
    assert result.step == 4
    assert [path.name for path in sorted((copy / "checkpoints").iterdir())] == ["step_000002", "step_000004"]


def test_another_model_does_not_fit(copy: Path) -> None:
    recipe = replace(tiny_recipe(steps=4), task=Align(objectives=(MaskedWords(),), queue_size=12))
    with pytest.raises(CheckpointError, match=r"of another model or task: has another shape of task/queue"):
        train(recipe, copy, resume=True)


@pytest.mark.parametrize("changed", [{"batch": 4}, {"seed": 1}])
def test_a_resumed_run_keeps_batch_and_seed(copy: Path, changed: dict) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(changed))}"):
        train(tiny_recipe(**({"steps": 4} | changed)), copy, resume=True)


def test_a_model_is_prepared_before_the_first_step_alone(tmp_path: Path) -> None:
    prepared: list[int] = []

    def prepare(model: FusionModel) -> None:
        prepared.append(1)
        with torch.no_grad():
            model.image_proj.weight.fill_(0.5)

    result = train(replace(tiny_recipe(steps=1), prepare=prepare), tmp_path)
    assert (result.task.teacher.image_proj.weight - 0.5).abs().max() < 0.1
    train(replace(tiny_recipe(steps=2), prepare=prepare), tmp_path, resume=True)
    assert len(prepared) == 1


def test_a_used_folder_and_an_empty_one(done: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--resume"):
        train(tiny_recipe(), done)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        train(tiny_recipe(), tmp_path, resume=True)


def test_a_batch_that_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch=8 cannot be split"):
        train(tiny_recipe(accumulate=3), tmp_path / "run")


def test_accumulation_equals_the_big_batch(tmp_path: Path) -> None:
    """For masked words, whose mean runs over the words of the whole step; a contrast sees only its micro-batch."""
    states = [
        state_of(train(tiny_recipe(fixed=4, objectives="masked", accumulate=n, steps=5), tmp_path / str(n)))
        for n in (1, 4)
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=0)


def test_bf16_is_close_to_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "has_bf16", lambda device: True)  # slow here or not
    results = [train(tiny_recipe(fixed=4, steps=5, precision=p), tmp_path / p) for p in ("fp32", "bf16")]
    assert results[1].metrics["loss"] == pytest.approx(results[0].metrics["loss"], rel=0.02)
    assert results[1].metrics["loss"] != results[0].metrics["loss"]
    assert all(parameter.dtype == torch.float32 for parameter in results[1].task.parameters())


def test_a_device_without_bf16_trains_in_fp32_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "has_bf16", lambda device: False)
    results = [train(tiny_recipe(fixed=4, steps=2, precision=p), tmp_path / p) for p in ("fp32", "bf16")]
    assert results[1].metrics["loss"] == results[0].metrics["loss"]
    assert "training in fp32" in "".join(capsys.readouterr())


def test_activation_checkpointing_changes_nothing(tmp_path: Path) -> None:
    states = [
        state_of(train(tiny_recipe(steps=3, checkpoint_activations=on), tmp_path / str(on))) for on in (False, True)
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-6, rtol=0)


class Poisoned(Align):
    """Its loss is NaN from the third step on."""

    def build(self, model: nn.Module):
        task = super().build(model)
        forward = task.forward

        def poisoned(batch, totals):
            output = forward(batch, totals)
            if int(task.step) == 2:
                output.metrics["match"] = output.metrics["match"] * float("nan")
                output.loss = output.loss + output.metrics["match"]
            return output

        task.forward = poisoned
        return task


def test_a_loss_that_is_not_finite_is_never_used(tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(save_every=2), task=Poisoned(queue_size=20))
    with pytest.raises(WordregionError, match=r"step 3: not finite: loss=nan, match=nan"):
        train(recipe, tmp_path / "run")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_000002"]


class Holes(Scenes):
    """Every third record is broken."""

    def __getitem__(self, index: int) -> Sample:
        if index % 3 == 0:
            raise DataError(f"holes.jsonl, line {index}", "image", "cannot be read", "Remove the line.")
        return super().__getitem__(index)


def holed(share: float):
    recipe = tiny_recipe(steps=2, max_bad_share=share)
    return replace(recipe, data=replace(recipe.data, train=lambda: Holes("train", 50, image_size=32)))


def test_broken_records_are_counted_and_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(holed(0.5), tmp_path / "most").metrics["skipped"] > 0
    assert "skipped: holes.jsonl, line" in capsys.readouterr().out
    with pytest.raises(DataError, match="broken records among the first"):
        train(holed(0.0), tmp_path / "none")


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
