import pytest
import torch
import torch.nn.functional as F

from wordregion.losses.captions import reward_loss, smoothed_word_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_labels(smoothing):
    logits, labels = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2])
    targets = torch.full((3, 5), smoothing / 5)
    targets[torch.arange(3), labels] = 1 - smoothing
    expected = -(targets * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(smoothed_word_loss(logits, labels, smoothing), expected)


def test_it_is_not_the_smoothing_of_torch():
    logits, labels = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2])
    ours = smoothed_word_loss(logits, labels, 0.1)
    assert not torch.allclose(ours, F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none"))


def test_what_was_better_than_the_baseline_becomes_more_probable():
    log_probability = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = reward_loss(log_probability, torch.tensor([0.5, -0.25]))
    assert loss.tolist() == [0.5, -0.5]
    loss.sum().backward()
    assert log_probability.grad.tolist() == [-0.5, 0.25]
