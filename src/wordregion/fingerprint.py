"""Short names of a model's weights: equal names, equal values."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module, more: str = "") -> str:
    """16 hexadecimal digits that name the values of all tensors of a model.

    Args:
        model: whole, not sharded.
        more: what else the name shall depend on.
    """
    return state_fingerprint(model.state_dict(), more)


def state_fingerprint(state: Mapping[str, Tensor], more: str = "") -> str:
    """The same of a state dict, for a model that is sharded."""
    seen = hashlib.sha256(more.encode())
    for name, value in state.items():
        seen.update(name.encode())
        seen.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()[:16]
