"""Grad-CAM of ALBEF at full size against the original's numbers."""

from pathlib import Path

import pytest

from tests.parity.__main__ import main

FOLDER = Path(__file__).parent / "data" / "albef_gradcam"


@pytest.mark.large
def test_the_maps_of_the_match_head_are_the_originals(capsys):
    assert main(FOLDER) == 0, capsys.readouterr().out
