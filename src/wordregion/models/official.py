"""Names of the original releases' parameters, and how they become ours.

ALBEF's fusion layers hold queries, keys and values as separate matrices; ours stack them, so one of our tensors is the
concatenation of one to three of theirs, along dimension 0.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from wordregion.errors import CheckpointError
from wordregion.models.report import resize_positions

__all__ = ["albef_names", "from_albef", "resize_positions", "to_albef"]

_FUSION_PARTS = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention.norm": ("attention.output.LayerNorm",),
    "cross.q": ("crossattention.self.query",),
    "cross.kv": ("crossattention.self.key", "crossattention.self.value"),
    "cross.out": ("crossattention.output.dense",),
    "cross.norm": ("crossattention.output.LayerNorm",),
    "feed_forward.up": ("intermediate.dense",),
    "feed_forward.down": ("output.dense",),
    "feed_forward.norm": ("output.LayerNorm",),
}
_PLAIN = {
    "temperature": "temp",
    "image_proj": "vision_proj",
    "text_proj": "text_proj",
    "heads.match": "itm_head",
    "heads.mask.dense": "text_encoder.cls.predictions.transform.dense",
    "heads.mask.norm": "text_encoder.cls.predictions.transform.LayerNorm",
    "heads.mask.decoder": "text_encoder.cls.predictions.decoder",
}
_MOMENTUM = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")


def albef_names(ours: str, text_layers: int = 6, momentum: bool = False) -> list[str]:
    """The names in ALBEF's pre-training checkpoint whose tensors, concatenated, are our parameter `ours`.

    Args:
        ours: a name in `FusionModel.state_dict()`.
        text_layers: layers before the fusion half.
        momentum: the momentum copy's names (``visual_encoder_m.`` and so on).

    Raises:
        CheckpointError: if ALBEF has no such parameter.
    """
    names = _student_names(ours, text_layers)
    if not momentum:
        return names
    return [re.sub(r"^(\w+?)\.", r"\1_m.", name) if name.startswith(_MOMENTUM) else name for name in names]


def _student_names(ours: str, text_layers: int) -> list[str]:
    if ours.startswith("vision.body."):
        return [ours.replace("vision.body.", "visual_encoder.", 1)]
    if ours.startswith("text.body."):
        return [ours.replace("text.body.", "text_encoder.bert.", 1)]
    if found := re.fullmatch(r"fusion\.layers\.(\d+)\.(\w+\.\w+)\.(weight|bias)", ours):
        layer, part, kind = int(found[1]) + text_layers, found[2], found[3]
        return [f"text_encoder.bert.encoder.layer.{layer}.{name}.{kind}" for name in _FUSION_PARTS[part]]
    stem, _, kind = ours.rpartition(".")
    if ours in _PLAIN:
        return [_PLAIN[ours]]
    if stem in _PLAIN:
        return [f"{_PLAIN[stem]}.{kind}"]
    raise CheckpointError(
        f"ALBEF has no parameter for '{ours}'. Its layout fits models of albef_base's structure only."
    )


def from_albef(own: Mapping[str, Tensor], state: Mapping[str, Tensor], momentum: bool = False) -> dict[str, Tensor]:
    """ALBEF's tensors as a state dict of ours.

    Args:
        own: our model's state dict; gives names and shapes.
        state: the released pre-training layout.
        momentum: read the momentum copy; what it lacks (temperature, match head) comes from the student.

    Raises:
        CheckpointError: if a tensor is missing or has another size.
    """
    result = {}
    for name, mine in own.items():
        theirs = albef_names(name, momentum=momentum)
        if absent := [key for key in theirs if key not in state]:
            raise CheckpointError(f"the ALBEF checkpoint lacks {', '.join(absent)}. Use a pre-training checkpoint.")
        value = torch.cat([torch.atleast_1d(state[key]) for key in theirs])
        if value.shape != mine.shape:
            raise CheckpointError(
                f"the ALBEF checkpoint's {theirs[0]} becomes {tuple(value.shape)}, but '{name}' is "
                f"{tuple(mine.shape)}. Build the model for the checkpoint's image size."
            )
        result[name] = value
    return result


def to_albef(tensors: Mapping[str, Tensor], momentum: bool = False) -> dict[str, Tensor]:
    """Our parameters (or their gradients) under ALBEF's names, split where ours are stacked."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        theirs = albef_names(name, momentum=momentum)
        parts = value.chunk(len(theirs)) if len(theirs) > 1 else [value]
        for key, part in zip(theirs, parts, strict=True):
            result[key] = part.reshape(()) if key == "temp" else part
    return result
