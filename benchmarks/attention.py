"""Training through attention on this machine: torch's fused kernel against plain operations (`nn.attention`).

    python benchmarks/attention.py --threads 2

Forward and backward take turns; medians. Where the last column is above 1, plain operations are faster.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from common import timed
from torch import Tensor

from wordregion.nn.attention import attend

SHAPES = {
    "a small text's own tokens": (450, 12, 20, 20, 32),
    "BERT-base, 24 texts of 30": (24, 12, 30, 30, 64),
    "texts of one image, looking at it": (1, 12, 90, 257, 64),
    "ViT-B, 4 images of 256 px": (4, 12, 257, 257, 64),
}


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """torch's own choice of kernel."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def step(way: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Forward and backward once."""
    P, H, L, S, K = shape
    q, k, v = (torch.randn(P, H, tokens, K).to(dtype).requires_grad_() for tokens in (L, S, S))
    mask = torch.ones(P, 1, 1, S, dtype=torch.bool)
    mask[..., -3:] = False
    way(q, k, v, mask).sum().backward()  # type: ignore[operator]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads; milliseconds of forward and backward")
    for dtype in (torch.bfloat16, torch.float32):
        for name, shape in SHAPES.items():
            ways = {"fused": fused, "here": attend}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(arguments.repeats + 1):
                for way, attention in ways.items():
                    seconds[way].append(timed(lambda a=attention, s=shape, d=dtype: step(a, s, d))["wall"])  # type: ignore[misc]
            median = {way: 1000 * statistics.median(values[1:]) for way, values in seconds.items()}
            ratio = median["fused"] / median["here"]
            print(f"{dtype!s:15} {name:35} fused {median['fused']:7.1f}  here {median['here']:7.1f}  {ratio:5.2f}")


if __name__ == "__main__":
    main()
