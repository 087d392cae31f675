import torch
import torch.nn.functional as F

from wordregion.losses.grounding import focal_loss


def test_without_focus_it_is_weighted_cross_entropy():
    logits, positive = torch.randn(5, 7), (torch.rand(5, 7) < 0.3).float()
    plain = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    torch.testing.assert_close(focal_loss(logits, positive, 0.5, 0.0), 0.5 * plain)


def test_focus_is_the_error_to_the_power():
    logits, positive = torch.tensor([0.7, 0.7]), torch.tensor([1.0, 0.0])
    p = torch.sigmoid(torch.tensor(0.7))
    expected = torch.stack([-0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()])
    torch.testing.assert_close(focal_loss(logits[None], positive[None])[0], expected)


def test_extreme_logits_have_finite_losses_and_gradients():
    logits = torch.tensor([[5e4, -5e4, 100.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[0.0, 1.0, 1.0]]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
