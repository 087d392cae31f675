"""Which record comes when: a pure function of seed, epoch and position, whatever the number of processes.

Shape letters: N draws of an epoch.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

Draw = tuple[int, int]
"""(round, index in the data set): the same record has another round each time it comes, and so other random numbers."""


def order(seed: int, epoch: int, size: int, part: int = 0) -> Int[np.ndarray, "N"]:
    """A permutation of the indices of a data set, or of a part of a mixture, for one epoch."""
    return np.random.default_rng([seed, epoch, part]).permutation(size)


class Shuffled:
    """Every record once an epoch, in a new order.

    Args:
        length: records in the data set.
        part: which of several data sets it is: each has orders of its own.
    """

    def __init__(self, length: int, part: int = 0) -> None:
        self.length, self.part = length, part

    def draws(self, seed: int, epoch: int) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """Rounds and indices of one epoch."""
        return np.full(self.length, epoch), order(seed, epoch, self.length, self.part)


class MixedOrder:
    """Parts in fixed proportions: in every epoch each part gives its share of the draws.

    A part goes on through its own permutations where it stopped in the epoch before. So each of its records comes
    equally often, whether its share is larger or smaller than the part itself.

    Args:
        sizes: records in each part; part p holds the indices that follow those of part p - 1.
        weights: share of the draws of each part, in any unit.
        length: draws an epoch.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], length: int) -> None:
        self.sizes, self.length = tuple(sizes), length
        share = np.cumsum(np.asarray(weights, dtype=np.float64)) / np.sum(weights)
        self.quotas: tuple[int, ...] = tuple(np.diff(np.round(share * length).astype(int), prepend=0).tolist())

    def draws(self, seed: int, epoch: int) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """Rounds (how often the part was gone through before) and indices of one epoch."""
        rounds, indices, start = [], [], 0
        for part, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True), 1):
            turn, place = np.divmod(np.arange(epoch * quota, (epoch + 1) * quota), size)
            index = np.zeros(quota, dtype=np.int64)
            for number in np.unique(turn):
                now = turn == number
                index[now] = start + order(seed, int(number), size, part)[place[now]]
            rounds.append(turn)
            indices.append(index)
            start += size
        shuffle = order(seed, epoch, self.length)
        return np.concatenate(rounds)[shuffle], np.concatenate(indices)[shuffle]


class Stream:
    """The endless sequence of all epochs' draws, read by position.

    Step s of a global batch G reads positions ``s * G .. (s + 1) * G - 1``; a batch may straddle two epochs, so none is
    short and no record is left out.

    Args:
        seed: of the permutations.
        source: what gives the draws of an epoch.
    """

    def __init__(self, seed: int, source: Shuffled | MixedOrder) -> None:
        self.seed, self.source = seed, source
        self._epoch, self._draws = -1, (np.zeros(0, dtype=np.int64),) * 2

    def __getitem__(self, position: int) -> Draw:
        epoch, place = divmod(position, self.source.length)
        if epoch != self._epoch:
            self._epoch, self._draws = epoch, self.source.draws(self.seed, epoch)
        rounds, indices = self._draws
        return int(rounds[place]), int(indices[place])

    def step(self, step: int, batch: int, micro: int, accumulate: int, rank: int, world: int) -> Sequence[Draw]:
        """The draws of one micro-batch of one rank.

        A step's positions are cut into its micro-batches, in order, and each of these is dealt to the ranks in
        contiguous slices. So what the ranks gather for micro-batch m is what one process with the whole batch, and as
        many micro-batches, has as its micro-batch m.
        """
        share = batch // (world * accumulate)
        start = step * batch + (micro * world + rank) * share
        return [self[position] for position in range(start, start + share)]
