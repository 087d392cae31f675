"""Training through attention on this machine: torch's fused kernel against plain operations (`nn.attention`), and
looking at images in one call for all texts against image by image (`nn.fusion`).

    python benchmarks/attention.py --threads 2

Forward and backward take turns; medians. Where the last column is above 1, plain operations are
faster, or image by image is.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from common import timed
from torch import Tensor

from wordregion.nn import fusion
from wordregion.nn.attention import attend

SHAPES = {
    "a small text's own tokens": (450, 12, 20, 20, 32),
    "BERT-base, 24 texts of 30": (24, 12, 30, 30, 64),
    "texts of one image, looking at it": (1, 12, 90, 257, 64),
    "ViT-B, 4 images of 256 px": (4, 12, 257, 257, 64),
}

LOOKS = {
    "64 questions, 2 tokens of a photo each": (64, 64, 16, 2, 384),
    "64 answers of 5, 16 tokens of a question": (64, 64, 5, 16, 384),
    "320 tokens of answers without padding": (64, 320, 1, 16, 384),
    "160 answers of 6 to 32 questions of 25": (32, 160, 6, 25, 768),
    "96 texts of 16 to 32 photos of 50 cells": (32, 96, 16, 50, 384),
    "12 texts of 30 to 4 photos of 257 patches": (4, 12, 30, 257, 768),
}
"""Images, texts, rows a text, tokens an image, width."""


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


def look(cross: fusion.CrossAttention, few_scores: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Forward and backward once of texts that look at images."""
    images, texts, rows, tokens, width = shape
    x = torch.randn(texts, rows, width).to(dtype).requires_grad_()
    kv = torch.randn(images, 2, 12, tokens, width // 12).to(dtype).requires_grad_()
    fusion.FEW_SCORES = few_scores
    cross.attend(x, kv, torch.arange(texts) % images)[0].sum().backward()


def compare(name: str, dtype: torch.dtype, repeats: int, ways: dict[str, Callable[[], None]]) -> None:
    """Prints the milliseconds of two ways that take turns, and their ratio."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, work in ways.items():
            seconds[way].append(timed(work)["wall"])
    first, second = (1000 * statistics.median(values[1:]) for values in seconds.values())
    one, other = ways
    print(f"{dtype!s:15} {name:42} {one} {first:7.1f}  {other} {second:7.1f}  {first / second:5.2f}")


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
            ways = {"fused": partial(step, fused, shape, dtype), "here": partial(step, attend, shape, dtype)}
            compare(name, dtype, arguments.repeats, ways)
    for dtype in (torch.bfloat16, torch.float32):
        for name, shape in LOOKS.items():
            cross = fusion.CrossAttention(shape[-1], shape[-1], 12, 1e-12, 0.0).to(dtype)
            always = {
                "one call": partial(look, cross, 10**9, shape, dtype),
                "by image": partial(look, cross, 0, shape, dtype),
            }
            compare(name, dtype, arguments.repeats, always)


if __name__ == "__main__":
    main()
