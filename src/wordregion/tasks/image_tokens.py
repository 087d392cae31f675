"""Tokens of a frozen image encoder, each image encoded once.

Shape letters: I images, N image tokens, V image width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE = 32
"""Images encoded at a time: a batch for projection heads alone is larger than an encoder's memory should be."""


class ImageTokens:
    """Keeps the tokens of every image by its key, on the encoder's device and in its precision.

    Right only where the encoder is frozen and the transform draws nothing: an image then has the same tokens in every
    epoch. Memory: images x N x V values. It is no part of a checkpoint: a resumed run encodes anew.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self,
        encode: Callable[[Float[Tensor, "I 3 H W"]], Float[Tensor, "I N V"]],
        image_I3HW: Float[Tensor, "I 3 H W"],
        key_I: Int[Tensor, "I"],
    ) -> Float[Tensor, "I N V"]:
        """Tokens of a batch; only images with a new key are encoded."""
        keys = key_I.tolist()
        new = [row for row, key in enumerate(keys) if key not in self._kept]
        for begin in range(0, len(new), AT_ONCE):
            rows = new[begin : begin + AT_ONCE]
            for row, tokens in zip(rows, encode(image_I3HW[rows]), strict=True):
                self._kept[keys[row]] = tokens.clone()
        return torch.stack([self._kept[key] for key in keys])

    def __len__(self) -> int:
        return len(self._kept)
