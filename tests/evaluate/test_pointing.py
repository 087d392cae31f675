"""Measures of grounding, by hand."""

import pytest
import torch

from wordregion.evaluate.pointing import box_scores, covered, overlap_hits, peaks, point_hits
from wordregion.models.gradcam import resize


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_a_map_points_at_the_middle_of_its_largest_cell():
    maps = torch.zeros(2, 4, 4)
    maps[0, 1, 2], maps[1, 3, 0] = 1, 1
    found = peaks(maps)
    assert (found[0] - torch.tensor([0.625, 0.375])).abs().max() < 0.01
    assert found[1, 0] < 0.25
    assert found[1, 1] > 0.75


def test_a_point_hits_if_any_box_of_the_phrase_holds_it():
    points = boxes([0.5, 0.5], [0.5, 0.5], [0.1, 0.9], [0.25, 0.25])
    box = boxes([0, 0, 0.4, 0.4], [0.4, 0.4, 0.6, 0.6], [0.6, 0.4, 1, 1], [0, 0.8, 0.2, 1], [0.25, 0.25, 0.3, 0.3])
    assert point_hits(points, box, torch.tensor([0, 0, 1, 2, 3])).tolist() == [True, False, True, True]
    assert point_hits(boxes([0.3, 0.1]), boxes([0.1, 0.1, 0.3, 0.3]), torch.tensor([0])).tolist() == [False]


def test_box_scores_by_hand():
    """A constant map: the sum is the area, so the score is the root of the area in pixels."""
    box = boxes([0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.25, 0.5, 0.75, 1])
    torch.testing.assert_close(
        box_scores(torch.full((1, 4, 4), 2.0), box, side=8), torch.tensor([[2 * 8.0, 2 * 4.0, 2 * 4.0]])
    )
    torch.testing.assert_close(
        box_scores(torch.full((1, 4, 4), 2.0), box, power=1.0, side=8), torch.tensor([[2.0, 2.0, 2.0]])
    )


def test_the_root_of_the_area_prefers_the_box_that_fits():
    maps = torch.zeros(1, 8, 8)
    maps[0, 2:4, 2:4] = 1
    fitting, whole, corner = [0.25, 0.25, 0.5, 0.5], [0, 0, 1, 1], [0.25, 0.25, 0.375, 0.375]
    assert int(box_scores(maps, boxes(whole, corner, fitting))[0].argmax()) == 2
    assert int(box_scores(maps, boxes(whole, corner, fitting), power=0.0)[0].argmax()) == 0


def test_scores_rank_as_sums_over_the_pixels_of_a_picture_of_any_shape():
    """The published evaluation: the map resized to height x width, boxes in whole pixels."""
    torch.manual_seed(0)
    maps, height, width = torch.rand(5, 24, 24) ** 4, 480, 640
    corner = torch.rand(12, 2) * torch.tensor([width * 0.6, height * 0.6])
    size = 40 + torch.rand(12, 2) * torch.tensor([width * 0.3, height * 0.3])
    pixels = torch.cat([corner, size], 1)
    big = resize(maps, height, width)
    theirs = torch.tensor(
        [
            [float(m[int(y) : int(y + h), int(x) : int(x + w)].sum() / (w * h) ** 0.5) for x, y, w, h in pixels]
            for m in big
        ]
    )
    unit = torch.cat([corner, corner + size], 1) / torch.tensor([width, height, width, height])
    ours = box_scores(maps, unit)
    assert ours.argmax(1).tolist() == theirs.argmax(1).tolist()
    ratio = ours / theirs
    torch.testing.assert_close(ratio / ratio.mean(), torch.ones_like(ratio), atol=0.06, rtol=0)  # rounding of edges


@pytest.mark.parametrize(
    ("choice", "right"),
    [
        ((0.0, 0.0, 0.4, 0.4), True),
        ((0.0, 0.0, 0.4, 0.2), True),  # IoU is 0.5
        ((0.0, 0.0, 0.4, 0.19), False),
        ((0.2, 0.0, 0.6, 0.4), False),  # a third
        ((0.5, 0.5, 0.9, 0.9), False),
    ],
)
def test_a_choice_is_right_from_half_an_overlap_on(choice, right):
    assert overlap_hits(boxes(choice), boxes([0, 0, 0.4, 0.4])).tolist() == [right]


def test_half_an_overlap_in_pixels_is_enough_after_rounding():
    """Boxes of whole pixels, one twice as wide as the other, as float32 in [0, 1]."""
    size = torch.tensor([640.0, 480.0, 640.0, 480.0])
    assert overlap_hits(boxes([41, 191, 52, 322]) / size, boxes([41, 191, 63, 322]) / size).tolist() == [True]
    x, width = torch.arange(400.0), 1 + torch.arange(400.0) % 90
    zero, high = torch.zeros(400), torch.full((400,), 131.0)
    true, half, less = (torch.stack([x, zero, x + w, high], 1) / size for w in (2 * width, width, 0.999 * width))
    assert all(overlap_hits(half[i : i + 1], true[i : i + 1]) for i in range(400))
    assert not any(overlap_hits(less[i : i + 1], true[i : i + 1]) for i in range(400))


def test_an_edge_on_a_pixel_is_that_pixel():
    """The one bright column starts at pixel i: a box that ends there has none of it, one that starts there all."""
    side = 384
    column = torch.zeros(1, side, side)
    for i in range(1, side):
        column.zero_()
        column[..., i] = 1
        found = box_scores(column, boxes([0, 0, i, side], [i, 0, i + 1, side]) / side, power=0.0)[0]
        assert found.tolist() == [0, side], i


def test_any_true_box_will_do():
    found = overlap_hits(boxes([0, 0, 0.2, 0.2], [0.4, 0.4, 0.5, 0.5]), boxes([0.5, 0.5, 1, 1], [0, 0, 0.2, 0.22]))
    assert found.tolist() == [True, False]


def test_share_of_the_image_that_boxes_cover():
    assert covered(boxes([0, 0, 0.5, 0.5])) == pytest.approx(0.25)
    assert covered(boxes([0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5])) == pytest.approx(0.375)
    assert covered(boxes([0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5])) == pytest.approx(0.25)
    assert covered(boxes([0, 0, 1, 1], [0.2, 0.2, 0.3, 0.3])) == pytest.approx(1)
