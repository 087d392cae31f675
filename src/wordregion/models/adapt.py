"""Adapting a trained detector: all of it, its last maps alone, or a prompt (GLIP, section 4 and code)."""

from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from wordregion.errors import CheckpointError, UsageError
from wordregion.models.grounder import Grounder, PromptOffset
from wordregion.nn.weights import read_weights

Mode = Literal["full", "linear", "prompt"]
"""How a detector is adapted to other data."""
MODES: dict[str, tuple[str, ...]] = {
    "full": ("",),
    "linear": ("head.text_proj.", "head.text_bias", "head.bias", "head.log_scale", "head.box.", "head.centre."),
    "prompt": ("offset.",),
    "text": ("text.",),
}
"""Beginnings of the names of what is trained. ``linear`` keeps the scales of the levels; ``text`` trains the text
encoder alone."""
FROZEN = ("vision.body.patch_embed.", "vision.body.layers.0.", "vision.body.layers.1.downsample.")
"""Not trained by ``full`` either: Swin's patches and first stage, as published for downstream data."""


def adapt(model: Grounder, mode: str) -> Grounder:
    """Chooses what is trained; ``prompt`` gives the model a fresh offset. The model is changed in place.

    Args:
        model: trained.
        mode: a key of `MODES`.

    Raises:
        UsageError: for an unknown mode.
    """
    if mode not in MODES:
        raise UsageError(f"adapt: unknown mode '{mode}'. There is: {', '.join(MODES)}.")
    if mode == "prompt":
        model.offset = PromptOffset(model.text.width)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(MODES[mode]) and not name.startswith(FROZEN))
    return model


def save_prompt(model: Grounder, path: str | Path) -> None:
    """Writes the tuned prompt of a model alone, as safetensors: the rows of the offset that training moved.

    Raises:
        UsageError: if the model has none.
    """
    if model.offset is None:
        raise UsageError("save_prompt: the model has no tuned prompt. Train one: adapt(model, 'prompt')")
    weight = model.offset.weight.detach().cpu()
    used = weight.abs().sum(1).nonzero()
    rows = int(used.max()) + 1 if len(used) else 1
    save_file({"offset.weight": weight[:rows].contiguous()}, str(path))


def load_prompt(model: Grounder, path: str | Path | None) -> Grounder:
    """Gives a model a saved prompt, or takes its prompt away (None). Nothing else of it changes.

    Raises:
        CheckpointError: if the file is missing or damaged, or holds no prompt for this text encoder.
    """
    if path is None:
        model.offset = None
        return model
    weight = read_weights(path).get("offset.weight")
    offset = PromptOffset(model.text.width)
    if weight is None or weight.ndim != 2 or weight.shape[1] != model.text.width or len(weight) > len(offset.weight):
        raise CheckpointError(f"{path}: no tuned prompt of width {model.text.width}. Give a file of save_prompt.")
    offset.weight.data[: len(weight)] = weight
    model.offset = offset.to(model.head.bias.device)
    return model
