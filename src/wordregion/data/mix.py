"""Several data sets as one, in chosen proportions."""

from collections.abc import Sequence

import numpy as np

from wordregion.data.sampler import MixedOrder
from wordregion.errors import UsageError
from wordregion.schema import Dataset, Sample


class Mix:
    """The records of its parts one after the other; training draws from the parts by weight (`MixedOrder`).

    An index means the same record of the same part for ever, so that equal indices are equal pictures.

    Args:
        parts: (data set, weight > 0).
        epoch: draws an epoch; as many as there are records if None.

    Raises:
        UsageError: without parts, with an empty part, or with a weight that is not positive or so small that the part
            would never be drawn.
    """

    name = "mix"

    def __init__(self, *parts: tuple[Dataset, float], epoch: int | None = None) -> None:
        if not parts or any(not weight > 0 or len(part) == 0 for part, weight in parts):
            raise UsageError(
                "Mix needs at least one part, each non-empty and with a weight above 0. Correct the recipe."
            )
        self.parts = [part for part, _ in parts]
        sizes = [len(part) for part in self.parts]
        self._ends = np.cumsum(sizes)
        self.order = MixedOrder(sizes, [weight for _, weight in parts], len(self) if epoch is None else epoch)
        for part, quota in zip(self.parts, self.order.quotas, strict=True):
            if quota < 1:
                raise UsageError(
                    f"Mix: the weight of '{part.name}' gives it none of {self.order.length} draws an epoch. Raise it."
                )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[Dataset, int]:
        """The part and its own index behind a record of the mixture."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[number], index - int(self._ends[number]) + len(self.parts[number])

    def __getitem__(self, index: int) -> Sample:
        part, place = self.locate(index)
        return part[place]

    def where(self, index: int) -> str:
        """File and line of a record, as its part names it."""
        part, place = self.locate(index)
        return part.where(place)


def mixed(parts: Sequence[Dataset]) -> Dataset:
    """Data sets as one, in proportion to their sizes; a single one as it is.

    Raises:
        UsageError: if one of several is empty, or there is none.
    """
    return parts[0] if len(parts) == 1 else Mix(*((part, len(part)) for part in parts))
