"""Pixels, boxes and words must move together: painted rectangles are looked for in the pictures that come out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional as reference

from wordregion.data import randaugment
from wordregion.data.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvalTransform,
    TrainTransform,
    random_crop,
    swap_sides,
)
from wordregion.errors import UsageError
from wordregion.schema import Box, Grounding, Sample

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def painted(box: Box, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A red rectangle on black."""
    image = Image.new("RGB", size)
    corners = [round(v * size[i % 2]) for i, v in enumerate(box)]
    ImageDraw.Draw(image).rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), fill=(255, 0, 0))
    return image


def sample(box: Box, text: str = "a dog", span: tuple[int, int] | None = None) -> Sample:
    groundings = (Grounding(text=0), Grounding(text=0, span=span or (2, 5), boxes=(box,)))
    return Sample(id="s", images=(painted(box),), texts=(text,), groundings=groundings)


def red_box(image: torch.Tensor) -> Box | None:
    """The enclosing box of what is more red than not."""
    ys, xs = torch.nonzero((image[0] - image[1]) > 0.5, as_tuple=True)
    if not len(xs):
        return None
    h, w = image.shape[1:]
    return (xs.min().item() / w, ys.min().item() / h, (xs.max().item() + 1) / w, (ys.max().item() + 1) / h)


def make(**settings: object) -> TrainTransform:
    return TrainTransform(96, **{**PLAIN, "randaugment": None, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crop_and_flip_move_the_box_with_the_pixels(flip: float) -> None:
    transform, original = make(flip=flip), sample((0.25, 0.3, 0.5, 0.7))
    seen = dropped = 0
    for seed in range(60):
        out = transform(original, np.random.default_rng(seed))
        found = red_box(out.images[0])
        boxed = [g for g in out.groundings if g.boxes]
        assert out.groundings[0] == Grounding(text=0)
        if boxed:
            assert found == pytest.approx(boxed[0].boxes[0], abs=1.01 / 96)
            seen += 1
        else:
            assert len(out.groundings) == 1  # dropped whole, never turned to "the whole image"
            dropped += 1
    assert seen > 30
    assert dropped > 0


def test_box_is_kept_while_more_than_half_of_it_is_visible() -> None:
    box, transform = (0.25, 0.3, 0.5, 0.7), make(flip=0)
    kept_least, lost_most = 1.0, 0.0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        rng.random()  # the draw of the flip
        left, top, right, bottom = random_crop(320, 240, (0.2, 1), rng)
        wide = max(0, min(right, 160) - max(left, 80)) / 80
        high = max(0, min(bottom, 168) - max(top, 72)) / 96
        out = transform(sample(box), np.random.default_rng(seed))
        if len(out.groundings) == 2:
            kept_least = min(kept_least, wide * high)
        else:
            lost_most = max(lost_most, wide * high)
    assert 0.5 <= kept_least < 0.65
    assert 0.35 < lost_most <= 0.5


@pytest.mark.parametrize("name", randaugment._GEOMETRY)
@pytest.mark.parametrize("size", [(96, 96), (120, 80)])
def test_geometry_moves_the_box_with_the_pixels(name: str, size: tuple[int, int]) -> None:
    box = (0.375, 0.25, 0.625, 0.75)
    for level in (0.7, -0.7):
        affine = randaugment._affine(name, level, size)
        warped = randaugment._warp(painted(box, size), affine)
        found = red_box(torch.from_numpy(np.array(warped)).permute(2, 0, 1) / 255)
        moved = randaugment.move_box(box, affine)
        assert moved is not None
        assert moved != pytest.approx(box, abs=0.01)
        assert found == pytest.approx(moved, abs=1.6 / min(size))  # a tilted corner is thinner than a pixel


def test_strengths_are_albefs() -> None:
    assert randaugment._affine("translate_x", 1, (200, 100))[2] == pytest.approx(10 / 200)
    assert randaugment._affine("translate_y", -0.7, (200, 100))[5] == pytest.approx(-7 / 100)
    assert randaugment._affine("shear_x", 0.7, (64, 64))[1] == pytest.approx(0.21)
    wide = (200, 100)  # in pixels: turns keep lengths, and a shear slides by 0.3 of the distance, whatever the shape
    a, b, _, d, e, _ = randaugment._affine("rotate", 1, wide)
    turn = np.array([[a, b * 200 / 100], [d * 100 / 200, e]])
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    np.testing.assert_allclose(turn, [[cos, -sin], [sin, cos]], atol=1e-12)
    assert randaugment._affine("shear_x", -0.7, wide)[1] * 200 / 100 == pytest.approx(-0.21)
    assert randaugment._affine("shear_y", 0.7, wide)[3] * 100 / 200 == pytest.approx(0.21)


def test_colour_operations_equal_torchvisions() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(30, 200, (24, 32, 3), dtype=np.uint8))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pairs = {
        "identity": tensor,
        "auto_contrast": reference.autocontrast(tensor),
        "equalize": reference.equalize(tensor),
        "brightness": reference.adjust_brightness(tensor, 0.1 + 1.8 * 0.7),
        "sharpness": reference.adjust_sharpness(tensor, 0.1 + 1.8 * 0.7),
    }
    assert set(pairs) == set(randaugment._COLOUR)
    for name, expected in pairs.items():
        got = torch.from_numpy(np.array(randaugment._COLOUR[name](image, 0.7))).permute(2, 0, 1).int()
        inner = (slice(None), slice(1, -1), slice(1, -1))
        assert (got[inner] - expected[inner].int()).abs().max() <= 1, name


def test_randaugment_draws_every_operation_and_keeps_boxes_inside() -> None:
    transform, box, changed = make(flip=0, scale=(1.0, 1.0), randaugment=(2, 7)), (0.3, 0.3, 0.7, 0.7), set()
    for seed in range(80):
        out = transform(sample(box), np.random.default_rng(seed))
        for g in out.groundings[1:]:
            x0, y0, x1, y1 = g.boxes[0]
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
            changed.add(tuple(round(v, 4) for v in g.boxes[0]))
    assert len(changed) > 10


def test_a_vanished_box_takes_its_grounding_and_no_other() -> None:
    image = painted((0, 0, 0.05, 0.05))
    groundings = (
        Grounding(text=0, span=(0, 1), boxes=((0.0, 0.0, 0.02, 0.02),)),
        Grounding(text=1, boxes=((0.0, 0.0, 0.02, 0.02), (0.45, 0.45, 0.55, 0.55))),
        Grounding(text=0, span=(2, 5)),
        Grounding(text=0),
    )
    original = Sample(id="s", images=(image,), texts=("a dog", "b"), groundings=groundings)
    out = make(scale=(0.5, 0.5), flip=0)(original, np.random.default_rng(3))
    assert [(g.text, g.span, len(g.boxes)) for g in out.groundings] == [(1, None, 1), (0, (2, 5), 0), (0, None, 0)]
    assert out.texts == original.texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat left of a dog", "a cat right of a dog"),
        ("Left hand, RIGHT side; left-most", "Right hand, LEFT side; right-most"),
        ("leftover bright copyright lefty", "leftover bright copyright lefty"),
        ("from left to right to left.", "from right to left to right."),
    ],
)
def test_swap_sides(text: str, expected: str) -> None:
    assert swap_sides(text) == expected
    assert swap_sides(expected) == text


def test_flip_moves_spans_along() -> None:
    text = "the left dog, right of a bright cat on the LEFT"
    phrases = ["the left dog", "right", "a bright cat", "left", "the LEFT", "cat on"]
    swapped = ["the right dog", "left", "a bright cat", "right", "the RIGHT", "cat on"]
    spans = [(text.index(p), text.index(p) + len(p)) for p in phrases]
    original = Sample(
        id="s",
        images=(painted((0.2, 0.2, 0.8, 0.8)),),
        texts=("no sides", text),
        groundings=tuple(Grounding(text=1, span=s) for s in spans),
    )
    out = make(flip=1)(original, np.random.default_rng(0))
    assert [out.texts[1][slice(*g.span)] for g in out.groundings] == swapped  # type: ignore[misc]
    assert out.texts[0] == "no sides"
    assert make(flip=0)(original, np.random.default_rng(0)).texts == original.texts


def test_randomness_comes_from_the_generator_alone() -> None:
    transform, original = TrainTransform(64), sample((0.25, 0.3, 0.5, 0.7))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    np.random.seed(0)  # noqa: NPY002
    old = np.random.get_state()[1].copy()  # noqa: NPY002
    one = [transform(original, np.random.default_rng(seed)) for seed in range(5)]
    torch.manual_seed(1)
    np.random.seed(0)  # noqa: NPY002
    two = [transform(original, np.random.default_rng(seed)) for seed in range(5)]
    assert np.array_equal(np.random.get_state()[1], old)  # noqa: NPY002
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.images[0], b.images[0])
        assert replace(a, images=()) == replace(b, images=())
    assert not torch.equal(one[0].images[0], one[1].images[0])


def test_crop_sizes_follow_the_settings() -> None:
    shares, aspects = [], []
    for seed in range(400):
        x0, y0, x1, y1 = random_crop(320, 240, (0.2, 0.6), np.random.default_rng(seed))
        assert 0 <= x0 < x1 <= 320
        assert 0 <= y0 < y1 <= 240
        shares.append((x1 - x0) * (y1 - y0) / (320 * 240))
        aspects.append((x1 - x0) / (y1 - y0))
    assert min(shares) > 0.19
    assert max(shares) < 0.61
    assert np.mean(shares) == pytest.approx(0.4, abs=0.03)
    assert min(aspects) > 0.74
    assert max(aspects) < 1.35


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (1000, 10)])
def test_odd_pictures(size: tuple[int, int]) -> None:
    original = Sample(id="s", images=(Image.new("RGB", size),), texts=("a",))
    for seed in range(10):
        out = TrainTransform(16)(original, np.random.default_rng(seed))
        assert out.images[0].shape == (3, 16, 16)
        assert out.images[0].isfinite().all()


@pytest.mark.parametrize(("mean", "std"), [(CLIP_MEAN, CLIP_STD), (IMAGENET_MEAN, IMAGENET_STD)])
def test_evaluation_equals_torchvision(mean: tuple, std: tuple) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    out = EvalTransform(32, mean, std)(Sample(id="s", images=(image,), texts=()), np.random.default_rng(0)).images[0]
    resized = reference.resize(image, [32, 32], interpolation=reference.InterpolationMode.BICUBIC)
    scaled = reference.to_dtype(reference.to_image(resized), torch.float32, scale=True)
    torch.testing.assert_close(out, reference.normalize(scaled, list(mean), list(std)).as_subclass(torch.Tensor))


def test_settings_out_of_range() -> None:
    bad = ({"image_size": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"flip": 1.5}, {"std": (1.0, 0.0, 1.0)})
    for settings in (*bad, {"randaugment": (-1, 7)}, {"randaugment": (2, 11)}):
        with pytest.raises(UsageError):
            TrainTransform(**{"image_size": 8, **settings})  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        EvalTransform(-1)
