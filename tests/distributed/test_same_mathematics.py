"""One process with 2 B, two with B each by DDP and by FSDP2: the same losses and weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.job import finish, launch, state_of, tiny_recipe, train
from tests.distributed.other_recipes import RECIPES

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two-process runs, all in one pair of processes."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        {"out": str(folder / "ddp"), "parallel": "ddp", "fixed": 4},
        {"out": str(folder / "fsdp"), "parallel": "fsdp", "fixed": 4, "evaluate": True},
        {"out": str(folder / "recomputed"), "parallel": "fsdp", "fixed": 4, "checkpoint_activations": True},
        {"out": str(folder / "ddp_keys"), "parallel": "ddp", "fixed": 4, "teacher": False},
        {"out": str(folder / "fsdp_keys"), "parallel": "fsdp", "fixed": 4, "teacher": False},
        {"out": str(folder / "ddp_masked"), "parallel": "ddp", "fixed": 4, "objectives": "masked", "accumulate": 2},
        {"out": str(folder / "fsdp_masked"), "parallel": "fsdp", "fixed": 4, "objectives": "masked", "accumulate": 2},
    ]
    finish(launch(jobs, folder))
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, settings in (("all", {}), ("masked", {"objectives": "masked"}), ("keys", {"teacher": False})):
        result = train(tiny_recipe(fixed=4, **settings), folder / name)
        torch.save(state_of(result), folder / name / "state.pt")
    return folder


@pytest.fixture(scope="module")
def other_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every other task, on two processes each way and on one."""
    folder = tmp_path_factory.mktemp("others")
    jobs = [
        {"out": str(folder / f"{mode}_{kind}"), "kind": kind, "parallel": mode}
        for kind in RECIPES
        for mode in ("ddp", "fsdp")
    ]
    finish(launch(jobs, folder))
    finish(launch([{"out": str(folder / f"alone_{kind}"), "kind": kind} for kind in RECIPES], folder, processes=1))
    return folder


UNLIKE = ("pairs_per_second", "memory_gb")
"""What a run logs and a number of processes changes."""


def losses(run: Path) -> list[dict[str, float]]:
    """What each step logged: an objective that it did not train is absent."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in UNLIKE} for line in lines]


def assert_same(run: Path, reference: Path, steps: int = 10) -> None:
    assert len(losses(run)) == steps
    torch.testing.assert_close(losses(run), losses(reference), atol=TOLERANCE, rtol=TOLERANCE)
    state, wanted = torch.load(run / "state.pt"), torch.load(reference / "state.pt")
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        ours, theirs = (_without_key_bias(part) if name.endswith("qkv.bias") else part for part in (state[name], value))
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def _without_key_bias(bias: torch.Tensor) -> torch.Tensor:
    """A softmax doesn't feel the keys' bias: its gradient is rounding alone, which Adam blows up to steps."""
    query, _, value = bias.chunk(3)
    return torch.cat([query, value])


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "recomputed"])
def test_two_processes_equal_one_with_the_whole_batch(runs: Path, alone: Path, mode: str) -> None:
    """Includes the queue, the teacher, the counter and the clipped gradient's norm."""
    assert_same(runs / mode, alone / "all")


@pytest.mark.parametrize("mode", ["ddp_keys", "fsdp_keys"])
def test_keys_of_other_processes_get_their_gradient(runs: Path, alone: Path, mode: str) -> None:
    assert_same(runs / mode, alone / "keys")


@pytest.mark.parametrize("mode", ["ddp_masked", "fsdp_masked"])
def test_accumulation_on_two_processes_equals_the_whole_batch(runs: Path, alone: Path, mode: str) -> None:
    assert_same(runs / mode, alone / "masked")


def test_a_run_of_two_processes_resumes_on_one(runs: Path, alone: Path, tmp_path: Path) -> None:
    """From sharded to whole; what follows is the same, as no random number is drawn here."""
    shutil.copytree(runs / "fsdp", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step_000010")
    result = train(tiny_recipe(fixed=4, parallel="fsdp"), tmp_path / "run", resume=True)
    torch.save(state_of(result), tmp_path / "run/state.pt")
    assert_same(tmp_path / "run", alone / "all")


def test_the_exported_student_is_whole(runs: Path, alone: Path) -> None:
    sharded, whole = (load_file(run / "model.safetensors") for run in (runs / "fsdp", alone / "all"))
    assert {name: value.shape for name, value in sharded.items()} == {name: v.shape for name, v in whole.items()}


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", RECIPES)
def test_two_processes_equal_one_in_every_task(other_runs: Path, kind: str, mode: str) -> None:
    assert_same(other_runs / f"{mode}_{kind}", other_runs / f"alone_{kind}", steps=3)
