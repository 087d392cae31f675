"""Image batches and region batches in separate steps, as X-VLM trains."""

import numpy as np

from wordregion.data.sampler import Draw, Shuffled, Stream
from wordregion.errors import UsageError
from wordregion.schema import Dataset, Sample


class Turns:
    """Every image step has, by chance, a region step before it (X-VLM's code); records of the images come first.

    Which steps are region steps depends on the seed and the step alone: it is the same on all ranks and after a resume.

    Args:
        images: captioned pictures.
        regions: pictures with regions.
        probability: of a region step before an image step (X-VLM: 0.5, so a third of all steps).
        share: pictures of a region step, as a share of those of an image step (X-VLM: 48 of 128); rounded to what the
            processes can split, one picture each at least.

    Raises:
        UsageError: for an empty part, or numbers out of range.
    """

    name = "turns"

    def __init__(self, images: Dataset, regions: Dataset, probability: float = 0.5, share: float = 0.375) -> None:
        if not len(images) or not len(regions) or not 0 < probability <= 1 or not 0 < share <= 1:
            raise UsageError(
                f"Turns: images has {len(images)} records, regions {len(regions)}; probability={probability}, "
                f"share={share}: both parts must hold records, both numbers lie in (0, 1]. Correct the recipe."
            )
        self.images, self.regions, self.probability, self.share = images, regions, probability, share

    def __len__(self) -> int:
        return len(self.images) + len(self.regions)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._locate(index)
        return part[place]

    def where(self, index: int) -> str:
        """File and line of a record, as its part names it."""
        part, place = self._locate(index)
        return part.where(place)

    def _locate(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = len(self.images)
        return (self.images, index) if index < first else (self.regions, index - first)


class TurnStream:
    """The draws of every step, in the place of a `Stream`.

    Args:
        seed: of permutations and turns.
        turns: gives the sizes and the chance.
    """

    def __init__(self, seed: int, turns: Turns) -> None:
        self.seed, self.turns = seed, turns
        self._images = Stream(seed, Shuffled(len(turns.images)))
        self._regions = Stream(seed, Shuffled(len(turns.regions), part=1))
        self._kinds = np.zeros(0, dtype=bool)

    def is_region(self, step: int) -> bool:
        """Whether a step is one of regions."""
        return bool(self._until(step)[step])

    def step(self, step: int, batch: int, micro: int, accumulate: int, rank: int, world: int) -> list[Draw]:
        """The draws of one micro-batch of one rank; see `Stream.step`. `batch` counts the pictures of an image step."""
        kinds = self._until(step)
        regions_before = int(kinds[:step].sum())
        if not kinds[step]:
            return list(self._images.step(step - regions_before, batch, micro, accumulate, rank, world))
        unit = world * accumulate
        batch = max(1, round(batch * self.turns.share / unit)) * unit
        found = self._regions.step(regions_before, batch, micro, accumulate, rank, world)
        return [(turn, index + len(self.turns.images)) for turn, index in found]

    def _until(self, step: int) -> np.ndarray:
        """Kinds of the steps up to `step` at least: True for regions."""
        size = 1024
        while len(self._kinds) <= step:
            coins = np.random.default_rng([self.seed, 2]).random(size) < self.turns.probability
            # an image step, before which a region step comes where the coin fell so
            self._kinds = np.concatenate([np.array([True, False] if coin else [False]) for coin in coins])
            size *= 2
        return self._kinds
