"""Models filled from a folder's weights in a released layout, and gradient tables under the released names."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.parity.golden import Golden, weights
from wordregion.models.fusion import FusionModel
from wordregion.models.official import load_official, to_official


def released_model(golden: Golden, name: str, layout: str, momentum: bool = False) -> FusionModel:
    """The model of the manifest's list `name`, at the layout's image size, in evaluation mode."""
    model, report = load_official(weights(golden, name), layout, momentum=momentum)
    foreign = [ours for ours in report.new if not ours.startswith(("temperature", "image_proj", "text_proj"))]
    assert not foreign, f"left at constructor value: {foreign}"
    return model


def gradient_tables(golden: Golden, prefix: str, model: FusionModel, layout: str) -> Iterator[tuple[str, Tensor]]:
    """``PREFIX__grad_l2`` and ``PREFIX__grad_first_mid``, if the folder names the parameters of such tables.

    A parameter without gradient has NaN in the first and zeros in the second.
    """
    order = golden.manifest["outputs"].get(f"{prefix}__grad_names")
    if order is None:
        return
    own = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    found = to_official(own, layout)
    missing = torch.full((1,), float("nan"))
    flat = [found.get(name, missing).flatten() for name in order]
    yield f"{prefix}__grad_l2", torch.stack([gradient.double().norm().float() for gradient in flat])
    yield f"{prefix}__grad_first_mid", torch.stack([g[[0, g.numel() // 2]] for g in flat]).nan_to_num(nan=0.0)
