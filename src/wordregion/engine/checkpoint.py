"""Distributed checkpoints in atomic folders: ``OUT/checkpoints/step_000500/``.

A folder appears under its name when all of it is on disk. It is read without running code that it may hold.
"""

import json
import os
import pickle
import random
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch import distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from wordregion.distributed import comm
from wordregion.drafts import remove
from wordregion.errors import CheckpointError

_NAME = re.compile(r"step_(\d+)")


def checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = out / "checkpoints"
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def save(out: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int) -> Path:
    """Writes a checkpoint; it appears under its name only when it is complete, and then the oldest leave.

    Args:
        out: folder of the run, seen by all processes.
        step: optimiser steps done.
        tensors: the task's and the optimiser's, sharded or whole.
        facts: JSON values (recipe, counters).
        keep: checkpoints to keep.
    """
    final = out / "checkpoints" / f"step_{step:06d}"
    draft = final.with_name(f"draft_{step:06d}")
    if comm.main_process():
        with _writing(draft):
            for left in final.parent.glob("draft_*"):
                remove(left)
            draft.mkdir(parents=True)
    comm.barrier()
    with _writing(draft), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dcp says that a single process saves alone
        torch.save(_random_state(), draft / f"random_{comm.rank()}.pt")
        dcp.save(tensors, checkpoint_id=draft)
    comm.barrier()
    if comm.main_process():
        with _writing(draft):
            files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(draft.iterdir())}
            facts = facts | {"step": step, "processes": comm.world_size(), "files": files}
            (draft / "facts.json").write_text(json.dumps(facts, indent=1))
            for path in (*draft.iterdir(), draft):
                _flush(path)
            if final.exists():
                remove(final)
            draft.rename(final)
            _flush(final.parent)
            for old in checkpoints(out)[:-keep]:
                remove(old)
    comm.barrier()
    return final


@contextmanager
def _writing(draft: Path) -> Iterator[None]:
    """Tells in one line what the disk refuses; torch says RuntimeError where it is full."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CheckpointError(
            f"{draft}: can't be written ({lines[-1].strip()[-160:]}). Free space on its disk or mend its folder, then "
            "--resume from the last checkpoint."
        ) from error


def load(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Fills `tensors` in place from a checkpoint, restores this process's random state, returns the facts.

    Written by another number of processes, a checkpoint loads all the same; only the random state stays as it is.

    Raises:
        CheckpointError: if the folder is no complete checkpoint, is damaged, or belongs to another model.
    """
    facts = read_facts(folder)
    problem = _damage(folder, facts["files"], comm.rank(), comm.world_size())
    if comm.world_size() > 1:  # each process checks its share of the files, and all fail together
        problems: list[str | None] = [None] * comm.world_size()
        dist.all_gather_object(problems, problem)
        problem = next((found for found in problems if found), None)
    if problem:
        raise CheckpointError(f"{folder}: {problem}. Delete this folder to resume from an earlier checkpoint.")
    try:
        reader = _Reader(folder)
        _must_fit(folder, reader.read_metadata(), tensors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, storage_reader=reader)
        if facts["processes"] == comm.world_size():
            _set_random_state(torch.load(folder / f"random_{comm.rank()}.pt", weights_only=True))
    except (
        CheckpointException,
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[-160:]
        raise CheckpointError(
            f"{folder}: damaged ({reason}). Delete this folder to resume from an earlier checkpoint."
        ) from error
    return facts


def read_facts(folder: Path) -> dict[str, Any]:
    """The JSON values saved with a checkpoint.

    Raises:
        CheckpointError: if they are absent or unreadable.
    """
    try:
        facts = json.loads((folder / "facts.json").read_text())
        if not _sound(facts):
            raise ValueError("incomplete")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder}: facts.json is missing or damaged. Delete this folder to resume from an earlier checkpoint."
        ) from error
    return facts


def _sound(facts: Any) -> bool:
    """Whether these are the facts of a checkpoint, each of its own kind."""
    kinds = {"step": int, "processes": int, "files": dict, "recipe": dict, "counters": dict}
    if not isinstance(facts, dict) or not all(type(facts.get(name)) is kind for name, kind in kinds.items()):
        return False
    run, seen = facts["recipe"].get("run"), facts.get("validation", [])
    return (
        facts["step"] >= 0
        and bool(facts["files"])
        and all(_numbers(pair, int) for pair in facts["files"].values())
        and all(type(facts["counters"].get(name)) is int for name in ("skipped", "seen"))
        and isinstance(run, dict)
        and {"batch", "seed"} <= run.keys()
        and isinstance(facts["recipe"].get("arguments", {}), dict)
        and isinstance(seen, list)
        and all(_numbers(pair, int, float) for pair in seen)
    )


def _numbers(pair: Any, *kinds: type) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(value) in kinds for value in pair)


def _must_fit(folder: Path, metadata: Metadata, tensors: dict[str, Tensor]) -> None:
    """Raises CheckpointError unless the checkpoint holds exactly these names and shapes."""
    stored = {
        name: tuple(value.size)
        for name, value in metadata.state_dict_metadata.items()
        if isinstance(value, TensorStorageMetadata)
    }
    missing = [name for name in tensors if name not in stored]
    unexpected = [name for name in stored if name not in tensors]
    shapes = [name for name, value in tensors.items() if name in stored and stored[name] != tuple(value.shape)]
    for names, what in ((missing, "has no"), (unexpected, "has a further"), (shapes, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{folder}: of another model or task: {what} {names[0]}{more}. Resume with the recipe that wrote it."
            )


def _damage(folder: Path, files: dict[str, list[int]], rank: int, world: int) -> str | None:
    for name, (size, checksum) in sorted(files.items())[rank::world]:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if _checksum(path) != checksum:
            return f"{name} is damaged (checksum)"
    return None


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _flush(path: Path) -> None:
    """Has the operating system write a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Unpickler(pickle.Unpickler):
    """Knows the plain records of a checkpoint's index and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        records = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
        plain = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")}
        known = (module in records and "." not in name) or (module, name) in plain
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            found = super().find_class(module, name)
            if module not in records or (isinstance(found, type) and found.__module__ == module):
                return found
        raise pickle.UnpicklingError(f"the index names {module}.{name}")


class _Reader(FileSystemReader):
    """Reads the index with `_Unpickler`; tensors are read with ``weights_only`` by torch itself."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("the index is of another kind")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002, the global one
    state = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
