"""Dropout on a CPU: torch's own beside `nn.dropout`, at which four values share a random number.

    python benchmarks/dropout.py                  # image tokens of a step of flickr_small --wide, two threads

The two take turns; medians. The last column is how much faster ours is.
"""

import argparse
import statistics

import torch
from common import timed

from wordregion.engine.malloc import keep_freed_memory
from wordregion.nn.dropout import dropout


def main() -> None:
    """Prints a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs="*", default=[96, 100, 3328])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    values = torch.randn(given.shape)
    ways = {"torch": torch.nn.functional.dropout, "ours": dropout}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.repeats + 1):
        for name, way in ways.items():
            seconds[name].append(timed(lambda w=way: w(values, 0.2, True))["wall"])  # type: ignore[misc]
    theirs, ours = (statistics.median(found[1:]) for found in seconds.values())
    print(
        f"torch {torch.__version__}, {given.threads} threads: torch {1000 * theirs:.1f} ms, ours {1000 * ours:.1f} ms, "
        f"{theirs / ours:.2f}"
    )


if __name__ == "__main__":
    main()
