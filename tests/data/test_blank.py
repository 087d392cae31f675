import numpy as np

from wordregion.data.blank import Blank
from wordregion.data.scenes import SceneQuestions
from wordregion.data.transforms import EvalTransform


def test_the_picture_is_empty_and_all_else_as_before():
    sample, rng = SceneQuestions("val", 2, image_size=32)[0], np.random.default_rng(0)
    plain, blank = EvalTransform(16)(sample, rng), Blank(EvalTransform(16))(sample, rng)
    assert plain.images[0].abs().sum() > 0
    assert blank.images[0].shape == plain.images[0].shape
    assert blank.images[0].abs().sum() == 0
    assert (blank.texts, blank.target, blank.id) == (plain.texts, plain.target, plain.id)
