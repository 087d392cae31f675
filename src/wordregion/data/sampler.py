"""Which record comes when: a pure function of seed, epoch and position, whatever the number of processes."""

from collections.abc import Sequence

import numpy as np

Draw = tuple[int, int]
"""(epoch, index in the data set)"""


def order(seed: int, epoch: int, size: int) -> np.ndarray:
    """(size,) a permutation of the indices of a data set for one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)


class Stream:
    """The endless sequence of all epochs' permutations, read by position.

    Step s of a global batch G reads positions ``s * G .. (s + 1) * G - 1``; a batch may straddle two epochs, so none is
    short and no record is left out.

    Args:
        seed: of the permutations.
        size: records in the data set, at least 1.
    """

    def __init__(self, seed: int, size: int) -> None:
        self.seed, self.size = seed, size
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def __getitem__(self, position: int) -> Draw:
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order(self.seed, epoch, self.size)
        return epoch, int(self._order[place])

    def step(self, step: int, batch: int, micro: int, accumulate: int, rank: int, world: int) -> Sequence[Draw]:
        """The draws of one micro-batch of one rank.

        A step's positions are dealt to ranks in contiguous slices; a rank's slice is cut into its micro-batches in
        order. So a process with twice the batch sees what two ranks see one after the other.
        """
        share = batch // (world * accumulate)
        start = step * batch + (rank * accumulate + micro) * share
        return [self[position] for position in range(start, start + share)]
