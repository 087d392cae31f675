"""Captioning at full size against the original's numbers."""

from pathlib import Path

import pytest

from tests.parity.__main__ import main


@pytest.mark.large
def test_every_array_of_the_group_matches(capsys):
    assert main(Path(__file__).parent / "data" / "xvlm_captioning") == 0, capsys.readouterr().out
