"""Photos a second of a frozen image encoder on this machine, by how many it takes at a time (see `tasks.image_tokens`).

    python benchmarks/encode.py --threads 1                                    # ResNet-50 at 224 pixels
    python benchmarks/encode.py --model resnet50+mobilenetv2_100 --pixels 320  # as flickr_small --wide
    python benchmarks/encode.py --threads 2 --at-once 4 --fold                 # and with its batch norms folded (CNNs)

All take turns; medians. The last column is how much faster it is than the first line. Random weights.
"""

import argparse
import statistics
from functools import partial

import torch
from common import timed
from torch import Tensor

from wordregion.engine.malloc import keep_freed_memory
from wordregion.engine.precision import has_bf16
from wordregion.nn.vision import TimmVision


def encode(vision: TimmVision, photos: Tensor, at_once: int, half: bool) -> None:
    """All photos, so many at a time."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        for part in photos.split(at_once):
            vision(part)


@torch.no_grad()
def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--at-once", type=int, nargs="*", default=[32, 16, 8, 4, 2, 1])
    parser.add_argument("--fold", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    encoders = {"": TimmVision(given.model, given.pixels).eval()}
    if given.fold:
        encoders["folded"] = TimmVision(given.model, given.pixels, fold_norms=True).eval()
    ways = [(at_once, name) for name in encoders for at_once in given.at_once]
    photos = torch.randn(32, 3, given.pixels, given.pixels)
    print(f"torch {torch.__version__}, {given.threads} threads; {given.model}, {given.pixels} pixels; photos a second")
    for half in (True, False) if has_bf16(torch.device("cpu")) else (False,):
        seconds: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
        for _ in range(given.repeats + 1):
            for (at_once, name), found in seconds.items():
                work = partial(encode, encoders[name], photos, at_once, half)
                found.append(timed(work)["wall"])
        median = {way: statistics.median(found[1:]) for way, found in seconds.items()}
        for (at_once, name), found in median.items():
            precision = "bf16" if half else "fp32"
            rate, ratio = len(photos) / found, median[ways[0]] / found
            print(f"{precision}  {at_once:3} at a time  {rate:6.1f}  {ratio:5.2f}  {name}")


if __name__ == "__main__":
    main()
