"""Finished and unfinished runs on disk: from the folder that training wrote back to recipe and model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from wordregion.engine import checkpoint, optim
from wordregion.errors import CheckpointError
from wordregion.recipes.recipe import Recipe, built


def read_record(run: Path) -> dict[str, Any]:
    """The resolved recipe of a run.

    Raises:
        CheckpointError: if the folder is missing, or no run.
    """
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such folder. Give the folder of a run (what train wrote as --out).")
    path = run / "recipe.json"
    if not path.is_file():
        raise CheckpointError(f"{run}: not a run, it has no recipe.json. Give the folder that train wrote as --out.")
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, no JSON ({error}). Restore it, or train again.") from error
    if not isinstance(record, dict) or not record.get("source"):
        raise CheckpointError(f"{path}: does not name its recipe ('source'). Train with: wordregion train RECIPE")
    record.setdefault("arguments", {})
    for name, kind in (("source", str), ("arguments", dict)):
        if not isinstance(record[name], kind):
            raise CheckpointError(f"{path}: damaged, its {name} is {record[name]!r:.40}. Restore it, or train again.")
    return record


def load_student(recipe: Recipe, run: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, str]:
    """The recipe's model with the weights of a run, in evaluation mode, and the name of what was loaded.

    Takes ``model.safetensors`` if the run is finished, or else the last checkpoint.

    Raises:
        CheckpointError: if there are no weights, or they are damaged or of another model.
    """
    model = built(recipe)
    weights = run / "model.safetensors"
    if weights.is_file():
        _load(lambda: load_model(model, str(weights)), weights)
        return model.to(device).eval(), weights.name
    found = checkpoint.checkpoints(run)
    if not found:
        raise CheckpointError(f"{run}: no model.safetensors and no checkpoint. Train it first.")
    task = recipe.task.build(model)
    optim.freeze(model, recipe.optim)
    optimiser = optim.build(model, recipe.optim)
    state = {f"task/{name}": value for name, value in task.state_dict().items()}
    state |= {f"optim/{name}": value for name, value in optim.moments(optimiser, model.named_parameters()).items()}
    checkpoint.load(found[-1], state)
    return model.to(device).eval(), found[-1].name


def _load(read: Callable[[], Any], path: Path) -> None:
    try:
        read()
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: damaged, or of another model ({reason}). Train again, or restore it."
        ) from error
