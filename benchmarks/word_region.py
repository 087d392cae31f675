"""Words against places (`nn.word_region`): cosines of some images at a time against all at once.

    python benchmarks/word_region.py                  # 192 texts, 96 images of 100 places, two threads

Forward and backward take turns; medians. The last column is how much faster the first way is; the rate is that of the
products alone, three of the size of all cosines.
"""

import argparse
import statistics

import torch
from common import timed

from wordregion.nn import word_region


def main() -> None:
    """Prints a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = (("threads", 2), ("repeats", 7), ("texts", 192), ("words", 12), ("images", 96), ("places", 100))
    for name, value in sizes:
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    head = word_region.WordRegionHead(384, 512).train()
    text = torch.randn(given.texts, given.words, 384)
    mask = torch.ones(given.texts, given.words, dtype=torch.bool)
    place = torch.nn.functional.normalize(torch.randn(given.images, given.places, 512), dim=-1).requires_grad_()
    ways = {"some": word_region.AT_ONCE, "all": 1 << 62}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.repeats + 1):
        for way, at_once in ways.items():
            word_region.AT_ONCE = at_once
            seconds[way].append(timed(lambda: head(text, mask, place).sum().backward())["wall"])
    some, everything = (statistics.median(values[1:]) for values in seconds.values())
    operations = 3 * 2 * given.texts * given.words * given.images * given.places * 512
    print(
        f"torch {torch.__version__}, {given.threads} threads: some {1000 * some:.0f} ms ({operations / some / 1e9:.0f} "
        f"GFLOP/s), all {1000 * everything:.0f} ms, {everything / some:.2f}"
    )


if __name__ == "__main__":
    main()
