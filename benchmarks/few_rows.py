"""Linear maps of few rows, as decoding needs them: torch's own against the other way round (`nn.few_rows`).

    python benchmarks/few_rows.py                 # BERT-base's maps, 1 to 48 rows, two threads

In turns, over several matrices so that none stays in the cache; medians. Where the last column is above 1, the other
way is faster.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from common import timed
from torch import Tensor

from wordregion.nn.few_rows import turned

MAPS = ((768, 768), (2304, 768), (3072, 768), (768, 3072), (30522, 768))


def all_maps(linear: Callable[..., Tensor], x: Tensor, weights: list[Tensor], bias: Tensor) -> None:
    """One map by each matrix."""
    for weight in weights:
        linear(x, weight, bias)


@torch.no_grad()
def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 2, 4, 8, 12, 16, 32, 48])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.threads} threads; milliseconds a map")
    for out, inner in MAPS:
        bias = torch.randn(out)
        weights = [torch.randn(out, inner) for _ in range(max(2, 30_000_000 // (out * inner)))]
        for rows in given.rows:
            x = torch.randn(rows, inner)
            ways = {"torch": F.linear, "turned": turned}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(given.repeats + 1):
                for way, linear in ways.items():
                    seconds[way].append(timed(partial(all_maps, linear, x, weights, bias))["wall"] / len(weights))
            own, other = (1000 * statistics.median(values[1:]) for values in seconds.values())
            print(f"{inner:5} to {out:5}, {rows:2} rows   torch {own:6.2f}   turned {other:6.2f}   {own / other:5.2f}")


if __name__ == "__main__":
    main()
