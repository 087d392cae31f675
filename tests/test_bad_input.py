"""Broken arguments, recipes, runs and checkpoints: each gives one clear line on stderr and a non-zero exit.

Broken data files are in tests/data/test_bad_data.py.
"""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.test_cli import TINY, recipe_file
from wordregion import cli
from wordregion.demo.run import _prepare

BROKEN_RECIPES = {
    "syntax": "def tiny(:\n    pass\n",
    "import": "import a_package_that_nobody_has\n\ndef tiny():\n    return None\n",
    "raises": "def tiny():\n    raise ValueError('the dog ate it')\n",
    "returns": "def tiny():\n    return {'steps': 3}\n",
    "clash": "def tiny(steps: int = 3):\n    return None\n",
    "stars": "def tiny(**settings):\n    return None\n",
    "hints": "def tiny(size: 'NoSuchType' = 3):\n    return None\n",
    "needs": "def tiny(path: str):\n    return None\n",
    "constant": "tiny = 3\n",
    "leaves": "import sys\n\nsys.exit()\n",
    "leaves_late": "import sys\n\ndef tiny():\n    sys.exit(0)\n",
    "no_module": TINY + "\n    def bad():\n        return replace(tiny(), model=lambda: None)\n",
    "no_mask": TINY
    + """
    from wordregion.data.collate import Collator

    def bad():
        recipe = tiny()
        collator = partial(Collator, recipe.data.collator().tokenizer)
        return replace(recipe, data=replace(recipe.data, collator=collator))
    """,
    "diverges": TINY
    + """
    def bad():
        recipe = tiny()
        run = replace(recipe.run, clip=None, steps=9)
        return replace(recipe, optim=replace(recipe.optim, lr=1e30, warmup=0), run=run)
    """,
    "momentum": TINY + "\n    def bad():\n        return replace(tiny(), task=Align(momentum=1.5))\n",
    "objectives": TINY + "\n    def bad():\n        return replace(tiny(), task=Align(objectives=()))\n",
    "schedule": TINY
    + "\n    def bad():\n        return replace(tiny(), optim=replace(tiny().optim, schedule='zigzag'))\n",
    "betas": TINY + "\n    def bad():\n        return replace(tiny(), optim=replace(tiny().optim, betas=(0.9, 1.0)))\n",
    "vocabulary": TINY
    + """
    from wordregion.data.tokens import Tokenizer

    def bad():
        Tokenizer("no/such/vocab.txt")
    """,
    "scenes": TINY + "\n    def bad():\n        return tiny(scenes=0)\n",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The recipe and the folder of a finished run."""
    folder = tmp_path_factory.mktemp("bad")
    spec = f"{recipe_file(folder)}:tiny"
    assert cli.main(["train", spec, "--out", str(folder / "run"), "--width", "32"]) == 0
    return spec, folder / "run"


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail, and returns its one line."""
    capsys.readouterr()
    status = cli.main(arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert status == 2
    assert len(said) == 1, said
    assert said[0].startswith("wordregion: ")
    assert "Traceback" not in said[0]
    return said[0].removeprefix("wordregion: ")


@pytest.mark.parametrize(
    ("arguments", "named", "remedy"),
    [
        (["tarin"], "tarin", "Did you mean 'train'"),
        (["--steps", "3"], "--steps", "There is: demo, train"),
        (["train", "albef_dmeo"], "albef_dmeo", "Did you mean 'albef_demo'"),
        (["train", "--steps", "3"], "--steps", "wordregion train RECIPE"),
        (["train", "albef_demo", "--steps", "many"], "--steps", "--help"),
        (["train", "albef_demo", "--stepz", "3"], "--stepz", "--help"),
        (["train", "albef_demo", "--steps"], "--steps", "--help"),
        (["train", "albef_demo", "--steps", "0"], "steps=0", "positive"),
        (["train", "albef_demo", "--batch", "0"], "batch=0", "positive"),
        (["train", "albef_demo", "--accumulate", "-1"], "accumulate=-1", "positive"),
        (["train", "albef_demo", "--lr", "-0.1"], "lr=-0.1", "learning rate"),
        (["train", "albef_demo", "--lr", "nan"], "lr=nan", "learning rate"),
        (["train", "albef_demo", "--precision", "fp8"], "fp8", "fp32"),
        (["train", "albef_demo", "--parallel", "magic"], "magic", "fsdp"),
        (["train", "albef_demo", "--workers", "-2"], "workers=-2", "0 or more"),
        (["train", "albef_demo", "--seed", "-1"], "seed=-1", "0 or more"),
        (["train", "albef_demo", "--clip", "0"], "clip=0", "positive"),
        (["train", "albef_demo", "--max-bad-share", "2"], "max_bad_share=2", "[0, 1]"),
        (["train", "albef_demo", "--save-every", "0"], "save_every=0", "positive"),
        (["train", "albef_demo", "--device", "quantum"], "quantum", "--device cpu"),
        (["train", "albef_demo", "--device", "cuda:99"], "cuda:99", "--device cpu"),
        (["train", "albef_demo", "--device", "meta"], "meta", "--device cpu"),
        (["train", "albef_demo", "--seed", str(2**64)], f"seed={2**64}", "2**63"),
        (["train", "albef_demo", "--out", "long" * 80], "long", "File name too long"),
        (["train", "albef_demo", "--out", "/proc/run"], "/proc/run", "another"),
        (["ablate", "albef_demo 'x"], "albef_demo 'x", "No closing quotation"),
        (["ablate", "", ""], "''", "Write it as"),
        (["ablate", "albef_demo", " "], "' '", "empty"),
        (["eval", "compositional", "x", "--workers", "-1"], "workers=-1", "workers >= 0"),
        (["eval", "compositional", "x", "--batch", "0"], "batch=0", "batch >= 1"),
        (["eval", "compositional", "x", "--out", "."], "is a folder", "another path"),
        (["convert", "x.pth", "o", "--as", "albef/retrieval", "--image-size", "-5"], "image_size=-5", "multiple of 16"),
        (["convert", "x.pth", "o", "--as", "albef/retrieval", "--image-size", "7"], "image_size=7", "multiple of 16"),
        (["convert", "x.pth", "o", "--as", "xvlm/bbox", "--image-size", "48"], "image_size=48", "multiple of 32"),
        (["convert", "x.pth", "o", "--as", "xvlm/bbox", "--image-size", "0"], "image_size=0", "positive"),
        (["convert", "no/such", "--to-official", "out.pth"], "no/such", "hub"),
        (["demo", "--device", "cpux"], "cpux", "--device cpu"),
        (["demo", "--out", "/dev/null/demo"], "/dev/null", "another --out"),
        (["train", "albef_4m"], "no data", "--data"),
        (["train", "albef_4m", "--data", "x.json", "--records", "3"], "records=3", "number of images"),
        (["train", "nowhere.py:tiny"], "nowhere.py", "path of a Python file"),
        (["eval"], "PATH", "--help"),
        (["eval", "no/such/run"], "no/such/run", "folder of a run"),
        (["eval", "."], "recipe.json", "--out"),
        (["eval", ".", "--k", "-3"], "k=-3", "k >= 0"),
        (["eval", ".", "--batch", "0"], "batch=0", "batch >= 1"),
        (["data", "mend", "x.json"], "mend", "There is: check, neggen, pseudo-label"),
        (["data", "check"], "STR", "--help"),
        (["data", "check", "no/such/file.jsonl"], "no/such/file.jsonl", "Check the path"),
        (["data", "check", "scenes#test"], "scenes#test", "scenes#val"),
        (["data", "check", "scenes", "--limit", "0"], "0 records", "at least 1"),
        (["bench"], "benchmarks/", "checkout"),
        (["demo", "--minutes", "0"], "minutes=0", "--minutes 5"),
        (["demo", "--steps", "0"], "steps=0", "positive"),
        (["demo", "--held-out", "3"], "held_out=3", "at least 12"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_arguments(
    arguments: list[str],
    named: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line = complaint(arguments, capsys)
    assert named in line
    assert remedy in line
    assert not list(tmp_path.iterdir()), "nothing may be written before the arguments are known to be good"


@pytest.mark.parametrize(
    ("case", "function", "named", "remedy"),
    [
        ("syntax", ":tiny", "line 1", "Correct the file"),
        ("import", ":tiny", "a_package_that_nobody_has", "Correct the file"),
        ("raises", ":tiny", "the dog ate it", "Correct the recipe"),
        ("returns", ":tiny", "dict", "Return a Recipe"),
        ("clash", ":tiny", "'steps'", "Rename it"),
        ("stars", ":tiny", "**settings", "plain keyword parameters"),
        ("hints", ":tiny", "NoSuchType", "Correct them"),
        ("needs", ":tiny", "--path", "--help"),
        ("needs", ":tinny", "tinny", "Did you mean 'tiny'"),
        ("needs", "", "name the function", "tiny"),
        ("constant", ":tiny", "tiny", "There is: none"),
        ("leaves", ":tiny", "SystemExit", "Correct the file"),
        ("leaves_late", ":tiny", "SystemExit", "Correct the recipe"),
        ("no_module", ":bad", "returned None", "torch.nn.Module"),
        ("no_mask", ":bad", "masks no words", "Masking"),
        ("diverges", ":bad", "not finite", "Lower --lr"),
        ("momentum", ":bad", "momentum=1.5", "[0, 1]"),
        ("objectives", ":bad", "objectives", "at least one"),
        ("schedule", ":bad", "zigzag", "cosine"),
        ("betas", ":bad", "betas=(0.9, 1.0)", "[0, 1)"),
        ("vocabulary", ":bad", "no/such/vocab.txt", "."),
        ("scenes", ":bad", "size is 0", "at least 1"),
    ],
)
def test_bad_recipes(
    case: str, function: str, named: str, remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe_file(tmp_path, textwrap.dedent(BROKEN_RECIPES[case]))
    line = complaint(["train", f"{file}{function}", "--out", str(tmp_path / "run")], capsys)
    assert named in line
    assert remedy in line


TYPES = [
    ("recipe", "task=Align", "recipe tiny: its task is a value of type type"),
    ("recipe", "task=None", "recipe tiny: its task is None"),
    ("recipe", "data=None", "recipe tiny: its data is None. Give a Data"),
    ("recipe", "optim=None", "recipe tiny: its optim is None. Give an AdamW"),
    ("recipe", "run=None", "recipe tiny: its run is None. Give a Run"),
    ("recipe", "model=3", "recipe tiny: its model is a value of type int"),
    ("recipe", "evaluation=''", "recipe tiny: its evaluation is a value of type str"),
    ("recipe", "plateau=5", "recipe tiny: its plateau is a value of type int"),
    ("data", "train=None", "data: train is None"),
    ("run", "batch=4.0", "run: batch=4.0 is no whole number"),
    ("run", "steps=2.5", "run: steps=2.5 is no whole number"),
    ("run", "workers=1.5", "run: workers=1.5 is no whole number"),
    ("run", "seed=1.5", "run: seed=1.5 is no whole number"),
    ("run", "keep=True", "run: keep=True is no whole number"),
    ("run", "clip='1'", "run: clip='1' is no number"),
    ("run", "device=0", "run: device=0 is no name"),
    ("optim", "lr='1e-4'", "optim: lr='1e-4' is no number"),
]
"""A part of a recipe, a field of it with a value of another type, and what is said of it."""


def test_parts_of_a_recipe_of_another_type(tmp_path: Path) -> None:
    """In a process of its own: the tests' checks of types would find these mistakes before the library does."""
    text = TINY
    for number, (part, field, _) in enumerate(TYPES):
        changed = f"{part}=replace(tiny().{part}, {field})"
        text += f"\n    def bad{number}():\n        return replace(tiny(), {field if part == 'recipe' else changed})\n"
    commands = [["train", f"{recipe_file(tmp_path, text)}:bad{i}", "--out", "run"] for i in range(len(TYPES))]
    code = f"from wordregion import cli; print([cli.main(command) for command in {commands!r}])"
    given = [sys.executable, "-c", code]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout == f"{[2] * len(TYPES)}\n", done.stderr
    for line, (_, _, said) in zip(done.stderr.splitlines(), TYPES, strict=True):
        assert line.startswith(f"wordregion: {said}")
        assert "Give" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(
    run: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(["train", run[0], "--out", str(run[1])], capsys)
    assert str(run[1]) in line
    assert "--resume" in line


def test_nothing_to_resume(run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["train", run[0], "--out", str(tmp_path / "new"), "--resume"], capsys)
    assert "no checkpoint" in line


def test_a_path_where_no_folder_can_be(
    run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = complaint(["train", run[0], "--out", str(tmp_path / "file" / "run")], capsys)
    assert str(tmp_path / "file") in line


def damaged(run: Path, folder: Path, name: str, content: bytes | None) -> Path:
    """A copy of a run with one file changed, or removed."""
    copy = folder / "copy"
    shutil.copytree(run, copy)
    path = next(copy.glob(name))
    path.unlink() if content is None else path.write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("recipe.json", b"{", "recipe.json"),
        ("recipe.json", b"[]", "recipe.json"),
        ("recipe.json", None, "recipe.json"),
        ("model.safetensors", b"", "model.safetensors"),
        ("model.safetensors", b"nonsense" * 50, "model.safetensors"),
    ],
)
def test_damaged_runs_are_not_evaluated(
    name: str,
    content: bytes | None,
    named: str,
    run: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = damaged(run[1], tmp_path, name, content)
    assert named in complaint(["eval", str(copy)], capsys)


@pytest.mark.parametrize(("name", "content"), [("facts.json", b"{"), ("facts.json", None), ("*.distcp", b"broken")])
def test_damaged_checkpoints_are_not_resumed(
    name: str, content: bytes | None, run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = damaged(run[1], tmp_path, f"checkpoints/step_000002/{name}", content)
    arguments = ["train", run[0], "--width", "32", "--steps", "3", "--resume", "--out", str(copy)]
    line = complaint(arguments, capsys)
    assert "step_000002" in line
    assert "checkpoint" in line


def test_another_models_checkpoint_is_not_resumed(
    run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run[1], tmp_path / "copy")
    arguments = ["train", run[0], "--width", "64", "--steps", "3", "--resume", "--out", str(tmp_path / "copy")]
    assert "step_000002" in complaint(arguments, capsys)


def test_weights_of_another_model(run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run[1], tmp_path / "copy")
    record = json.loads((tmp_path / "copy" / "recipe.json").read_text())
    record["arguments"]["width"] = 64
    (tmp_path / "copy" / "recipe.json").write_text(json.dumps(record))
    line = complaint(["eval", str(tmp_path / "copy")], capsys)
    assert "model.safetensors" in line
    assert "another model" in line


def test_a_recipe_that_has_lost_a_parameter(
    run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run[1], tmp_path / "copy")
    record = json.loads((tmp_path / "copy" / "recipe.json").read_text())
    record["arguments"]["depth"] = 3
    (tmp_path / "copy" / "recipe.json").write_text(json.dumps(record))
    assert "'depth'" in complaint(["eval", str(tmp_path / "copy")], capsys)


def test_nothing_to_evaluate_on(run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run[1], tmp_path / "copy")
    record = json.loads((tmp_path / "copy" / "recipe.json").read_text())
    record |= {"source": run[0].replace(":tiny", ":no_evaluation"), "arguments": {}}
    (tmp_path / "copy" / "recipe.json").write_text(json.dumps(record))
    assert "--data SOURCE" in complaint(["eval", str(tmp_path / "copy")], capsys)


@pytest.mark.parametrize("flags", [["--protocol", "best ever"], ["--data", "no/such.jsonl"], ["--device", "abacus"]])
def test_bad_evaluation_flags(flags: list[str], run: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert flags[1] in complaint(["eval", str(run[1]), *flags], capsys)


def test_a_demo_folder_with_other_things_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "--out" in complaint(["demo", "--steps", "1", "--out", str(tmp_path)], capsys)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("flags", [[], ["--device", "cpux"], ["--steps", "0"]])
def test_a_finished_demo_with_other_things_beside_it_is_left_alone(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("report.html", "recipe.json", "thesis.tex"):
        (tmp_path / name).write_text("{}")
    line = complaint(["demo", "--out", str(tmp_path), *flags], capsys)
    assert flags or "thesis.tex" in line
    assert len(list(tmp_path.iterdir())) == 3


def test_a_finished_demo_is_kept_until_the_flags_are_known_to_be_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("report.html", "recipe.json", "metrics.jsonl"):
        (tmp_path / name).write_text("{}")
    complaint(["demo", "--out", str(tmp_path), "--device", "cpux"], capsys)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_finished_demo_makes_room_for_a_new_one(tmp_path: Path) -> None:
    for name in ("report.html", "recipe.json", "metrics.jsonl", "recipe.json.77.draft"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "checkpoints" / "step_000002").mkdir(parents=True)
    assert not _prepare(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    line = complaint(["data", "check", "scenes", "--limit", "1", "--picture", str(tmp_path / "file" / "x.png")], capsys)
    assert "file" in line


def test_an_unknown_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.py").write_text("")
    assert "Did you mean 'speed'" in complaint(["bench", "sped"], capsys)
