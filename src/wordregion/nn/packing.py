"""Texts of unequal length without their padding.

Shape letters: P texts, L tokens of the longest, R real tokens of all texts, D width.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

WORTH_IT = 0.15
"""Share of padding from which leaving it out pays for moving the rows; measured with `benchmarks/packing.py`."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the real tokens of padded texts are.

    Attributes:
        row: (R,) place of each real token among the P x L.
        text: (R,) text of each real token.
        texts: P.
        length: L.
    """

    row: Int[Tensor, "R"]
    text: Int[Tensor, "R"]
    texts: int
    length: int

    @classmethod
    def of(cls, mask_PL: Bool[Tensor, "P L"]) -> "Packing | None":
        """The packing of texts whose real tokens the mask marks; None where there is too little padding."""
        row = mask_PL.flatten().nonzero().flatten()
        texts, length = mask_PL.shape
        if len(row) >= (1 - WORTH_IT) * texts * length:
            return None
        return cls(row, row // length, texts, length)

    def pack(self, padded_PLD: Float[Tensor, "P L D"]) -> Float[Tensor, "R 1 D"]:
        """The real tokens, each as a text of one token."""
        return padded_PLD.flatten(0, 1).index_select(0, self.row)[:, None]

    def pad(self, packed_R1D: Float[Tensor, "R 1 D"]) -> Float[Tensor, "P L D"]:
        """The real tokens in their places, zeros in the others."""
        padded = packed_R1D.new_zeros(self.texts * self.length, packed_R1D.shape[-1])
        return padded.index_copy(0, self.row, packed_R1D[:, 0]).view(self.texts, self.length, -1)
