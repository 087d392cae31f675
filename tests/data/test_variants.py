import numpy as np
import pytest
import torch

from wordregion.data.scenes import SceneQuestions
from wordregion.data.transforms import TrainTransform
from wordregion.data.variants import Variants
from wordregion.errors import UsageError


def test_a_sample_comes_in_so_many_ways_and_each_is_one_of_the_transforms():
    sample, rng = SceneQuestions("val", 2, image_size=32)[0], np.random.default_rng(0)
    transform = TrainTransform(16, scale=(0.4, 1.0), randaugment=None)
    drawn = [Variants(transform, 5)(sample, rng) for _ in range(60)]
    ways = {found.images[0].numpy().tobytes(): found for found in drawn}
    assert len(ways) == 5
    own = [transform(sample, np.random.default_rng(way)) for way in range(5)]
    assert {image.images[0].numpy().tobytes() for image in own} == set(ways)
    for found in own:  # a flip changes texts along, also here
        assert ways[found.images[0].numpy().tobytes()].texts == found.texts
    assert torch.isfinite(drawn[0].images[0]).all()


def test_at_least_one():
    with pytest.raises(UsageError, match="count = 0"):
        Variants(TrainTransform(16), 0)
