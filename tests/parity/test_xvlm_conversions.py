"""Every conversion of a released checkpoint of X-VLM into a fine-tuning model, name by name, without a single value."""

import gzip
import json
from functools import cache
from pathlib import Path

import pytest

from tests.parity.conversions import CONSTANTS, built, check, checkpoint
from wordregion.models.layout import CONTRAST
from wordregion.models.official import fill_official, layout_of, official_checkpoint

FILE = Path(__file__).parent / "data" / "xvlm_conversions" / "conversions.json.gz"


@cache
def facts():
    return json.loads(gzip.decompress(FILE.read_bytes()))


@pytest.mark.parametrize("program", facts()["conversions"])
def test_every_parameter_comes_from_where_the_original_takes_it(program):
    check("xvlm", facts()["models"], program, facts()["conversions"][program])


@pytest.mark.parametrize("name", facts()["models"])
def test_a_released_layout_is_filled_completely_and_written_again(name):
    layout, state = f"xvlm/{name}", checkpoint(facts()["models"], name)
    model = built(layout)
    report = fill_official(model, state, layout, name)
    assert all(ours.startswith(tuple(CONTRAST)) for ours in report.new)
    assert not report.resized
    assert layout_of(model) == layout
    written = official_checkpoint(model, layout)
    constants = {key for key in state if key.endswith(CONSTANTS[:2])}
    assert written.keys() == state.keys() - constants
    for key, value in written.items():
        assert value.shape == state[key].shape, key
