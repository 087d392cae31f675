"""A killed run continues exactly; a stopped one leaves a checkpoint."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.distributed.job import finish, launch, state_of, tiny_recipe, train
from wordregion.engine.checkpoint import checkpoints, read_facts


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As in the processes that are launched: sums of another number of threads round differently."""
    torch.set_num_threads(1)


def lines(run: Path) -> list[dict]:
    timings = ("pairs_per_second", "memory_gb")
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timings} for line in read]


def assert_identical(run: Path, state: dict, other: Path) -> None:
    wanted = torch.load(other / "state.pt")
    assert state.keys() == wanted.keys()
    different = [name for name, value in wanted.items() if not torch.equal(state[name], value)]
    assert not different
    assert lines(run) == lines(other)
    assert [line["step"] for line in lines(run)] == list(range(1, 11))


def test_ten_steps_are_five_a_kill_and_five(tmp_path: Path) -> None:
    """One process; dropout, augmentation, masking and mined negatives are all random; the workers differ in number."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    jobs = [{"out": str(whole), "workers": 2}, {"out": str(broken), "workers": 2, "kill_after": 7}]
    finish(launch(jobs, tmp_path, processes=1), expect=-signal.SIGKILL)
    assert [path.name for path in checkpoints(broken)] == ["step_000005"]
    result = train(tiny_recipe(workers=1), broken, resume=True)
    assert_identical(broken, state_of(result), whole)


def test_ten_steps_are_five_a_kill_and_five_with_shards(tmp_path: Path) -> None:
    """Two processes, FSDP2."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    shared = {"parallel": "fsdp", "workers": 1}
    jobs = [{"out": str(whole), **shared}, {"out": str(broken), **shared, "kill_after": 7}]
    finish(launch(jobs, tmp_path), expect=-signal.SIGKILL)
    finish(launch([{"out": str(broken), **shared, "resume": True}], tmp_path))
    assert_identical(broken, torch.load(broken / "state.pt"), whole)


def test_sigterm_to_one_process_stops_all_with_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = launch([{"out": str(run), "parallel": "ddp", "steps": 100_000, "save_every": 100_000}], tmp_path)
    end = time.monotonic() + 200
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < 2:
        assert time.monotonic() < end
        assert all(process.poll() is None for process in started), finish(started)
        time.sleep(0.2)
    started[1].send_signal(signal.SIGTERM)
    told = finish(started, expect=128 + signal.SIGTERM)
    assert "a checkpoint is written. Continue with --resume." in told
    (path,) = checkpoints(run)
    step = read_facts(path)["step"]
    assert lines(run)[-1]["step"] == step
    result = train(tiny_recipe(steps=step + 1), run, resume=True)
    assert (result.step, result.finished, result.signal) == (step + 1, True, None)
    assert [line["step"] for line in lines(run)] == list(range(1, step + 2))
