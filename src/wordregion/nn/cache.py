"""What a decoder need not compute again for the next token.

Shape letters: A texts, S their tokens so far, I images (or other sequences that are looked at), N their tokens,
H heads, K head width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class BlockCache:
    """Keys and values of one block: of the texts so far, and of what they look at.

    Attributes:
        text: (2, A, H, S, K) of the tokens so far, or None before the first.
        image: (I, 2, H, N, K), or None before the first; a block without cross-attention has none.
    """

    def __init__(self) -> None:
        self.text: Tensor | None = None
        self.image: Tensor | None = None

    def extend(self, k: Float[Tensor, "A H M K"], v: Float[Tensor, "A H M K"]) -> tuple[Tensor, Tensor]:
        """Adds the keys and values of new tokens and returns those of all tokens, (A, H, S, K) each."""
        new = torch.stack([k, v])
        self.text = new if self.text is None else torch.cat([self.text, new], dim=3)
        return self.text[0], self.text[1]


class Cache:
    """One `BlockCache` a block.

    Args:
        blocks: how many.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = [BlockCache() for _ in range(blocks)]

    @property
    def length(self) -> int:
        """Tokens so far."""
        text = self.blocks[0].text
        return 0 if text is None else text.shape[3]

    def keep(self, rows: Int[Tensor, "A"]) -> None:
        """Takes these rows as the new texts (beam search)."""
        for block in self.blocks:
            assert block.text is not None
            block.text = block.text.index_select(1, rows)
