"""The released checkpoints: how their parameters become ours and theirs again.

The tables of names are in `official_albef` and `official_xvlm`, a `Layout` for each kind of checkpoint, and in
`official_glip`. Files were never at hand: the names come from the programs that write and read them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordregion.errors import CheckpointError, UsageError
from wordregion.models.fusion import FusionModel
from wordregion.models.grounder import Grounder
from wordregion.models.layout import CONTRAST, PRETRAINED, Layout, copied
from wordregion.models.official_albef import ALBEF
from wordregion.models.official_glip import GLIP, fill_glip, glip_checkpoint, layout_of_glip
from wordregion.models.official_xvlm import XVLM
from wordregion.models.report import LoadReport, fill
from wordregion.nn.weights import read_weights

LAYOUTS: dict[str, Layout] = ALBEF | XVLM
SCALARS_AND_ROWS = ("temp", "vision_encoder.class_embedding", "vision_encoder.pos_embed.weight")
"""Their tensors that lack the leading dimensions of size 1 that ours have."""


def load_official(
    source: str | Path | Mapping[str, Any], layout: str, image_size: int | None = None, momentum: bool = False
) -> tuple[FusionModel | Grounder, LoadReport]:
    """The model of a released checkpoint, and what became of every tensor of it.

    A pre-training checkpoint fills the fine-tuning models too, as the original programs do it: position embeddings are
    resized to `image_size`, and what it has no value for (a new head) is reported as new.

    Args:
        source: a file (opened safely) or a state dict; the tensors may sit under ``"model"``.
        layout: ``"albef/pretrain"``, ``"albef/retrieval"``, ... : see `LAYOUTS`, and `GLIP`.
        image_size: pixels; 384 if None, for the pre-trainings 256. GLIP takes images of any size.
        momentum: load the momentum copy; modules without one come from the student.

    Returns:
        the model, in evaluation mode, and the report; queues, the other copy and unused heads are in its `ignored`.

    Raises:
        UsageError: for an unknown layout.
        CheckpointError: if the file is missing, damaged or lacks a parameter.
    """
    if layout in GLIP and (image_size is not None or momentum):
        raise UsageError(f"{layout}: has no image size and no momentum copy. Leave them out.")
    found = None if layout in GLIP else layout_named(layout)
    if isinstance(source, Mapping):
        state, name = source.get("model", source), "the state dict"
    else:
        state, name = read_weights(source), str(source)
    if found is None:
        grounder = GLIP[layout]()
        return grounder.eval(), fill_glip(grounder, state, name)
    model = found.build(image_size or found.image_size)
    return model.eval(), fill_official(model, state, layout, name, momentum=momentum)


def fill_official(
    model: FusionModel,
    state: Mapping[str, Tensor],
    layout: str,
    source: str,
    new: tuple[str, ...] = (),
    momentum: bool = False,
) -> LoadReport:
    """Fills a model from the tensors of a released checkpoint; see `load_official`.

    Args:
        model: takes the values.
        state: of this layout, or of pre-training.
        layout: of the model.
        source: the file, for errors.
        new: further beginnings of our names that may keep their constructor value.
        momentum: read the momentum copy.

    Raises:
        CheckpointError: if a parameter is missing or has another shape.
    """
    found = layout_named(layout)
    names: dict[str, tuple[str, ...]] = {}
    for ours in model.state_dict():
        every = (found.names(ours, momentum), found.seeds(ours, momentum), _contrast(ours, momentum))
        ways = [theirs for theirs in every if theirs]
        present = [theirs for theirs in ways if all(key in state for key in theirs)]
        if ways:
            names[ours] = (present or ways)[0]
    return fill(model, state, names, source, (*found.new, *new))


def to_official(tensors: Mapping[str, Tensor], layout: str, momentum: bool = False) -> dict[str, Tensor]:
    """Our parameters (or their gradients) under the released names, bit by bit; stacked ones are split again.

    Args:
        tensors: a model's ``state_dict()``, or a part of it.
        layout: of the model.
        momentum: under the names of the momentum copy.

    Raises:
        CheckpointError: if the layout has no such parameter. The contrast's parameters, which every model of ours has,
            are left out where the layout has none.
    """
    found = layout_named(layout)
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        theirs = found.names(name, momentum)
        if not theirs and not name.startswith(tuple(CONTRAST)):
            raise CheckpointError(f"'{name}': {layout} has no such parameter. Use the layout of the model's heads.")
        for key, part in zip(theirs, value.chunk(len(theirs)) if theirs else (), strict=True):
            result[key] = part.squeeze() if key in SCALARS_AND_ROWS else part
    return result | _doubles(result)


def official_checkpoint(
    model: FusionModel | Grounder, layout: str, teacher: FusionModel | None = None
) -> dict[str, Tensor]:
    """A whole checkpoint as the originals save it, but for queues: student and, if given, its momentum copy."""
    if isinstance(model, Grounder):
        return glip_checkpoint(model)
    state = to_official(model.state_dict(), layout)
    if teacher is not None:  # modules without a copy have one name only: the student's values
        state = to_official(teacher.state_dict(), layout, momentum=True) | state
    positions = {
        re.sub(r"(position_embeddings|pos_embed)\.weight", "position_ids", key): torch.arange(len(value))[None]
        for key, value in state.items()
        if key.endswith(("embeddings.position_embeddings.weight", "vision_encoder.pos_embed.weight"))
    }
    return {key: value.clone() for key, value in (state | positions).items()}


def layout_of(model: FusionModel | Grounder) -> str:
    """The layout that has the model's heads and is for its backbone; of a detector, the one of its size.

    Raises:
        CheckpointError: if there is none.
    """
    if isinstance(model, Grounder):
        return layout_of_glip(model)
    for name, layout in LAYOUTS.items():
        if layout.heads() == set(model.heads) and re.fullmatch(layout.backbone, model.vision.name):
            return name
    raise CheckpointError(
        f"a model with the heads {', '.join(model.heads)} on {model.vision.name} has no released layout. Convert a "
        "part of it."
    )


def layout_named(name: str) -> Layout:
    """The row of `LAYOUTS`.

    Raises:
        UsageError: if there is none.
    """
    if name not in LAYOUTS:
        raise UsageError(f"unknown checkpoint layout '{name}'. There is: {', '.join([*LAYOUTS, *GLIP])}.")
    return LAYOUTS[name]


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a released checkpoint."""
    return any(key.startswith(("visual_encoder.", "vision_encoder.")) for key in state)


def _contrast(ours: str, momentum: bool) -> tuple[str, ...]:
    """Names of the contrast's parameters, which our models have though some layouts do not."""
    theirs = (key + ours.removeprefix(mine) for mine, key in CONTRAST.items() if ours.startswith(mine))
    return tuple(copied(key, PRETRAINED) if momentum else key for key in theirs)


def _doubles(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The bias of a word head, which the originals save under two names."""
    decoder = "cls.predictions.decoder.bias"
    return {
        key.replace(decoder, "cls.predictions.bias"): value for key, value in state.items() if key.endswith(decoder)
    }
