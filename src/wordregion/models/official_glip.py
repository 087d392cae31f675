"""GLIP's checkpoints: Swin-T without and with deep fusion, and Swin-L.

The names come from the program that writes the files. The originals look at B, G, R and ours at R, G, B, so the first
convolution's input channels are exchanged on the way; the values of pixels are else the same (0 to 1 or 0 to 255, with
a mean and a deviation of that scale).
"""

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wordregion.errors import CheckpointError
from wordregion.models.grounder import Grounder
from wordregion.models.layout import BLOCK
from wordregion.models.report import LoadReport, fill
from wordregion.models.zoo import glip_large, glip_tiny, glip_tiny_a
from wordregion.nn.anchors import make_anchors
from wordregion.nn.pyramid import LEVEL_STRIDES

GLIP: dict[str, Callable[[], Grounder]] = {
    "glip/tiny_a": lambda: glip_tiny_a(vision_weights=False, text_weights=False),
    "glip/tiny": lambda: glip_tiny(vision_weights=False, text_weights=False),
    "glip/large": lambda: glip_large(vision_weights=False, text_weights=False),
}
"""Builders of the released models, random. GLIP-T's B and C have the layout of ``glip/tiny``."""

PATCHES = "backbone.body.patch_embed.proj.weight"
"""Their tensor that has the colours."""
LAYER = "rpn.head.dyhead_tower."
CLASSES, PRIOR = 80, 0.01
"""Of the original's unused classifier."""
FUSION = {
    "image_norm": "layer_norm_v",
    "text_norm": "layer_norm_l",
    "image_query": "attn.v_proj",
    "text_key": "attn.l_proj",
    "image_value": "attn.values_v_proj",
    "text_value": "attn.values_l_proj",
    "image_out": "attn.out_v_proj",
    "text_out": "attn.out_l_proj",
    "image_gamma": "gamma_v",
    "text_gamma": "gamma_l",
}
CONV = {
    "move": "offset",
    "coarser": "DyConv.0.conv",
    "coarser.norm": "DyConv.0.bn",
    "same": "DyConv.1.conv",
    "same.norm": "DyConv.1.bn",
    "finer": "DyConv.2.conv",
    "finer.norm": "DyConv.2.bn",
    "weigh": "AttnConv.1",
    "activation.down": "relu.fc.0",
    "activation.up": "relu.fc.2",
}
PYRAMID = {
    **{f"lateral.{i}": f"fpn_inner{i + 2}" for i in range(3)},
    **{f"out.{i}": f"fpn_layer{i + 2}" for i in range(3)},
    "extra.0": "top_blocks.p6",
    "extra.1": "top_blocks.p7",
}
HEAD = {
    "text_proj": "dot_product_projection_text",
    "text_bias": "bias_lang",
    "bias": "bias0",
    "log_scale": "log_scale",
    "box": "bbox_pred",
    "centre": "centerness",
}


def names(ours: str, levels: int = 5) -> tuple[str, ...]:
    """Their names of our parameter, in the order of concatenation along dimension 0; none if it is ours alone."""
    stem, _, kind = ours.rpartition(".")
    if found := re.match(r"vision\.body\.layers\.(\d+)\.downsample\.(.+)", ours):
        return (f"backbone.body.layers.{int(found[1]) - 1}.downsample.{found[2]}",)
    if ours.startswith("vision.body."):
        return (ours.replace("vision", "backbone", 1),)
    if found := re.match(r"vision\.norms\.(\d+)\.(.+)", ours):
        return (f"backbone.body.norm{int(found[1]) + 1}.{found[2]}",)
    if ours.startswith("pyramid."):
        return (f"backbone.fpn.{PYRAMID[stem.removeprefix('pyramid.')]}.{kind}",)
    if ours.startswith("text.body."):
        return (ours.replace("text.body.", "language_backbone.body.model.", 1),)
    if ours == "head.scales":
        return tuple(f"rpn.head.scales.{level}.scale" for level in range(levels))
    if ours.startswith("head."):
        own = ours.removeprefix("head.")
        return (f"rpn.head.{HEAD[own]}",) if own in HEAD else (f"rpn.head.{HEAD[own.rpartition('.')[0]]}.{kind}",)
    if ours == "offset.weight":
        return ("rpn.tunable_linear.weight",)
    return ()


def tower_names(ours: str, fused: bool) -> tuple[str, ...]:
    """As `names`, for a parameter of the tower. With fusion, a layer of ours is three elements of theirs.

    Args:
        ours: our name.
        fused: whether the tower has fusion.
    """
    found = re.match(r"tower\.(\d+)\.(fusion|text|conv)\.(.+)", ours)
    if found is None:
        return ()
    part, own = found[2], found[3]
    first = int(found[1]) * (3 if fused else 1)
    stem, _, kind = own.rpartition(".")
    if part == "fusion":
        theirs = FUSION[own] if own in FUSION else f"{FUSION[stem]}.{kind}"
        return (f"{LAYER}{first}.b_attn.{theirs}",)
    if part == "text":
        return tuple(f"{LAYER}{first + 1}.{theirs}.{kind}" for theirs in BLOCK[stem])
    return (f"{LAYER}{first + 2 if fused else first}.{CONV[stem]}.{kind}",)


def official_names(model: Grounder) -> dict[str, tuple[str, ...]]:
    """Their names of every parameter of a model."""
    fused = any(layer.fusion is not None for layer in model.tower)
    every = {
        ours: tower_names(ours, fused) or names(ours, len(model.head.scales)) for ours, _ in model.named_parameters()
    }
    return {ours: theirs for ours, theirs in every.items() if theirs}


def fill_glip(model: Grounder, state: Mapping[str, Tensor], source: str) -> LoadReport:
    """Fills a model from the tensors of a released checkpoint.

    Args:
        model: takes the values.
        state: their names to tensors; ``module.`` before the names is left out.
        source: the file, for errors.

    Returns:
        the report; what ours has no use for (an unused classifier, tables of positions) is in its `ignored`.

    Raises:
        CheckpointError: if a parameter is missing or has another shape.
    """
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    if PATCHES in plain:
        plain[PATCHES] = plain[PATCHES].flip(1)
    return fill(model, plain, official_names(model), source)


def to_glip(model: Grounder, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters, or their gradients, under the released names; stacked ones are split again.

    Args:
        model: whose they are.
        tensors: our names to tensors.

    Raises:
        CheckpointError: if there is no such name.
    """
    known, result = official_names(model), dict[str, Tensor]()
    for ours, value in tensors.items():
        if ours not in known:
            raise CheckpointError(f"'{ours}': GLIP's checkpoints have no such parameter. Leave it out.")
        result |= zip(known[ours], value.chunk(len(known[ours])), strict=True)
    if PATCHES in result:
        result[PATCHES] = result[PATCHES].flip(1)
    return result


def glip_checkpoint(model: Grounder) -> dict[str, Tensor]:
    """Everything that the original saves of a detector: parameters, constants, and its classifier of 80 classes.

    GLIP never uses that classifier, and ours has none; it is written as the original makes it, with weights of 0.
    """
    state = to_glip(model, dict(model.named_parameters()))
    for name, value in model.vision.body.named_buffers():
        if name.endswith("relative_position_index"):
            state[f"backbone.body.{name}"] = value
    levels = make_anchors([(1, 1)] * len(LEVEL_STRIDES), LEVEL_STRIDES)
    state |= {f"rpn.anchor_generator.cell_anchors.{level}": anchor for level, anchor in enumerate(levels)}
    channels = model.head.box.in_channels
    state["rpn.head.cls_logits.weight"] = torch.zeros(CLASSES, channels, 1, 1)
    state["rpn.head.cls_logits.bias"] = torch.full((CLASSES,), -math.log((1 - PRIOR) / PRIOR))
    return {name: value.detach().clone() for name, value in state.items()}


def layout_of_glip(model: Grounder) -> str:
    """The released layout that has the model's names and shapes; a tuned prompt may be there beside them.

    Raises:
        CheckpointError: if there is none.
    """
    for layout, build in GLIP.items():
        with torch.device("meta"):
            if _shapes(build()) == _shapes(model):
                return layout
    fused = "with" if any(layer.fusion is not None for layer in model.tower) else "without"
    raise CheckpointError(
        f"a detector on {model.vision.name} with {len(model.tower)} layers {fused} fusion has no released layout. "
        f"There is: {', '.join(GLIP)}."
    )


def _shapes(model: Grounder) -> dict[str, tuple[int, ...]]:
    return {n: tuple(value.shape) for n, value in model.named_parameters() if not n.startswith("offset.")}


def is_glip(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are the tensors of a released GLIP."""
    return any(key.removeprefix("module.").startswith("rpn.head.dyhead_tower.") for key in state)
