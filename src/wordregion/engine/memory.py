"""How much memory a run needs."""

import sys

import torch


def peak_gigabytes(device: torch.device) -> float:
    """Most memory held so far, in GiB: by tensors on a GPU, or by this process on a CPU (nan on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return float("nan")
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**30 if sys.platform == "darwin" else 2**20)
