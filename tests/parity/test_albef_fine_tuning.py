"""Retrieval and visual entailment at full size against the original's numbers."""

from pathlib import Path

import pytest

from tests.parity.__main__ import main

FOLDER = Path(__file__).parent / "data" / "albef_fine_tuning"


@pytest.mark.large
@pytest.mark.parametrize("group", ["retrieval/", "ve/"])
def test_every_array_of_the_group_matches(group, capsys):
    assert main(FOLDER, group) == 0, capsys.readouterr().out
