"""Distributed checkpoints in atomic folders: ``OUT/checkpoints/step_000500/``."""

import json
import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from wordregion.distributed import comm
from wordregion.errors import CheckpointError

_NAME = re.compile(r"step_(\d+)")


def checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = out / "checkpoints"
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def save(out: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int) -> Path:
    """Writes a checkpoint; it appears under its name only when it is complete, and then the oldest leave.

    Args:
        out: folder of the run.
        step: optimiser steps done.
        tensors: the task's and the optimiser's, sharded or whole.
        facts: JSON values (recipe, counters).
        keep: checkpoints to keep.
    """
    final = out / "checkpoints" / f"step_{step:06d}"
    draft = final.with_name(f"draft_{step:06d}")
    if comm.main_process():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    comm.barrier()
    torch.save(_random_state(), draft / f"random_{comm.rank()}.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dcp says that a single process saves alone
        dcp.save(tensors, checkpoint_id=draft)
    if comm.main_process():
        (draft / "facts.json").write_text(json.dumps(facts, indent=1))
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        for old in checkpoints(out)[:-keep]:
            shutil.rmtree(old)
    comm.barrier()
    return final


def load(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Fills `tensors` in place from a checkpoint, restores this process's random state, returns the facts.

    Written by another number of processes, a checkpoint loads all the same; only the random state is then new.

    Raises:
        CheckpointError: if the folder is no complete checkpoint, is damaged, or belongs to another model.
    """
    facts = read_facts(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, checkpoint_id=folder)
    except (
        CheckpointException,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[-160:]
        raise CheckpointError(
            f"{folder}: damaged, or of another model ({reason}). Use an earlier checkpoint."
        ) from error
    random = folder / f"random_{comm.rank()}.pt"
    if random.is_file() and facts.get("processes") == comm.world_size():
        state = torch.load(random, weights_only=True)
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])
    return facts


def read_facts(folder: Path) -> dict[str, Any]:
    """The JSON values saved with a checkpoint.

    Raises:
        CheckpointError: if they are absent or unreadable.
    """
    try:
        return json.loads((folder / "facts.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no complete checkpoint (facts.json). Use another one.") from error


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
