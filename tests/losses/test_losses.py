import torch
import torch.nn.functional as F

from wordregion.losses.contrast import contrastive_loss, soft_targets
from wordregion.losses.tokens import masked_word_loss


def test_contrast_with_one_hot_targets_is_cross_entropy():
    logits = torch.randn(5, 9)
    targets = F.one_hot(torch.arange(5), 9).float()
    torch.testing.assert_close(
        contrastive_loss(logits, targets), F.cross_entropy(logits, torch.arange(5), reduction="none")
    )


def test_soft_targets_mix_and_stay_distributions():
    positives, teacher = F.one_hot(torch.arange(3), 4).float(), torch.randn(3, 4)
    mixed = soft_targets(positives, teacher, 0.4)
    torch.testing.assert_close(mixed.sum(1), torch.ones(3))
    torch.testing.assert_close(mixed, 0.6 * positives + 0.4 * teacher.softmax(1))
    assert soft_targets(positives, None, 0.0) is positives


def test_masked_word_loss_is_the_published_mixture():
    logits, teacher, labels = torch.randn(4, 11), torch.randn(4, 11), torch.tensor([1, 5, 10, 0])
    hard = F.cross_entropy(logits, labels, reduction="none")
    soft = F.cross_entropy(logits, teacher.softmax(1), reduction="none")
    torch.testing.assert_close(masked_word_loss(logits, labels), hard)
    torch.testing.assert_close(masked_word_loss(logits, labels, teacher, 0.3), 0.7 * hard + 0.3 * soft)
