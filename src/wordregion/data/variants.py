"""Random changes with few outcomes, for what is computed once an outcome and kept."""

from dataclasses import dataclass

import numpy as np

from wordregion.data.loader import Transform
from wordregion.errors import UsageError
from wordregion.schema import Sample


@dataclass(frozen=True)
class Variants:
    """A random transform that changes a sample in one of `count` ways, drawn anew each time.

    The ways are the same for all samples. So a frozen encoder need encode an image no more than `count` times in a run,
    where its tokens are kept (`keep_image_tokens`).

    Attributes:
        transform: draws its changes from the generator that it is given.
        count: of ways, at least 1.

    Raises:
        UsageError: if there are none.
    """

    transform: Transform
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"Variants: count = {self.count}. Ask for at least 1.")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample, changed in one of the ways."""
        return self.transform(sample, np.random.default_rng(rng.integers(self.count)))
