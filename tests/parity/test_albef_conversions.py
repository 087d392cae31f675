"""Every conversion of a released checkpoint into a fine-tuning model, name by name, without a single value.

Models and checkpoints are of full size on the "meta" device, where tensors have a shape and no content.
"""

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch

from wordregion.models.official import CONTRAST, LAYOUTS, fill_official, layout_of, official_checkpoint

FILE = Path(__file__).parent / "data" / "albef_conversions" / "conversions.json.gz"
QUEUES = {"image_queue", "text_queue", "queue_ptr", "idx_queue"}
LAYOUT_OF = {"ve": "entailment"}


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
    """Without what is no parameter: constant position numbers and queues; and the second name of one bias."""
    return {k for k in keys if k not in QUEUES and not k.endswith(("position_ids", "cls.predictions.bias"))}


@pytest.mark.parametrize("program", facts()["conversions"])
def test_every_parameter_comes_from_where_the_original_takes_it(program):
    told = facts()["conversions"][program]
    target = told["target_model"]
    layout = f"albef/{LAYOUT_OF.get(target, target)}"
    source = "nlvr_pretrain" if "NLVR-pretrain" in program else "pretrain"
    state = checkpoint(source)
    keeps_a_teacher = any("_m." in key for key in state) and any("_m." in key for key in facts()["models"][target])
    reached, new, extra, ignored = set(), set(), set(), set(state)
    for momentum in (False, True) if keeps_a_teacher else (False,):
        report = fill_official(built(layout), state, layout, program, momentum=momentum)
        for ours in report.loaded:
            targets, sources = LAYOUTS[layout].names(ours, momentum), report.renamed.get(ours, (ours,))
            if not targets:
                assert ours.startswith(tuple(CONTRAST))
                extra |= set(sources)
                continue
            for key, origin in zip(targets, sources, strict=True):
                expected = told["map_where_source_name_differs"].get(key, key)
                assert expected.removeprefix("interp(").removesuffix(")") == origin, key
                assert expected.startswith("interp(") == (
                    ours in report.resized or (layout == "albef/nlvr_pretrain" and key.endswith("pos_embed"))
                ), key
        for ours in built(layout).state_dict():
            reached |= set(LAYOUTS[layout].names(ours, momentum))
        ignored &= set(report.ignored)
        new |= {key for ours in report.new for key in LAYOUTS[layout].names(ours, momentum)}

    def compared(keys):  # where no teacher is kept the original renames its tensors in vain
        return {key for key in plain(keys) if keeps_a_teacher or "_m." not in key}

    assert new == compared(told["missing_in_checkpoint"])
    assert reached == compared(facts()["models"][target])
    assert compared(ignored) == compared(told["unused_checkpoint_keys"]) - extra
    assert extra <= set(told["unused_checkpoint_keys"])


@pytest.mark.parametrize("name", facts()["models"])
def test_a_released_layout_is_filled_completely_and_written_again(name):
    layout = f"albef/{LAYOUT_OF.get(name, name)}"
    state, model = checkpoint(name), built(layout)
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
