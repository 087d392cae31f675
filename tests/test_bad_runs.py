"""Runs that are damaged or in the way, and a system that refuses: one clear line, and nothing lost in silence."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.distributed import checkpoint as dcp

from tests.test_bad_input import complaint
from tests.test_cli import TINY, recipe_file
from wordregion import cli
from wordregion.engine import checkpoint
from wordregion.engine.logs import Log
from wordregion.errors import CheckpointError, UsageError
from wordregion.models import store

OWN = """
    def listed(sizes: list[int] = [1, 2], scenes: int = 8):
        assert isinstance(sizes, list), sizes
        return tiny(scenes, 32)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The recipe and the folder of a finished run of 2 steps."""
    folder = tmp_path_factory.mktemp("bad_runs")
    spec = f"{recipe_file(folder, TINY + OWN)}:listed"
    assert cli.main(["train", spec, "--out", str(folder / "run")]) == 0
    return spec, folder / "run"


@pytest.fixture
def copy(run: tuple[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(run[1], tmp_path / "copy")
    return tmp_path / "copy"


def changed(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def resume(run: tuple[str, Path], copy: Path, *flags: str) -> list[str]:
    return ["train", run[0], "--resume", "--out", str(copy), *(flags or ("--steps", "3"))]


def test_a_default_that_is_a_list_is_a_flag_like_others(run: tuple[str, Path]) -> None:
    record = json.loads((run[1] / "recipe.json").read_text())
    assert record["arguments"] == {"sizes": [1, 2], "scenes": 8}
    assert cli.main(["eval", str(run[1]), "--k", "0"]) == 0


def test_other_arguments_are_told_on_resume(
    run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(resume(run, copy, "--steps", "3", "--scenes", "9")) == 0
    assert "scenes=9 (was 8)" in capsys.readouterr().out
    assert cli.main(resume(run, copy, "--steps", "4", "--scenes", "9")) == 0
    assert "arguments" not in capsys.readouterr().out


def test_other_settings_are_told_on_resume(
    run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(resume(run, copy, "--steps", "3", "--lr", "0.5")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "other settings: lr=0.5 (was 0.002), steps=3 (was 2)" in said
    assert cli.main(resume(run, copy, "--steps", "3", "--lr", "0.5", "--workers", "1")) == 0
    assert "settings" not in capsys.readouterr().out


def test_fewer_steps_than_are_done_are_told(
    run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(resume(run, copy, "--steps", "1")) == 0
    assert "already at step 2 of 1" in capsys.readouterr().out


def test_unreadable_lines_of_the_log_are_dropped_and_told(
    run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'\xff\xfe\n[3]\n{"step": "two"}\n{"step": 2, "lo')
    assert cli.main(resume(run, copy)) == 0
    assert "metrics.jsonl: 4 unreadable lines" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_log_that_cannot_be_written_again_stays_as_it_was(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (copy / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        Log(copy, 1, 3, True)
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_a_record_that_cannot_be_written_again_stays_as_it_was(
    run: tuple[str, Path], copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Path.write_text

    def full(path: Path, text: str, *more: Any, **others: Any) -> int:
        if not path.name.startswith("recipe.json"):
            return real(path, text, *more, **others)
        real(path, text[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (copy / "recipe.json").read_text()
    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left on device. Free space" in complaint(resume(run, copy), capsys)
    assert (copy / "recipe.json").read_text() == before


def in_the_way(copy: Path, name: str) -> None:
    path = copy / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
        (path / "x").write_text("")


@pytest.mark.parametrize("name", ["metrics.jsonl", "recipe.json", "tensorboard", "checkpoints/step_000002"])
def test_files_in_the_way_of_folders_and_the_other_way_round(
    name: str, run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_the_way(copy, name)
    assert name in complaint(resume(run, copy), capsys)


def test_a_file_named_like_the_draft_of_a_checkpoint_is_swept_away(run: tuple[str, Path], copy: Path) -> None:
    (copy / "checkpoints" / "draft_000009").write_text("")
    assert cli.main(resume(run, copy)) == 0
    assert not list((copy / "checkpoints").glob("draft_*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "two"), ("step", True), ("step", -1), ("processes", None), ("files", []), ("files", {}),
        ("files", {"a": 3}), ("files", {"a": ["b", 3]}), ("recipe", []), ("recipe", {}), ("recipe", {"run": {}}),
        ("counters", None), ("counters", {"skipped": "0", "seen": 3}), ("validation", 5), ("validation", [[1]]),
        ("validation", [[1, "x"]]),
    ],
)  # fmt: skip
def test_facts_of_another_structure(
    name: str, value: Any, run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(copy / "checkpoints/step_000002/facts.json", lambda facts: facts.update({name: value}))
    assert "step_000002: facts.json is missing or damaged" in complaint(resume(run, copy), capsys)


@pytest.mark.parametrize("content", [[], None, {"cpu": 3}])
def test_a_random_state_that_is_none(
    content: Any, run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy / "checkpoints/step_000002"
    torch.save(content, folder / "random_0.pt")
    changed(folder / "facts.json", lambda facts: facts["files"].pop("random_0.pt") and None)
    assert "step_000002: damaged" in complaint(resume(run, copy), capsys)


@pytest.mark.parametrize("saver", [(torch, "save"), (dcp, "save")], ids=["torch", "dcp"])
@pytest.mark.parametrize("error", [RuntimeError("[enforce fail] .\nPytorchStreamWriter failed"), OSError(28, "full")])
def test_a_full_disk_at_a_checkpoint(
    saver: tuple[Any, str], error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(*saver, full)
    with pytest.raises(CheckpointError, match=r"draft_000001: can't be written .*Free space") as caught:
        checkpoint.save(tmp_path, 1, {"a": torch.ones(2)}, {}, keep=1)
    assert "\n" not in str(caught.value)
    assert not checkpoint.checkpoints(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"source": 5}, {"source": ["x"]}, {"arguments": []}, {"arguments": None}, {"arguments": {"scenes": "many"}},
        {"arguments": {"scenes": True}}, {"arguments": {"scenes": {}}}, {"arguments": {"sizes": [1, "x"]}},
    ],
    ids=str,
)  # fmt: skip
def test_records_with_wrong_values(change: dict[str, Any], copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(copy / "recipe.json", lambda record: record.update(change))
    line = complaint(["eval", str(copy)], capsys)
    assert "recipe.json" in line
    assert next(iter(change)) in line or "scenes=" in line or "sizes=" in line


@pytest.mark.parametrize("name", ["recipe.json", "model.json", "checkpoints/step_000002/facts.json"])
def test_json_that_is_nested_too_deep(
    name: str, run: tuple[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / name).write_text("[" * 200_000)
    if name == "model.json":
        with pytest.raises(CheckpointError, match="damaged"):
            store.load_model(copy)
    else:
        command = ["eval", str(copy)] if name == "recipe.json" else resume(run, copy)
        assert Path(name).name in complaint(command, capsys)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("vision", "name", "resnet999"), ("vision", "image_size", 7), ("vision", "settings", {"num_heads": 0}),
        ("text", "config", {"model_type": "bert", "num_attention_heads": 0}), ("fusion", "heads", 0),
        ("fusion", "width", -3), ("fusion", "kind", "Fusion"),
    ],
)  # fmt: skip
def test_structures_that_cannot_be_built(part: str, name: str, value: Any, copy: Path) -> None:
    changed(copy / "model.json", lambda structure: structure[part].update({name: value}))
    with pytest.raises(CheckpointError, match=r"model.json: damaged"):
        store.load_model(copy)


def test_an_evaluation_whose_result_has_no_place_is_not_begun(
    run: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_device", lambda name: pytest.fail("began"))
    assert "is a folder" in complaint(["eval", str(run[1]), "--out", str(tmp_path)], capsys)
    (tmp_path / "file").write_text("")
    assert "in the way" in complaint(["eval", str(run[1]), "--out", str(tmp_path / "file" / "x")], capsys)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (64, 64)).save(tmp_path / "p.png")
    return str(tmp_path / "p.png")


def test_a_vocabulary_larger_than_the_models(
    copy: Path, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "recipe.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(9999))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    flags = ["--run", str(copy), "--vocab", str(tmp_path / "vocab.txt"), "--out", str(tmp_path / "out.png")]
    line = complaint(["predict", "heatmap", picture, "word9998", *flags], capsys)
    assert "10,004" in line
    assert "--vocab" in line


def test_a_caption_longer_than_the_model_reads(
    run: tuple[str, Path], picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(["predict", "caption", picture, "--run", str(run[1]), "--max-tokens", "100000"], capsys)
    assert "max_tokens=100000" in line
    assert "fewer" in line


def test_a_text_of_half_characters(
    run: tuple[str, Path], picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--run", str(run[1]), "--out", str(tmp_path / "out.png")]
    assert "Traceback" not in complaint(["predict", "heatmap", picture, "a \udce9", *flags], capsys)


def test_class_names_in_another_encoding(picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.txt").write_bytes("café\n".encode("latin-1"))
    flags = ["--run", "x", "--out", str(tmp_path / "out.png")]
    line = complaint(["predict", "detect", picture, str(tmp_path / "classes.txt"), *flags], capsys)
    assert "classes.txt" in line
    assert "UTF-8" in line


@pytest.mark.parametrize(
    "given", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "abc"}]
)
def test_half_of_torchruns_environment(
    given: dict[str, str],
    run: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert "without torchrun" in complaint(["eval", str(run[1])], capsys)


def program(code: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    given = [sys.executable, "-c", f"import sys; from wordregion import cli; {code}"]
    return subprocess.run(given, stderr=subprocess.PIPE, check=False, timeout=120, **more)


def test_a_stdout_that_cannot_show_a_character_shows_its_number() -> None:
    code = "cli._dispatch = lambda args: print('\\xe9 \\ud800') or 0; sys.exit(cli.main([]))"
    done = program(code, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\xe9 \\ud800\n", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_stdout_that_is_full() -> None:
    with Path("/dev/full").open("wb") as full:
        done = program("sys.exit(cli.main(['--version']))", stdout=full)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert said == ["wordregion: the output: No space left on device. Free space on its disk."]


def test_mistakes_of_the_library_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_dispatch", lambda args: [][0])
    with pytest.raises(IndexError):
        cli.main([])


@pytest.mark.parametrize("error", [UsageError("x"), FileNotFoundError(2, "No such file", "x"), ConnectionError("x")])
def test_what_the_system_refuses_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(args: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", refused)
    assert "x" in complaint([], capsys)
