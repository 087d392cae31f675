import pytest
import torch

from wordregion.nn import fusion
from wordregion.nn.fusion import FusionEncoder


@pytest.fixture(params=["image by image", "all pairs in one call"])
def encoder(request, monkeypatch):
    monkeypatch.setattr(fusion, "FEW_SCORES", 0 if request.param == "image by image" else 10**9)
    torch.manual_seed(0)
    return FusionEncoder(width=32, image_width=48, layers=2, heads=4).eval()


def test_linked_pairs_equal_pairs_fused_one_by_one(encoder):
    text, image = torch.randn(5, 7, 32), torch.randn(3, 10, 48)
    mask = torch.arange(7) < torch.tensor([[7], [3], [5], [1], [6]])
    index = torch.tensor([2, 0, 0, 1, 2])
    together = encoder(text, mask, image, index)
    for pair in range(5):
        alone = encoder(text[pair : pair + 1], mask[pair : pair + 1], image[index[pair]][None], torch.tensor([0]))
        torch.testing.assert_close(together.hidden[pair][mask[pair]], alone.hidden[0][mask[pair]], rtol=1e-4, atol=1e-5)


def test_pairs_in_image_order_need_no_index(encoder):
    text, image, mask = torch.randn(6, 7, 32), torch.randn(3, 10, 48), torch.ones(6, 7, dtype=torch.bool)
    linked = encoder(text, mask, image, torch.arange(3).repeat_interleave(2))
    torch.testing.assert_close(encoder(text, mask, image).hidden, linked.hidden, rtol=1e-4, atol=1e-5)


def test_attention_of_a_layer_is_a_distribution_and_changes_nothing(encoder):
    text, image, mask = torch.randn(2, 4, 32), torch.randn(2, 10, 48), torch.ones(2, 4, dtype=torch.bool)
    plain, looked = encoder(text, mask, image), encoder(text, mask, image, attention_layer=1)
    assert plain.attention is None
    assert looked.attention.shape == (2, 4, 4, 10)
    torch.testing.assert_close(looked.attention.sum(-1), torch.ones(2, 4, 4))
    torch.testing.assert_close(plain.hidden, looked.hidden, rtol=1e-4, atol=1e-5)


def test_gradients_of_linked_pairs_reach_each_image(encoder):
    text, image = torch.randn(4, 3, 32), torch.randn(3, 10, 48, requires_grad=True)
    encoder(text, torch.ones(4, 3, dtype=torch.bool), image, torch.tensor([0, 0, 2, 2])).hidden.pow(3).sum().backward()
    norms = image.grad.flatten(1).norm(dim=1)
    assert norms[0] > 0
    assert norms[2] > 0
    assert norms[1] == 0


def test_many_scores_of_an_image_are_taken_image_by_image(monkeypatch):
    monkeypatch.setattr(fusion, "FEW_SCORES", 100)
    calls = []
    monkeypatch.setattr(fusion, "_attend_by_image", lambda q, *_: calls.append(q.shape[1]) or q)
    cross = fusion.CrossAttention(32, 48, heads=4, eps=1e-12, dropout=0.0)
    kv = cross.keys_values(torch.randn(2, 10, 48))
    for rows in (9, 10):  # of 10 tokens each: 90 and 100 scores a head
        cross.attend(torch.randn(2, rows, 32), kv, torch.tensor([1, 0]))
    assert calls == [10]
