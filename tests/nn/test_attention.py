"""Half precision, trained on a CPU, goes through plain operations, to the same values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from wordregion.nn.attention import attend


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, tokens, 8, generator=generator) for tokens in (5, 7, 7))
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    return [part.to(dtype).requires_grad_() for part in (q, k, v)], mask[:, None, None, :]


@pytest.mark.parametrize("masked", [True, False])
def test_trained_half_precision_equals_attention(masked):
    given, mask = inputs(torch.bfloat16)
    exact, _ = inputs(torch.float32)
    ours = attend(*given, mask if masked else None)
    wanted = F.scaled_dot_product_attention(*exact, attn_mask=mask if masked else None)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), wanted, atol=0.03, rtol=0.02)
    ours.float().square().sum().backward()
    wanted.square().sum().backward()
    for own, other in zip(given, exact, strict=True):
        torch.testing.assert_close(own.grad.float(), other.grad, atol=0.12, rtol=0.05)


def test_it_leaves_out_the_fused_kernel_only_where_it_is_slow(monkeypatch):
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    half, mask = inputs(torch.bfloat16)
    attend(*half, mask)
    assert not calls
    with torch.no_grad():
        attend(*half, mask)
    attend(*inputs(torch.float32)[0], mask)
    assert len(calls) == 2
