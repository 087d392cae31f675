"""Every conversion of a released checkpoint into a fine-tuning model, name by name, without a single value."""

import copy
import gzip
import json
from functools import cache
from pathlib import Path

import pytest

from tests.parity.conversions import QUEUES, built, check, checkpoint
from tests.parity.conversions import layout_of as named_layout
from wordregion.models.official import CONTRAST, fill_official, layout_of, official_checkpoint

FILE = Path(__file__).parent / "data" / "albef_conversions" / "conversions.json.gz"


@cache
def facts():
    return json.loads(gzip.decompress(FILE.read_bytes()))


@pytest.mark.parametrize("program", facts()["conversions"])
def test_every_parameter_comes_from_where_the_original_takes_it(program):
    check("albef", facts()["models"], program, facts()["conversions"][program])


def test_a_parameter_from_elsewhere_and_one_too_many_are_seen():
    program = "Retrieval.py (from pretrain)"
    told = copy.deepcopy(facts()["conversions"][program])
    told["map_where_source_name_differs"]["vision_proj.weight"] = "text_proj.weight"
    with pytest.raises(AssertionError, match=r"vision_proj\.weight"):
        check("albef", facts()["models"], program, told)
    told = copy.deepcopy(facts()["conversions"][program])
    told["missing_in_checkpoint"].append("itm_head.weight")
    with pytest.raises(AssertionError, match=r"itm_head\.weight"):
        check("albef", facts()["models"], program, told)


@pytest.mark.parametrize("name", facts()["models"])
def test_a_released_layout_is_filled_completely_and_written_again(name):
    layout = named_layout("albef", name)
    state, model = checkpoint(facts()["models"], name), built(layout)
    report = fill_official(model, state, layout, name)
    assert all(ours.startswith(tuple(CONTRAST)) for ours in report.new)
    assert not report.resized
    assert layout_of(model) == layout
    written = official_checkpoint(model, layout, teacher=model)
    without_copy = {key for key in state if "_m." not in key} - QUEUES
    assert {key for key in written if "_m." not in key} == without_copy
    if any("_m." in key for key in state):
        assert written.keys() == state.keys() - QUEUES
    for key, value in written.items():
        assert value.shape == state[key].shape, key
