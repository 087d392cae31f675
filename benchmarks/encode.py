"""Photos a second of a frozen image encoder on this machine, by how many it takes at a time (see `tasks.image_tokens`).

    python benchmarks/encode.py --threads 1                                    # ResNet-50 at 224 pixels
    python benchmarks/encode.py --model resnet50+mobilenetv2_100 --pixels 320  # as flickr_small --wide

The numbers at a time take turns; medians. Random weights.
"""

import argparse
import statistics

import torch
from common import timed
from torch import Tensor

from wordregion.engine.malloc import keep_freed_memory
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
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    vision = TimmVision(given.model, given.pixels).eval()
    photos = torch.randn(32, 3, given.pixels, given.pixels)
    print(f"torch {torch.__version__}, {given.threads} threads; {given.model}, {given.pixels} pixels; photos a second")
    for half in (True, False):
        seconds: dict[int, list[float]] = {at_once: [] for at_once in given.at_once}
        for _ in range(given.repeats + 1):
            for at_once, found in seconds.items():
                found.append(timed(lambda n=at_once, h=half: encode(vision, photos, n, h))["wall"])  # type: ignore[misc]
        median = {at_once: statistics.median(found[1:]) for at_once, found in seconds.items()}
        first = median[given.at_once[0]]
        for at_once, found in median.items():
            name = "bf16" if half else "fp32"
            print(f"{name}  {at_once:3} at a time  {len(photos) / found:6.1f}  {first / found:5.2f}")


if __name__ == "__main__":
    main()
