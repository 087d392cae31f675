"""The command line: help, own recipes, overrides, training, evaluation."""

import json
import textwrap
from pathlib import Path

import pytest
import torch

from tests.distributed.job import finish, start
from wordregion import cli
from wordregion.recipes import BUILTIN
from wordregion.recipes.albef import albef_4m, albef_demo

# A model and data small enough for a test; returned by the recipe functions of the tests.
TINY = """
    from dataclasses import replace
    from functools import partial
    from wordregion.data.scenes import Scenes
    from wordregion.models.zoo import albef_tiny
    from wordregion.recipes.albef import albef_demo
    from wordregion.tasks.align import Align


    def tiny(scenes: int = 8, width: int = 64):
        '''A recipe for tests.

        Args:
            scenes: how many.
            width: of the model.
        '''
        base = albef_demo(scenes)
        data = replace(base.data, evaluate=partial(Scenes, "val", 8, image_size=64, captions=1))
        model = partial(albef_tiny, base.model.args[0], 64, 16, width, 1, 1, 1, 32)
        run = replace(base.run, steps=2, batch=4, workers=0, log_every=1, save_every=1)
        return replace(base, name="tiny", model=model, data=data, task=Align(queue_size=8, ramp_steps=2), run=run)


    def no_evaluation():
        recipe = tiny()
        return replace(recipe, data=replace(recipe.data, evaluate=None))
"""


def recipe_file(folder: Path, text: str = TINY) -> Path:
    path = folder / "recipes.py"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe file and the folder of a finished run of it."""
    folder = tmp_path_factory.mktemp("trained")
    file = recipe_file(folder)
    arguments = ["train", f"{file}:tiny", "--out", str(folder / "run"), "--scenes", "6", "--width", "32"]
    assert cli.main(arguments) == 0
    return file, folder / "run"


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["train"], ["train", "--help"], ["eval", "--help"], ["data"], ["bench", "--help"],
                  ["data", "check", "--help"], ["demo", "--help"], ["train", "albef_demo", "--help"], ["--version"]],
)  # fmt: skip
def test_every_command_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out
    assert not printed.err


def test_help_of_a_recipe_shows_its_own_parameters_with_their_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", f"{recipe_file(tmp_path)}:tiny", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--scenes INT" in shown
    assert "how many." in shown
    assert "--steps" in shown


def test_the_list_of_recipes_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in BUILTIN)


def test_training_writes_weights_and_names_its_recipe(trained: tuple[Path, Path]) -> None:
    file, run = trained
    assert (run / "model.safetensors").is_file()
    record = json.loads((run / "recipe.json").read_text())
    assert record["source"] == f"{file}:tiny"
    assert record["arguments"] == {"scenes": 6, "width": 32}
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_eval_rebuilds_the_recipe_and_reports_recall(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = trained
    assert cli.main(["eval", str(run), "--k", "4", "--protocol", "finetuned_on_scenes"]) == 0
    written = json.loads((run / "eval.json").read_text())
    assert written["items"].startswith("8 images")
    assert set(written["metrics"]) == {
        f"finetuned_on_scenes/{way}/{side}@{n}"
        for way in ("itc", "rerank_k4", "rerank_k4+itc") for side in ("TR", "IR") for n in (1, 5, 10)
    }  # fmt: skip
    assert "rerank_k4" in capsys.readouterr().out


def test_eval_takes_another_data_set_and_the_last_checkpoint(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    weights = run / "model.safetensors"
    hidden = weights.rename(run / "hidden")
    try:
        out = tmp_path / "deep" / "figures.json"
        assert cli.main(["eval", str(run), "--k", "0", "--out", str(out)]) == 0
    finally:
        hidden.rename(weights)
    assert json.loads(out.read_text())["weights"] == "step_000002"


def test_two_processes_evaluate_as_one_and_tell_it_once(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert cli.main(["eval", str(run), "--k", "4", "--out", str(one)]) == 0
    told = finish(start(["wordregion.cli", "eval", str(run), "--k", "4", "--out", str(two)]))
    assert told.count("written:") == 1
    assert json.loads(two.read_text())["metrics"] == json.loads(one.read_text())["metrics"]


def test_a_finished_run_is_resumed_to_more_steps(tmp_path: Path) -> None:
    spec, out = f"{recipe_file(tmp_path)}:tiny", str(tmp_path / "run")
    assert cli.main(["train", spec, "--out", out, "--width", "32"]) == 0
    assert cli.main(["train", spec, "--out", out, "--width", "32", "--steps", "3", "--resume"]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_flags_replace_the_recipes_values_and_leave_the_rest() -> None:
    recipe = albef_demo()
    flags = cli.RunFlags(steps=7, lr=0.5, compile=True, clip=2.0)
    changed = cli.override(recipe, flags)
    assert (changed.run.steps, changed.optim.lr, changed.run.compile, changed.run.clip) == (7, 0.5, True, 2.0)
    assert (changed.run.batch, changed.optim.betas, changed.task) == (recipe.run.batch, recipe.optim.betas, recipe.task)


def test_data_check_tells_counts_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "sheets" / "scenes.png"
    assert cli.main(["data", "check", "scenes", "--limit", "3", "--picture", str(picture)]) == 0
    assert "no problems" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_data_check_ends_with_status_1_when_there_are_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "captions.jsonl"
    source.write_text('{"image": "nowhere.jpg", "caption": "a cat"}\n')
    assert cli.main(["data", "check", str(source)]) == 1
    assert "nowhere.jpg" in capsys.readouterr().out


def test_bench_lists_the_programs_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    (tmp_path / "benchmarks" / "common.py").write_text("")
    assert cli.main(["bench"]) == 0
    shown = capsys.readouterr().out
    assert "speed" in shown
    assert "common" not in shown
    assert cli.main(["bench", "speed", "3"]) == 3


def test_ctrl_c_ends_with_status_130_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == "wordregion: interrupted\n"


def test_albef_4m_has_the_papers_settings() -> None:
    recipe = albef_4m(data=("captions.json",))
    assert (recipe.run.batch, recipe.run.steps) == (512, 30 * (4_000_000 // 512))
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.warmup) == (1e-4, 0.02, 2000)
    rates = [recipe.optim.lr * recipe.optim.factor(step, recipe.run.steps) for step in (0, 2001, recipe.run.steps)]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([1e-5, 1e-4, 1e-5]))
    task = recipe.task
    assert (task.queue_size, task.momentum, task.distill, task.ramp_steps) == (65536, 0.995, 0.4, 4_000_000 // 512)


def test_many_measures_are_told_one_below_the_other(capsys):
    cli.print_metrics({f"raw/itc/R@{k}": 10.0 for k in (1, 5, 10)} | {"raw/itm/R@1": 20.0})
    assert [line.split() for line in capsys.readouterr().out.splitlines() if "raw" in line] == [
        ["raw/itc", "10.0", "10.0", "10.0"],
        ["raw/itm", "20.0"],
    ]
    cli.print_metrics({f"raw/rank/a_measure_with_a_long_name_{k}": float(k) for k in range(9)})
    told = capsys.readouterr().out
    assert all(f"a_measure_with_a_long_name_{k}" in told for k in range(9))
