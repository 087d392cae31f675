"""The structure of a detector as JSON values, and back; see `models.store`."""

import json
from typing import Any

from transformers import AutoConfig

from wordregion.models.grounder import Grounder, PromptOffset, assemble
from wordregion.nn.pyramid import TimmPyramid
from wordregion.nn.text import TextEncoder

KIND = "grounder"


def describe_grounder(model: Grounder) -> dict[str, Any]:
    """Everything that `build_grounder` needs."""
    vision, text = model.vision, model.text
    first: Any = model.tower[0]
    fusion = first.fusion
    return {
        "kind": KIND,
        "vision": {
            "name": vision.name,
            "drop_path": vision.drop_path,
            "settings": vision.settings,
            "subsample_first": vision.subsample_first,
        },
        "text": {"config": json.loads(text.body.config.to_json_string()), "pool": text.pool},
        "tower": {
            "layers": len(model.tower),
            "channels": model.head.box.in_channels,
            "attention": None if fusion is None else fusion.image_query.out_features,
            "heads": 8 if fusion is None else fusion.heads,
            "dropout": 0.0 if fusion is None else fusion.dropout,
        },
        "separator": model.separator,
        "prompt": model.offset is not None,
    }


def build_grounder(structure: dict[str, Any]) -> Grounder:
    """A detector of that structure with random values."""
    given = dict(structure["text"]["config"])
    given.pop("transformers_version", None)
    text = TextEncoder(AutoConfig.for_model(given.pop("model_type"), **given), structure["text"]["pool"])
    model = assemble(TimmPyramid(**structure["vision"]), text, **structure["tower"], separator=structure["separator"])
    if structure["prompt"]:
        model.offset = PromptOffset(text.width)
    return model
