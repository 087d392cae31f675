"""Text states of a frozen encoder, each text encoded once in a run.

Shape letters: T texts, L tokens, D text width.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wordregion.models.fusion import FusionModel
from wordregion.tasks.image_tokens import check_kept

GROUPS = 4
"""Texts of similar length are encoded together, in at most so many parts: each is padded to its own longest."""
LEAST = 16
"""Texts worth a part of their own."""


class TextStates:
    """Encodes the texts of a batch.

    With `keep`, the states of every different text stay in memory (tokens x D values a text, on the encoder's device,
    in its precision). They are no part of a checkpoint: a resumed run encodes anew.

    Args:
        keep: False = encode every time.
    """

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self._kept: dict[bytes, Tensor] = {}

    def __call__(
        self, model: FusionModel, ids_TL: Int[Tensor, "T L"], mask_TL: Bool[Tensor, "T L"], passing: range = range(0)
    ) -> Float[Tensor, "T L D"]:
        """States of texts whose padding, if any, follows them; zero at the padding where states are kept.

        Args:
            model: its text encoder.
            ids_TL: tokens.
            mask_TL: True at real tokens.
            passing: rows that are not kept, since they hardly come again: texts masked by chance.

        Raises:
            UsageError: if states are kept and the text encoder is trained or sharded.
        """
        if not self.keep:
            return model.encode_text(ids_TL, mask_TL)
        check_kept(model.text, "keep_text_states", "text", "text")
        lengths = mask_TL.sum(1).tolist()
        keys = [ids[:length].tobytes() for ids, length in zip(ids_TL.cpu().numpy(), lengths, strict=True)]
        new = {key: row for row, key in enumerate(keys) if row not in passing and key not in self._kept}
        rows = sorted([*new.values(), *passing], key=lengths.__getitem__)
        own: dict[int, Tensor] = {}
        together = max(LEAST, math.ceil(len(rows) / GROUPS))
        for begin in range(0, len(rows), together):
            part = rows[begin : begin + together]
            length = lengths[part[-1]]
            with torch.no_grad():
                states = model.encode_text(ids_TL[part, :length], mask_TL[part, :length])
            own |= {row: found[: lengths[row]] for row, found in zip(part, states, strict=True)}
        self._kept |= {key: own[row].clone() for key, row in new.items()}
        found = [own[row] if row in passing else self._kept[key] for row, key in enumerate(keys)]
        return F.pad(pad_sequence(found, batch_first=True), (0, 0, 0, ids_TL.shape[1] - max(lengths)))

    def __len__(self) -> int:
        return len(self._kept)
