"""GLIP's modules, and at full size the models, against the original's numbers."""

from pathlib import Path

import numpy as np
import pytest

from tests.parity.__main__ import main

FOLDER = Path(__file__).parent / "data" / "glip"


def test_single_modules_are_the_originals(capsys):
    assert main(FOLDER, "units/") == 0, capsys.readouterr().out


@pytest.mark.parametrize("group", ["names/", "tuning/"])
def test_parameters_and_what_is_trained_are_the_originals(group, capsys):
    assert main(FOLDER, group) == 0, capsys.readouterr().out


@pytest.mark.large
@pytest.mark.parametrize("group", ["A/", "T/", "round_trip/"])
def test_every_array_matches(group, capsys):
    assert main(FOLDER, group) == 0, capsys.readouterr().out


def test_an_unknown_name_is_a_failure(tmp_path, capsys):
    np.savez(tmp_path / "units_T.npz", **{"fuse/new": np.zeros(3)})
    (tmp_path / "manifest_T.json").write_text((FOLDER / "manifest_T.json").read_text())
    assert main(tmp_path, "units/") == 1
    assert "not computed here" in capsys.readouterr().out


def test_asking_for_nothing_is_a_failure():
    assert main(FOLDER, "nothing/") == 1
