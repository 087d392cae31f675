"""A ring of the latest teacher features (MoCo; ALBEF section 3.2).

Shape letters: Q slots, E shared width, B new entries.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """Image and text features of the latest pairs with the identity of their image; takes any number at a time.

    It starts with random unit vectors of unknown identity (-1), the same on every rank, as published.

    Args:
        size: Q.
        embed: E.
    """

    image: Tensor
    text: Tensor
    key_id: Tensor
    pointer: Tensor

    def __init__(self, size: int, embed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name in ("image", "text"):
            self.register_buffer(name, F.normalize(torch.randn(size, embed, generator=generator), dim=-1))
        self.register_buffer("key_id", torch.full((size,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, image_BE: Float[Tensor, "B E"], text_BE: Float[Tensor, "B E"], key_id_B: Int[Tensor, "B"]) -> None:
        """Overwrites the oldest entries; of more than Q new ones the last Q stay."""
        size = len(self.key_id)
        if size == 0:
            return
        slots = (self.pointer + torch.arange(len(key_id_B), device=self.pointer.device)) % size
        self.pointer.copy_((self.pointer + len(key_id_B)) % size)
        slots, image_BE, text_BE, key_id_B = slots[-size:], image_BE[-size:], text_BE[-size:], key_id_B[-size:]
        self.image[slots] = image_BE.to(self.image.dtype)
        self.text[slots] = text_BE.to(self.text.dtype)
        self.key_id[slots] = key_id_B
