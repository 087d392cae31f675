"""Dropout by shared random numbers, beside what dropout is."""

import pytest
import torch

from wordregion.nn.dropout import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(rate, dtype):
    torch.manual_seed(0)
    values = dropout(torch.ones(1001, 999, dtype=dtype), rate, training=True)  # four values to a number don't divide it
    kept = values != 0
    assert values[kept].unique().tolist() == pytest.approx(
        [1 / (1 - rate)], rel=1e-2 if dtype == torch.bfloat16 else 1e-6
    )
    share = kept.float().mean(1)
    assert share.mean().item() == pytest.approx(1 - rate, abs=1.5e-3)  # three standard errors
    assert share.std().item() == pytest.approx((rate * (1 - rate) / 999) ** 0.5, rel=0.15)  # values fall independently
    for apart in (1, 2, 3, 4):
        both = kept.flatten()[apart:] & kept.flatten()[:-apart]
        assert both.float().mean().item() == pytest.approx((1 - rate) ** 2, abs=3e-3)


def test_gradients_flow_through_what_is_kept():
    values = torch.randn(7, 5, requires_grad=True)
    seen = dropout(values, 0.5, training=True)
    seen.sum().backward()
    torch.testing.assert_close(values.grad, 2.0 * (seen != 0))


def test_a_seed_decides_and_nothing_is_dropped_outside_training():
    values = torch.randn(50)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(dropout(values, 0.5, training=True))
    torch.testing.assert_close(*drawn)
    assert dropout(values, 0.5, training=False) is values
    assert dropout(values, 0.0, training=True).equal(values)
    assert dropout(values[:0], 0.5, training=True).shape == (0,)
