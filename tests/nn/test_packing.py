"""Leaving padding out changes no state, loss or gradient."""

import pytest
import torch
from torch import Tensor

from wordregion.nn import packing
from wordregion.nn.fusion import FusionEncoder, SharedTokens
from wordregion.nn.packing import Packing

LENGTHS = [7, 2, 5, 1, 3]


def mask() -> Tensor:
    return torch.arange(7) < torch.tensor(LENGTHS)[:, None]


def test_packed_tokens_go_back_to_their_places() -> None:
    states = torch.randn(5, 7, 4)
    found = Packing.of(mask())
    assert found is not None
    packed = found.pack(states)
    assert packed.shape == (sum(LENGTHS), 1, 4)
    torch.testing.assert_close(found.pad(packed), states * mask()[..., None])
    assert found.text.bincount().tolist() == LENGTHS


def test_texts_with_little_padding_stay_as_they_are() -> None:
    assert Packing.of(torch.ones(3, 4, dtype=torch.bool)) is None
    little = torch.ones(3, 4, dtype=torch.bool)
    little[0, 3] = False
    assert Packing.of(little) is None
    assert Packing.of(little[:0]) is None


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_training_without_padding_is_training_with_it(
    monkeypatch: pytest.MonkeyPatch, regions: bool, ordered: bool
) -> None:
    torch.manual_seed(0)
    fusion = FusionEncoder(width=8, image_width=6, layers=2, heads=2, dropout=0.0).double().train()
    text = torch.randn(5, 7, 8, dtype=torch.double, requires_grad=True)
    images = 5 if ordered else 3
    image = torch.randn(images, 4, 6, dtype=torch.double, requires_grad=True)
    index = None if ordered else torch.tensor([2, 0, 2, 2, 0])
    options = {}
    if regions:
        look = torch.rand(images, 4) < 0.5
        look[:, 0] = True
        options = {"image_mask_IN": look, "shared": SharedTokens(2, torch.tensor([0, 1, 0, 1, 1])[:images])}
    weight = torch.randn(5, 7, 8, dtype=torch.double) * mask()[..., None]
    results = []
    for share in (0.15, 1.0):  # at 1.0 nothing is ever packed
        monkeypatch.setattr(packing, "WORTH_IT", share)
        fused = fusion(text, mask(), image, index, **options)
        gradients = torch.autograd.grad((fused.hidden * weight).sum(), [text, image, *fusion.parameters()])
        results.append((fused, gradients))
    (packed, packed_gradients), (padded, padded_gradients) = results
    assert packed.hidden[~mask()].abs().max() == 0 < padded.hidden[~mask()].abs().max()
    torch.testing.assert_close(packed.hidden[mask()], padded.hidden[mask()], rtol=0, atol=1e-12)
    torch.testing.assert_close(packed.cls, padded.cls, rtol=0, atol=1e-12)
    torch.testing.assert_close(packed_gradients, padded_gradients, rtol=0, atol=1e-11)


def test_compiled_blocks_get_padded_texts() -> None:
    """They attend with keys and values copied for every row: packed, for every token."""
    torch.manual_seed(0)
    fusion = FusionEncoder(width=8, image_width=6, layers=2, heads=2, dropout=0.0).train()
    given = torch.randn(5, 7, 8), mask(), torch.randn(3, 4, 6), torch.tensor([2, 0, 2, 2, 0])
    packed = fusion(*given).hidden
    fusion.layers[0].compile(backend="eager")
    padded = fusion(*given).hidden
    assert padded[~mask()].abs().min() > 0
    torch.testing.assert_close(padded[mask()], packed[mask()])


def test_prediction_keeps_the_states_at_padding() -> None:
    torch.manual_seed(0)
    fusion = FusionEncoder(width=8, image_width=6, layers=1, heads=2).eval()
    hidden = fusion(torch.randn(5, 7, 8), mask(), torch.randn(5, 4, 6)).hidden
    assert hidden[~mask()].abs().min() > 0
