"""A detector small enough for tests."""

import torch

from wordregion.models.grounder import Grounder, TowerLayer
from wordregion.nn.anchor_head import AnchorHead
from wordregion.nn.deep_fusion import DeepFusion, TextBlock
from wordregion.nn.dyhead import DyConv
from wordregion.nn.pyramid import FeaturePyramid, TimmPyramid
from wordregion.nn.text import TextEncoder, bert_config

CHANNELS, WIDTH = 32, 32


def small_grounder(layers: int = 1, fused: bool = True, separator: int | None = None, seed: int = 0) -> Grounder:
    torch.manual_seed(seed)
    vision = TimmPyramid("convnext_atto", settings={"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)})
    text = TextEncoder(bert_config(60, WIDTH, 1, 2, max_tokens=64, dropout=0.0))
    tower = [
        TowerLayer(DyConv(CHANNELS), DeepFusion(CHANNELS, WIDTH, 64, 2, 0.0), TextBlock(WIDTH, 2, 64, 0.0))
        if fused
        else TowerLayer(DyConv(CHANNELS))
        for _ in range(layers)
    ]
    return Grounder(
        vision, FeaturePyramid(vision.widths, CHANNELS), text, tower, AnchorHead(CHANNELS, WIDTH), separator
    )
