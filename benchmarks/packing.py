"""Training the fusion encoder on texts of unequal length: padding left out (`nn.packing`) against padding computed.

    python benchmarks/packing.py                  # two layers, 96 pairs of texts up to 25 tokens, two threads

Forward and backward take turns; medians. Where the last column is above 1, leaving padding out is faster.
"""

import argparse
import statistics

import torch
from common import timed

from wordregion.nn import packing
from wordregion.nn.fusion import FusionEncoder


def lengths_of(kind: str, pairs: int, longest: int) -> torch.Tensor:
    """Tokens of each text; at least one text has `longest`."""
    lengths = torch.full((pairs,), longest)
    if kind == "captions":
        lengths = (14 + 4.5 * torch.randn(pairs)).round().long().clamp(4, longest)
    elif kind == "a caption and three phrases each":
        lengths[torch.arange(pairs) % 4 > 0] = 5
    else:
        lengths[1:] = round((1 - float(kind.split()[0]) / 100) * longest)
    lengths[0] = longest
    return lengths


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("threads", 2), ("repeats", 7), ("pairs", 96), ("longest", 25), ("width", 384), ("tokens", 50)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    fusion = FusionEncoder(given.width, 512, layers=2, heads=given.width // 64, dropout=0.0).train()
    images = given.pairs // 4
    image = torch.randn(images, given.tokens, 512, requires_grad=True)
    text = torch.randn(given.pairs, given.longest, given.width, requires_grad=True)
    index = torch.arange(given.pairs) // 4
    print(f"torch {torch.__version__}, {given.threads} threads; milliseconds of forward and backward")
    for kind in ("captions", "a caption and three phrases each", "0 %", "5 %", "10 %", "15 %", "20 %", "30 %", "50 %"):
        mask = torch.arange(given.longest) < lengths_of(kind, given.pairs, given.longest)[:, None]
        ways = {"left out": -1.0, "computed": 1.0}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(given.repeats + 1):
            for way, share in ways.items():
                packing.WORTH_IT = share
                seconds[way].append(timed(lambda m=mask: fusion(text, m, image, index).hidden.sum().backward())["wall"])  # type: ignore[misc]
        left_out, computed = (1000 * statistics.median(values[1:]) for values in seconds.values())
        padding = 1 - mask.float().mean()
        print(
            f"{kind:33} {padding:4.0%} padding   left out {left_out:7.1f}  computed {computed:7.1f}  "
            f"{computed / left_out:5.2f}"
        )


if __name__ == "__main__":
    main()
