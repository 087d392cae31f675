"""Every conversion of a released checkpoint of X-VLM into a fine-tuning model, name by name, without a single value.

Models and checkpoints are of full size on the "meta" device, where tensors have a shape and no content.
"""

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch

from wordregion.models.layout import CONTRAST
from wordregion.models.official import LAYOUTS, fill_official, layout_of, official_checkpoint

FILE = Path(__file__).parent / "data" / "xvlm_conversions" / "conversions.json.gz"
NO_PARAMETERS = ("relative_position_index", "attn_mask", "position_ids")


@cache
def facts():
    return json.loads(gzip.decompress(FILE.read_bytes()))


def checkpoint(name):
    return {key: torch.empty(shape, device="meta") for key, shape in facts()["models"][name].items()}


@cache
def built(layout):
    with torch.device("meta"):
        return LAYOUTS[layout].build(LAYOUTS[layout].image_size)


def plain(keys):
    """Without constants, and without the second name of one bias."""
    return {key for key in keys if not key.endswith((*NO_PARAMETERS, "cls.predictions.bias"))}


@pytest.mark.parametrize("program", facts()["conversions"])
def test_every_parameter_comes_from_where_the_original_takes_it(program):
    told = facts()["conversions"][program]
    layout = f"xvlm/{told['target_model']}"
    source = "nlvr_pretrain" if "from NLVR-pretrain" in program else "pretrain_swin"
    report = fill_official(built(layout), checkpoint(source), layout, program)
    extra = set()
    for ours in report.loaded:
        targets, sources = LAYOUTS[layout].names(ours), report.renamed.get(ours, (ours,))
        if not targets:  # of the contrast, which every model of ours has
            assert ours.startswith(tuple(CONTRAST))
            extra |= set(sources)
            continue
        for key, origin in zip(targets, sources, strict=True):
            expected = told["map_where_source_name_differs"].get(key, key)
            assert expected.removeprefix("interp(").removesuffix(")") == origin, key
            assert expected.startswith("interp(") == (ours in report.resized), key
    new = {key for ours in report.new for key in LAYOUTS[layout].names(ours)}
    reached = {key for ours in built(layout).state_dict() for key in LAYOUTS[layout].names(ours)}
    assert new == plain(told["missing_in_checkpoint"])
    assert plain(reached) == plain(facts()["models"][told["target_model"]])
    assert plain(report.ignored) == plain(told["unused_checkpoint_keys"]) - extra
    assert extra <= set(told["unused_checkpoint_keys"])


@pytest.mark.parametrize("name", facts()["models"])
def test_a_released_layout_is_filled_completely_and_written_again(name):
    layout, state = f"xvlm/{name}", checkpoint(name)
    model = built(layout)
    report = fill_official(model, state, layout, name)
    assert all(ours.startswith(tuple(CONTRAST)) for ours in report.new)
    assert not report.resized
    assert layout_of(model) == layout
    written = official_checkpoint(model, layout)
    constants = {key for key in state if key.endswith(NO_PARAMETERS[:2])}
    assert written.keys() == state.keys() - constants
    for key, value in written.items():
        assert value.shape == state[key].shape, key
