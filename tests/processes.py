"""A test's function in two processes."""

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes

PRELOADED = ["torch.distributed", "timm", "pytest", "wordregion.models.zoo", "wordregion.evaluate.retrieval"]


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Runs ``function(rank, *arguments)`` with the ranks 0 and 1, and raises what they raise.

    Both are forked from a server that has imported the libraries once for all tests.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    start_processes(function, arguments, nprocs=2, start_method="forkserver")
