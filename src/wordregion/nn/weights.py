"""Weight files: opened safely, loaded strictly."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wordregion.errors import CheckpointError


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a flat state dict from a ``.safetensors`` file or from a torch file (tensors only, no code is run).

    Raises:
        CheckpointError: if the file is missing, unreadable, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file. Give the path of a .safetensors or .pth file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(
            f"{path}: not a readable weight file ({_first_line(error)}). Download it again."
        ) from error
    except Exception as error:  # the unpickler's own error types: whatever they are, the file is not plain tensors
        raise CheckpointError(
            f"{path}: refused, not plain tensors ({_first_line(error)}). Convert it first."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds no state dict (names to tensors). Save model.state_dict() instead.")
    return state


def load_backbone(module: nn.Module, state: dict[str, Tensor], source: str, ignore: Sequence[str] = ()) -> None:
    """Loads `state` into `module`; every parameter and buffer must be there with its shape.

    Args:
        module: takes the weights.
        state: names to tensors.
        source: named in errors.
        ignore: prefixes of names in `state` that the module need not have (a classifier, say).

    Raises:
        CheckpointError: listing the missing, unexpected and misshapen names.
    """
    own = module.state_dict()
    optional = ("num_batches_tracked", "position_ids", "relative_position_index", "attn_mask")
    missing = [name for name in own if name not in state and not name.endswith(optional)]
    unexpected = [n for n in state if n not in own and not n.startswith(tuple(ignore)) and not n.endswith(optional)]
    shapes = [
        f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        ]
        raise CheckpointError(
            f"{source}: does not fit {type(module).__name__}: {'; '.join(parts)}. "
            "Use the weights of this very architecture and size."
        )
    module.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
