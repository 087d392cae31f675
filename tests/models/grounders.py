"""A detector small enough for tests."""

import torch

from wordregion.models.grounder import Grounder, assemble
from wordregion.nn.pyramid import TimmPyramid
from wordregion.nn.text import TextEncoder, bert_config

CHANNELS, WIDTH = 32, 32


def small_grounder(layers: int = 1, fused: bool = True, separator: int | None = None, seed: int = 0) -> Grounder:
    torch.manual_seed(seed)
    vision = TimmPyramid("convnext_atto", settings={"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)})
    text = TextEncoder(bert_config(60, WIDTH, 1, 2, max_tokens=64, dropout=0.0))
    attention = 64 if fused else None
    return assemble(vision, text, layers, CHANNELS, attention, heads=2, dropout=0.0, separator=separator)
