"""Several data sets as one, in chosen proportions."""

import numpy as np

from wordregion.errors import UsageError
from wordregion.schema import Dataset, Sample


class Mix:
    """Draws from its parts by weight: `size` records an epoch, of which each part gives its share, evenly spread.

    A part larger than its share is thinned to evenly spaced records; a smaller one repeats. Record i of the mixture is
    always the same record of the same part.

    Args:
        parts: (data set, weight > 0).
        size: records of the mixture; the sum of the parts' if None.

    Raises:
        UsageError: without parts, or with a weight that is not positive, or an empty part.
    """

    name = "mix"

    def __init__(self, *parts: tuple[Dataset, float], size: int | None = None) -> None:
        if not parts or any(weight <= 0 or len(part) == 0 for part, weight in parts):
            raise UsageError(
                "Mix needs at least one part, each non-empty and with a weight above 0. Correct the recipe."
            )
        self.parts = [part for part, _ in parts]
        total = size or sum(len(part) for part in self.parts)
        weights = np.array([weight for _, weight in parts], dtype=np.float64)
        ends = np.round(np.cumsum(weights / weights.sum()) * total).astype(np.int64)
        self._starts = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[Dataset, int]:
        """The part and its own index behind a record of the mixture."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        part, share = self.parts[number], int(self._starts[number + 1] - self._starts[number])
        place = index - int(self._starts[number])
        return part, place % len(part) if share >= len(part) else place * len(part) // share

    def __getitem__(self, index: int) -> Sample:
        part, place = self.locate(index)
        return part[place]

    def where(self, index: int) -> str:
        """File and line of a record, as its part names it."""
        part, place = self.locate(index)
        return part.where(place)
