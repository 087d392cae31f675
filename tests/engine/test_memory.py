import sys

import pytest
import torch

from wordregion.engine.memory import peak_gigabytes


@pytest.mark.skipif(sys.platform == "win32", reason="not measured there")
def test_the_peak_holds_what_was_allocated_and_never_falls():
    block = torch.ones(40_000_000)  # 160 MB
    during = peak_gigabytes(torch.device("cpu"))
    assert 0.15 < during < 1000
    del block
    assert peak_gigabytes(torch.device("cpu")) >= during
