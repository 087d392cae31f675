"""Sizes and flips of detection pictures: painted rectangles are looked for in what comes out."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from wordregion.data.ground_transforms import GroundEvalTransform, GroundTransform, fitted_size
from wordregion.errors import UsageError
from wordregion.schema import Grounding, Sample

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def painted() -> Sample:
    image = Image.new("RGB", (120, 80))
    ImageDraw.Draw(image).rectangle((12, 8, 35, 31), fill=(255, 0, 0))
    box = (0.1, 0.1, 0.3, 0.4)
    return Sample("s", (image,), ("square on the left side",), (Grounding(text=0, span=(14, 18), boxes=(box,)),))


def red_box(image: torch.Tensor) -> tuple[float, ...]:
    ys, xs = torch.nonzero(image[0] > 0.5, as_tuple=True)
    h, w = image.shape[1:]
    return (xs.min().item() / w, ys.min().item() / h, (xs.max().item() + 1) / w, (ys.max().item() + 1) / h)


def test_the_longer_side_limits_the_shorter_and_no_side_vanishes() -> None:
    assert fitted_size(640, 480, 800, 1333) == (1066, 800)
    assert fitted_size(480, 640, 800, 1333) == (800, 1066)
    assert fitted_size(2000, 300, 800, 1333) == (1333, 200)
    assert fitted_size(5000, 1, 800, 1333)[1] == 1


def test_sizes_are_drawn_and_boxes_stay_on_what_they_show() -> None:
    transform = GroundTransform(shorter=(40, 60), longest=100, flip=0.5, **PLAIN)
    sizes, sides = set(), set()
    for seed in range(20):
        out = transform(painted(), np.random.default_rng(seed))
        sizes.add(tuple(out.images[0].shape[1:]))
        (grounding,) = out.groundings
        assert red_box(out.images[0]) == pytest.approx(grounding.boxes[0], abs=0.03)
        side = out.texts[0][slice(*grounding.span)]
        assert (side == "left") == (grounding.boxes[0][0] < 0.5)
        sides.add(side)
    assert sizes == {(40, 60), (60, 90)}
    assert sides == {"left", "right"}


def test_evaluation_resizes_alone() -> None:
    sample = painted()
    out = GroundEvalTransform(40, 50, **PLAIN)(sample)
    assert out.images[0].shape == (3, 33, 49)
    assert (out.texts, out.groundings) == (sample.texts, sample.groundings)


def test_settings_that_cannot_hold_are_refused() -> None:
    for make in (
        lambda: GroundTransform(shorter=()),
        lambda: GroundTransform(flip=2),
        lambda: GroundEvalTransform(9, 8),
    ):
        with pytest.raises(UsageError, match="Correct the recipe"):
            make()
