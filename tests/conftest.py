"""Runs before any test module: checked shapes, a fixed number of threads, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from jaxtyping import install_import_hook

install_import_hook("wordregion", "beartype.beartype")
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
