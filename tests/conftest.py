"""Runs before any test module: checked shapes, a fixed number of threads, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from jaxtyping import install_import_hook

# As the type checker sees it, an int may stand where a float is asked for.
install_import_hook("wordregion", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
