"""``checkpoint_conversions.json``: which tensor of a released checkpoint each parameter of a fine-tuning model takes.

Models and checkpoints are of full size on the "meta" device, where tensors have a shape and no content.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

import torch

from tests.parity.golden import Golden, Verdict
from wordregion.models.fusion import FusionModel
from wordregion.models.official import CONTRAST, LAYOUTS, fill_official

FILE = "checkpoint_conversions.json"
QUEUES = {"image_queue", "text_queue", "queue_ptr", "idx_queue"}
CONSTANTS = ("relative_position_index", "attn_mask", "position_ids")
SECOND_NAME = "cls.predictions.bias"
Shapes = Mapping[str, Mapping[str, list[int]]]
"""Of each tensor of each model."""


def layout_of(system: str, model: str) -> str:
    return f"{system}/{'entailment' if model == 've' else model}"


def checkpoint(models: Shapes, name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in models[name].items()}


@cache
def built(layout: str) -> FusionModel:
    with torch.device("meta"):
        return LAYOUTS[layout].build(LAYOUTS[layout].image_size)


def check(system: str, models: Shapes, program: str, told: Mapping[str, Any]) -> None:
    """Raises AssertionError where a parameter comes from elsewhere than in the original `program`."""
    target = told["target_model"]
    layout = layout_of(system, target)
    source = {"albef": "pretrain", "xvlm": "pretrain_swin"}[system]
    state = checkpoint(models, "nlvr_pretrain" if "from NLVR-pretrain" in program else source)
    keeps_a_teacher = any("_m." in key for key in state) and any("_m." in key for key in models[target])
    reached, new, extra, ignored = set(), set(), set(), set(state)
    for momentum in (False, True) if keeps_a_teacher else (False,):
        report = fill_official(built(layout), state, layout, program, momentum=momentum)
        for ours in report.loaded:
            targets, sources = LAYOUTS[layout].names(ours, momentum), report.renamed.get(ours, (ours,))
            if not targets:  # of the contrast, which every model of ours has
                assert ours.startswith(tuple(CONTRAST)), ours
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

    def compared(keys: Collection[str]) -> set[str]:
        """Parameters; where no teacher is kept the original renames its tensors in vain."""
        plain = {k for k in keys if k not in QUEUES and not k.endswith((*CONSTANTS, SECOND_NAME))}
        return {key for key in plain if keeps_a_teacher or "_m." not in key}

    assert new == compared(told["missing_in_checkpoint"]), sorted(new ^ compared(told["missing_in_checkpoint"]))
    assert compared(reached) == compared(models[target]), sorted(compared(reached) ^ compared(models[target]))
    unused = compared(told["unused_checkpoint_keys"]) - extra
    assert compared(ignored) == unused, sorted(compared(ignored) ^ unused)
    assert extra <= set(told["unused_checkpoint_keys"]), sorted(extra)


def verdicts(system: str, golden: Golden) -> Iterator[Verdict]:
    """One for each program of the folder's file; what is wrong is in its name."""
    models = {
        name: {entry["key"]: entry["shape"] for entry in entries} for name, entries in golden.manifest["models"].items()
    }
    for program, told in json.loads((golden.folder / FILE).read_text()).items():
        try:
            check(system, models, program, told)
        except AssertionError as error:
            yield Verdict(f"conversions/{program}: {str(error).splitlines()[0]}", float("inf"), 0.0)
        else:
            yield Verdict(f"conversions/{program}", 0.0, 0.0)
