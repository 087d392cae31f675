"""Which texts and views of a batch are the same thing, by numbers that processes can exchange.

Shape letters: T texts, L tokens, R regions.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from wordregion.schema import Regions

MIXER = 6364136223846793005
"""An odd factor whose powers, modulo 2^64, look random (Knuth's MMIX generator)."""
SAME_BOX = 10_000
"""Boxes are compared in steps of this part of the image."""


def view_ids(image_key_T: Int[Tensor, "T"], regions: Regions) -> Int[Tensor, "T"]:
    """The key of the image where a text describes it as a whole, else a number made of the key and the box."""
    ids = image_key_T.clone()
    box = (regions.box * SAME_BOX).round().long()
    ids[regions.text] = _mixed(ids[regions.text], box + 1)
    return ids


def wording_ids(
    image_key_T: Int[Tensor, "T"], ids_TL: Int[Tensor, "T L"], mask_TL: Bool[Tensor, "T L"]
) -> Int[Tensor, "T"]:
    """A number made of the key of the image and the words of the text."""
    return _mixed(image_key_T, (ids_TL + 1) * mask_TL)


def _mixed(key: Tensor, numbers: Tensor) -> Tensor:
    powers = torch.full((numbers.shape[1],), MIXER, device=key.device).cumprod(0)  # wraps around
    return key * MIXER + (numbers * powers).sum(1)
