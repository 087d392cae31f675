"""The text-only baseline: what can be known without looking."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wordregion.data.loader import Transform
from wordregion.schema import Sample


@dataclass(frozen=True)
class Blank:
    """A transform whose pictures come out empty: all pixels 0, which is the mean colour. All else stays as it was.

    Attributes:
        transform: the one that a run with pictures uses.
    """

    transform: Transform

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample with zeros for pixels."""
        sample = self.transform(sample, rng)
        empty = tuple(torch.zeros_like(image) if isinstance(image, Tensor) else image for image in sample.images)
        return replace(sample, images=empty)
