"""The ablation: equal conditions, resumed runs, a table by hand; and one real one, very small."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_cli import recipe_file
from wordregion import cli
from wordregion.ablate import (
    AblateFlags,
    Measure,
    _wordregion,
    as_html,
    as_markdown,
    check_equal,
    label,
    over_seeds,
    run_ablation,
)
from wordregion.errors import UsageError, WordregionError
from wordregion.recipes.albef import albef_demo
from wordregion.recipes.vl_match import vl_match_scenes


class Fake:
    """Stands for the command: notes what it was asked, and writes what it would write."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def __call__(self, arguments):
        self.asked.append(arguments)
        command, first = arguments[:2]
        value = {"a": 40.0, "b": 60.0}
        if command == "train":
            out = self.folder(arguments)
            out.mkdir(parents=True)
            if len(self.asked) == self.stop_at:
                (out / "checkpoints" / "step-5").mkdir(parents=True)
                return
            (out / "model.safetensors").write_text("")
            lines = [{"pairs_per_second": speed, "memory_gb": 2.0} for speed in (1, 100, 120)]
            (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        else:
            out = self.folder(arguments)
            run = arguments[2] if first == "compositional" else first
            seed = float(run.rpartition("-")[2])
            metrics = {"raw/itm/accuracy": value[run.split("/")[-2][-1]] + seed, "raw/itc/accuracy": 50.0}
            out.write_text(json.dumps({"metrics": metrics}))

    @staticmethod
    def folder(arguments):
        return Path(arguments[arguments.index("--out") + 1])


def flags(tmp_path, **more):
    recipes = ("albef_demo --scenes 30 a", "albef_demo --scenes 30 b")
    return AblateFlags(recipes=recipes, out=tmp_path, **{"batch": 4, **more})


def recipes():
    return [albef_demo(30), albef_demo(30)]


def test_every_recipe_is_trained_with_every_seed_and_measured(tmp_path):
    fake = Fake()
    table = run_ablation(
        flags(tmp_path, seeds=(0, 1, 2), steps=7, compositional=("sets/x.json::photos",)), recipes(), fake
    )
    trained = [a for a in fake.asked if a[0] == "train"]
    assert len(trained) == 6
    assert all(a[a.index("--steps") + 1] == "7" for a in trained)
    assert [a[a.index("--seed") + 1] for a in trained] == ["0", "1", "2"] * 2
    assert trained[0][1:4] == ["albef_demo", "--scenes", "30"]
    composed = next(a for a in fake.asked if a[:2] == ["eval", "compositional"])
    assert composed[3:8] == ["--data", "sets/x.json", "--images", "photos", "--available"]
    second = table["albef_demo --scenes 30 b"]
    assert second["itm/accuracy"] == Measure(61.0, 1.0, (60.0, 61.0, 62.0))
    assert second["x: itm/accuracy"].mean == 61.0
    assert second["pairs_per_second"].mean == 110  # the first line is warming up
    assert second["memory_gb"].mean == 2.0
    again = Fake()
    assert (
        run_ablation(
            flags(tmp_path, seeds=(0, 1, 2), steps=7, compositional=("sets/x.json::photos",)), recipes(), again
        )
        == table
    )
    assert again.asked == []  # everything was there
    content = json.loads((tmp_path / "ablation.json").read_text())
    assert content["table"]["albef_demo --scenes 30 a"]["itm/accuracy"]["values"] == [40.0, 41.0, 42.0]


def test_a_stopped_run_is_resumed(tmp_path):
    with pytest.raises(WordregionError, match="same command"):
        run_ablation(flags(tmp_path), recipes(), Fake(stop_at=1))

    class Resumes(Fake):
        def __call__(self, arguments):
            if "--resume" in arguments:
                self.asked.append("resumed")
                out = self.folder(arguments)
                (out / "model.safetensors").write_text("")
                (out / "metrics.jsonl").write_text(json.dumps({"pairs_per_second": 1, "memory_gb": 1}) + "\n")
            else:
                super().__call__(arguments)

    fake = Resumes()
    run_ablation(flags(tmp_path), recipes(), fake)
    assert fake.asked[0] == "resumed"


def test_recipes_must_agree_in_steps_batch_and_data(tmp_path):
    same = recipes()
    check_equal(flags(tmp_path), same)
    longer = replace(same[1], run=replace(same[1].run, steps=5))
    with pytest.raises(UsageError, match="steps"):
        check_equal(flags(tmp_path), [same[0], longer])
    check_equal(flags(tmp_path, steps=3), [same[0], longer])
    with pytest.raises(UsageError, match="same images and captions"):
        check_equal(flags(tmp_path), [same[0], albef_demo(31)])
    with pytest.raises(UsageError, match="two different"):
        check_equal(AblateFlags(recipes=("a",)), same[:1])


def test_vl_matchs_arms_are_equal(tmp_path):
    specs = tuple(f"{words} {match}" for words in ("mlm", "rtd") for match in ("itm", "fg_itm"))
    arms = [vl_match_scenes(30, *spec.split()) for spec in specs]
    check_equal(AblateFlags(recipes=specs, out=tmp_path, batch=4), arms)


def test_the_tables_say_mean_spread_and_the_best(tmp_path):
    table = {
        "one": {"itm/accuracy": over_seeds([50.0, 60.0]), "memory_gb": over_seeds([3.0])},
        "two <b>": {"itm/accuracy": over_seeds([70.0, 70.0]), "memory_gb": over_seeds([4.0])},
    }
    text = as_markdown(table, "told")
    assert "| itm/accuracy | 55.0 ± 7.1 | **70.0 ± 0.0** |" in text
    assert "| GB | **3.0** | 4.0 |" in text
    page = as_html(table, "told")
    assert "two &lt;b&gt;" in page
    assert "<td class=best>70.0 ± 0.0</td>" in page


def test_folders_are_named_by_recipe_and_flags():
    assert label("vl_match_scenes --words mlm") == "vl_match_scenes_words_mlm"
    assert label("dir/my.py:mine --x 0.1") == "my_mine_x_0.1"


def test_a_failed_run_says_which():
    _wordregion(["--version"])
    with pytest.raises(WordregionError, match="status 2: wordregion nonsense"):
        _wordregion(["nonsense"])


def test_a_real_ablation_of_one_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wordregion.ablate._wordregion", lambda arguments: cli.main(list(arguments)))  # no new process
    file = recipe_file(tmp_path)
    more = ["--out", str(tmp_path / "out"), "--seeds", "0", "--steps", "1"]
    monkeypatch.setattr("wordregion.data.datasets.compositional._SCENES", 6)
    more += ["--compositional", "scenes", "--metrics", "TR@1", "accuracy"]
    assert cli.main(["ablate", f"{file}:tiny --width 32", f"{file}:tiny --width 64", *more]) == 0
    table = json.loads((tmp_path / "out" / "ablation.json").read_text())["table"]
    assert len(table) == 2
    for row in table.values():
        assert {"itc/TR@1", "scenes: itm/accuracy", "pairs_per_second", "memory_gb"} <= set(row)
        assert row["memory_gb"]["mean"] > 0
    assert "| itc/TR@1 |" in capsys.readouterr().out
