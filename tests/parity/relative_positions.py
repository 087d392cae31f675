"""``relative_position_interp.npz``: Swin's tables of relative positions, resized to other windows."""

import re
from collections.abc import Iterator

import numpy as np
import torch

from tests.parity.golden import Golden, Verdict, draw
from wordregion.models.report import resize_relative_positions

FILE = "relative_position_interp.npz"


def verdicts(_: str, golden: Golden) -> Iterator[Verdict]:
    """One for each table; names tell the windows: ``TABLE__window7_to_12``."""
    with np.load(golden.folder / FILE) as file:
        told = dict(file.items())
    for name, expected in told.items():
        table, before, after = re.fullmatch(r"(.*)__window(\d+)_to_(\d+)", name).groups()
        drawn = torch.from_numpy(draw(table, [(2 * int(before) - 1) ** 2, expected.shape[1]]))
        ours = resize_relative_positions(drawn, 2 * int(after) - 1).numpy()
        yield Verdict(f"relative_position_interp/{name}", float(np.abs(ours - expected).max()), 1e-6)
