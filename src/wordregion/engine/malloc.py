"""How the C library hands out the memory of tensors on a CPU."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
PAD = 2**28  # bytes


def keep_freed_memory() -> None:
    """Has glibc keep for this process what tensors free; elsewhere, and for other allocators, nothing happens.

    As it comes, glibc returns every large block to the system at once and asks for the next one anew, which the system
    then fills with zeros, page by page, step after step. What is kept is used again, so the peak stays about the
    same, but the process does not shrink after it. A command calls this as it starts; so can a program that trains
    or serves through Python (`benchmarks/train_step.py --malloc` measures what it gains).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap, too
    mallopt(M_TRIM_THRESHOLD, -1)  # which never shrinks
    mallopt(M_TOP_PAD, PAD)  # and grows by much at a time
