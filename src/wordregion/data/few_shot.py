"""A few images of each class, drawn from a detection set (ODinW's few-shot splits)."""

from collections.abc import Sequence

import numpy as np

from wordregion.errors import UsageError
from wordregion.schema import Dataset, Sample


class Subset:
    """Some records of a data set, in the given order, repeated `copies` times (`Dataset`).

    Args:
        dataset: whose records these are.
        indices: which ones.
        copies: how often the whole comes; equal epochs for 1, 3, 5 and 10 shots ask for 8, 4, 2 and 1 (GLIP's code).
        name: of the part; default: the data set's.

    Raises:
        UsageError: if nothing is left.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int], copies: int = 1, name: str = "") -> None:
        self.dataset, self.name = dataset, name or dataset.name
        self.indices = list(indices) * copies
        if not self.indices:
            raise UsageError(f"{dataset.name}: no record is left of it. Choose at least one.")

    def __len__(self) -> int:
        return len(self.indices)

    def where(self, index: int) -> str:
        """As the data set names the record."""
        return self.dataset.where(self.indices[index])

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


def few_shot(classes: Sequence[set[int]], shots: int, seed: int) -> list[int]:
    """Images in random order, each kept if it shows a class of which fewer than `shots` images came before.

    So each class is shown in at least `shots` images where the set has as many; frequent ones in more (GLIP's code).

    Args:
        classes: those that each image shows.
        shots: 1, 3, 5 or 10 in ODinW.
        seed: of the order; GLIP's are 3, 30 and 300, with draws of another generator.

    Returns:
        indices of the images, in the order of the draw.

    Raises:
        UsageError: if `shots` is below 1.
    """
    if shots < 1:
        raise UsageError(f"few_shot: {shots} shots. Ask for at least 1.")
    count: dict[int, int] = {}
    kept: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(classes)).tolist():
        if any(count.get(number, 0) < shots for number in classes[index]):
            kept.append(index)
            for number in classes[index]:
                count[number] = count.get(number, 0) + 1
    return kept
