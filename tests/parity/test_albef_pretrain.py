"""ALBEF at full size against the original's numbers."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity.__main__ import main
from tests.parity.albef_pretrain import alpha_of

FOLDER = Path(__file__).parent / "data" / "albef"


@pytest.mark.large
def test_every_array_of_the_pretraining_step_matches(capsys):
    assert main(FOLDER) == 0, capsys.readouterr().out


def test_an_unknown_name_is_a_failure(tmp_path, capsys):
    folder = tmp_path / "albef"
    shutil.copytree(FOLDER, folder)
    np.savez(folder / "outputs.npz", **{"pretrain2/new": np.zeros(3)})
    assert main(folder) == 1
    assert "no such array is computed here" in capsys.readouterr().out


@pytest.mark.parametrize(("run", "alpha"), [("alpha0", 0.0), ("alpha04", 0.4), ("alpha025", 0.25), ("alpha1", 1.0)])
def test_alpha_is_read_from_the_name_of_a_run(run, alpha):
    assert alpha_of(run) == alpha
