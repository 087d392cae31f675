"""Runs before any test module: checked shapes, a fixed number of threads, no network."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from jaxtyping import install_import_hook

SOURCE = Path(__file__).parent.parent / "src"
NO_ARRAYS = ("scene_graph", "scene_render", "scene_text")
"""Called millions of times, and they take no arrays: the checks would be nine tenths of their time."""

checked = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.stem not in (*NO_ARRAYS, "__init__")]
# As the type checker sees it, an int may stand where a float is asked for.
install_import_hook(
    [".".join(path.with_suffix("").parts) for path in checked],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
