import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from wordregion.losses.boxes import box_losses, generalised_iou, iou, to_centre, to_corners


def boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centre = 0.3 + 0.4 * torch.rand(count, 2, generator=generator)
    size = 0.05 + 0.5 * torch.rand(count, 2, generator=generator)
    return torch.cat([centre, size], dim=1)


def test_corners_and_centre_are_inverse():
    found = boxes(20)
    torch.testing.assert_close(to_centre(to_corners(found)), found)
    torch.testing.assert_close(to_corners(torch.tensor([[0.5, 0.5, 1.0, 0.5]])), torch.tensor([[0.0, 0.25, 1.0, 0.75]]))


def test_overlap_and_distance_agree_with_torchvision():
    a, b = to_corners(boxes(50)), to_corners(boxes(50, seed=1))
    torch.testing.assert_close(1 - generalised_iou(a, b), generalized_box_iou_loss(a, b), rtol=1e-4, atol=1e-5)
    assert (iou(a, a) - 1).abs().max() < 1e-6
    apart = torch.tensor([[0.0, 0.0, 0.1, 0.1]]), torch.tensor([[0.9, 0.9, 1.0, 1.0]])
    assert iou(*apart) == 0
    torch.testing.assert_close(generalised_iou(*apart), torch.tensor([0.02 - 1]))


def test_the_distance_is_summed_over_four_numbers():
    l1, giou = box_losses(torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([[0.6, 0.4, 0.3, 0.5]]))
    torch.testing.assert_close(l1, torch.tensor([0.4]))
    assert 0 < giou < 2


@pytest.mark.parametrize("of_prediction", [True, False])
def test_a_degenerate_box_has_no_giou_and_leaves_the_others_theirs(of_prediction):
    predicted, target = boxes(4), boxes(4, seed=1)
    _, expected = box_losses(predicted, target)
    (predicted if of_prediction else target)[1, 2] = -0.1
    predicted.requires_grad_()
    l1, giou = box_losses(predicted, target)
    torch.testing.assert_close(giou[[0, 2, 3]], expected[[0, 2, 3]])
    assert giou[1] == 0
    giou.sum().backward()
    assert (predicted.grad[1] == 0).all()
    assert l1[1] > 0
    _, original = box_losses(predicted, target, original_behaviour=True)
    assert (original == 0).all()


def test_boxes_without_size_are_finite():
    point = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    predicted = point.clone().requires_grad_()
    for target in (point, boxes(1)):
        l1, giou = box_losses(predicted, target)
        (l1 + giou).sum().backward()
        assert torch.isfinite(predicted.grad).all()
        assert math.isfinite(giou.detach())
