"""`eval odinw` on two small sets: as it is, few photos, all photos; what is done is kept, and the table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.data.test_odinw_sets import part
from wordregion import cli, odinw
from wordregion.data.datasets.odinw import FOLDERS
from wordregion.data.ground_transforms import GroundEvalTransform
from wordregion.data.tokens import Tokenizer
from wordregion.errors import CheckpointError, UsageError
from wordregion.evaluate.odinw import ODINW13, ODINW35
from wordregion.fingerprint import fingerprint
from wordregion.models.adapt import load_prompt
from wordregion.models.grounder import Grounder, assemble
from wordregion.models.store import load_model, save_model
from wordregion.nn.pyramid import TimmPyramid
from wordregion.nn.text import TextEncoder, bert_config
from wordregion.odinw import Detecting, Job, OdinwFlags, as_markdown, check_odinw, every_job, run_odinw, table

CPU = torch.device("cpu")
NAMES = ("Aquarium", "Packages")
FILE = "annotations_without_background.json"


def detector() -> Grounder:
    """Finds something everywhere: its words fit with a score of a half."""
    torch.manual_seed(0)
    vision = TimmPyramid("convnext_atto", settings={"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)})
    text = TextEncoder(bert_config(Tokenizer("scenes").vocab_size, 32, 1, 2, max_tokens=64, dropout=0.0))
    model = assemble(vision, text, 1, 32, 64, heads=2, dropout=0.0).eval()
    torch.nn.init.zeros_(model.head.bias)
    return model


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odinw")
    for name, classes in zip(NAMES, (("red circle", "blue star"), ("green square",)), strict=True):
        for split in ("train", "valid", "test"):
            part(root / FOLDERS[name] / split / FILE, classes, photos=3, boxes=1)
    return root


def flags(root: Path, out: Path, **more: object) -> OdinwFlags:
    return OdinwFlags(Path("model"), root, out=out, **{"epochs": 1, "batch": 2, "seeds": (3, 30), **more})


def run(given: OdinwFlags, model: Grounder | None = None) -> dict:
    look = GroundEvalTransform(32, 64)
    detecting = Detecting(detector() if model is None else model, Tokenizer("scenes", max_tokens=64, clean=False), look)
    content = run_odinw(given, *check_odinw(given), detecting, CPU)
    assert content is not None
    return content


def test_zero_shot_few_shots_and_all_photos_stand_in_one_table(sets: Path, tmp_path: Path, capsys) -> None:
    given = flags(sets, tmp_path, shots=("0", "1", "full"))
    content = run(given)
    assert content["protocols"] == ["raw", "finetuned_on_1shot", "finetuned_on_full"]
    assert set(content["sets"]) == set(NAMES)
    assert len(content["sets"]["Aquarium"]["finetuned_on_1shot"]["runs"]) == 2
    assert content["means"] == {}
    told = (tmp_path / "odinw.md").read_text()
    assert "| mean of 13 | 11 sets lack | 11 sets lack | 11 sets lack |" in told
    assert json.loads((tmp_path / "odinw.json").read_text()) == json.loads(json.dumps(content))
    shown = capsys.readouterr().out
    assert "[8/8] Packages, finetuned_on_full" in shown
    seed = tmp_path / "Aquarium" / "finetuned_on_1shot" / "seed_3"
    assert {path.name for path in seed.iterdir()} == {"result.json", "validation.json"}
    assert json.loads((seed / "result.json").read_text())["metrics"].keys() >= {"finetuned_on_1shot/coco/AP"}

    (seed / "result.json").unlink()  # one is missing: only that one is made again, equally
    assert run(given) == content
    assert capsys.readouterr().out.count("[") == 1


def test_results_of_another_model_or_setting_do_not_count(sets: Path, tmp_path: Path) -> None:
    given = flags(sets, tmp_path, sets=("Packages",))
    run(given)
    other = detector()
    torch.nn.init.ones_(other.head.bias)
    with pytest.raises(UsageError, match="made with another model"):
        run(given, other)
    with pytest.raises(UsageError, match="made with another split"):
        run(replace(given, split="valid"))
    (tmp_path / "Packages" / "raw" / "all" / "result.json").write_text("{}")
    with pytest.raises(CheckpointError, match="Delete it to measure again"):
        run(given)


def test_a_tuned_prompt_is_kept_and_the_model_is_not_changed(sets: Path, tmp_path: Path) -> None:
    model = detector()
    before = fingerprint(model)
    run(flags(sets, tmp_path, sets=("Aquarium",), shots=("1",), seeds=(3,), mode="prompt"), model)
    assert fingerprint(model) == before
    folder = tmp_path / "Aquarium" / "finetuned_on_1shot_prompt" / "seed_3"
    assert {path.name for path in folder.iterdir()} == {"result.json", "validation.json", "prompt.safetensors"}
    assert fingerprint(load_prompt(model, folder / "prompt.safetensors")) != before


def test_adapted_models_are_kept_on_demand(sets: Path, tmp_path: Path) -> None:
    given = flags(sets, tmp_path, sets=("Packages",), shots=("full",), mode="linear", keep=True)
    run(given)
    adapted = load_model(tmp_path / "Packages" / "finetuned_on_full_linear" / "all" / "model", Grounder)
    assert not torch.equal(adapted.head.text_proj.weight, detector().head.text_proj.weight)
    assert torch.equal(adapted.pyramid.out[0].weight, detector().pyramid.out[0].weight)


def test_a_stopped_training_is_said_and_goes_on(sets: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    given = flags(sets, tmp_path, sets=("Packages",), shots=("full",))
    real = odinw.train

    def stopped(recipe, out, resume):
        real(replace(recipe, run=replace(recipe.run, steps=1, save_every=1)), out, resume)
        (out / "model.safetensors").unlink()
        return type("Stopped", (), {"finished": False})

    monkeypatch.setattr(odinw, "train", stopped)
    look = GroundEvalTransform(32, 64)
    detecting = Detecting(detector(), Tokenizer("scenes", max_tokens=64, clean=False), look)
    given = replace(given, epochs=2)
    assert run_odinw(given, *check_odinw(given), detecting, CPU) is None
    assert "give the same command to go on" in capsys.readouterr().out
    resumed = []
    monkeypatch.setattr(odinw, "train", lambda recipe, out, resume: resumed.append(resume) or real(recipe, out, resume))
    run(given)
    assert resumed == [True]


def test_published_few_shot_files_are_taken(sets: Path, tmp_path: Path) -> None:
    home = tmp_path / "Packages"
    part(home / "train" / FILE, ("green square",), photos=5)
    part(home / "train" / "fewshot_train_shot3_seed30.json", ("green square",), photos=4)
    photos = odinw.train_photos("Packages", home, "3", 30, None)
    assert len(photos) == 4 * 4
    drawn = odinw.train_photos("Packages", home, "3", 3, None)
    assert len(drawn) == 3 * 4
    assert len(odinw.train_photos("Packages", home, "full", None, None)) == 5


def test_means_over_13_and_35_sets_need_them_all() -> None:
    given = OdinwFlags(Path("m"), Path("d"), shots=("0", "3"))
    jobs = list(every_job(ODINW35, given))
    results = {job: {"AP": 10.0 + 10 * (job.name in ODINW13) + (job.seed or 0) / 30} for job in jobs}
    content = table(jobs, results) | {"split": "test"}
    assert content["means"]["raw/odinw13/AP"] == pytest.approx(20)
    assert content["means"]["raw/odinw35/AP"] == pytest.approx(10 + 130 / 35)
    assert content["means"]["finetuned_on_3shot/odinw13/AP_std"] > 0
    assert "| mean of 13 | **20.0** | **23.7 ± 5.5** |" in as_markdown(content)
    few = [job for job in jobs if job.name in ODINW13]
    assert not any("odinw35" in name for name in table(few, results)["means"])


def test_names_of_protocols_keep_zero_shot_and_ways_of_tuning_apart() -> None:
    assert Job("Packages", "0", None, "prompt").protocol == "raw"
    assert Job("Packages", "10", 3, "full").protocol == "finetuned_on_10shot"
    assert Job("Packages", "full", None, "prompt").protocol == "finetuned_on_full_prompt"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sets", "pothole"], "has no pothole"),
        (["--sets", "13"], "has no AerialMaritimeDrone_large"),
        (["--shots", "2"], "shots"),
        (["--batch", "0"], "batch >= 1"),
        (["--prompts", "nowhere.json"], "no such file"),
    ],
)
def test_what_is_wrong_is_one_line(sets: Path, more: list[str], message: str, capsys) -> None:
    assert cli.main(["eval", "odinw", "nowhere", "--data", str(sets), *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_command_explains_itself(capsys) -> None:
    assert cli.main(["eval", "odinw", "--help"]) == 0
    assert "--shots" in capsys.readouterr().out


def test_the_command_measures_a_model_folder(sets: Path, tmp_path: Path, capsys) -> None:
    save_model(detector(), tmp_path / "model")
    arguments = ["eval", "odinw", str(tmp_path / "model"), "--data", str(sets), "--vocab", "scenes", "--device", "cpu"]
    assert cli.main(arguments) == 0
    assert "| Packages |" in capsys.readouterr().out
    assert (tmp_path / "model" / "odinw" / "odinw.json").is_file()
