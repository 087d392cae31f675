"""Freed memory is used again, not fetched anew: seen by the pages that the system had to give."""

import platform
import subprocess
import sys

import pytest

from wordregion.engine import malloc

PAGES = """
import resource, sys
import torch
from wordregion.engine.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    torch.ones(2**24)  # 64 MB: 16,384 pages of 4 KB
for _ in range(16):  # the heap takes some turns to find its place
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(way: str) -> int:
    run = subprocess.run([sys.executable, "-c", PAGES, way], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_was_freed_is_used_again():
    assert 20 * pages("kept") < pages("plain")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: pytest.fail("asked for a library"))
    malloc.keep_freed_memory()
