"""Linear maps the other way round, and where they are used."""

import pytest
import torch
from torch import nn

from wordregion.nn import few_rows
from wordregion.nn.few_rows import FEW, FewRows, turned


@pytest.mark.parametrize("shape", [(3, 5), (2, 1, 5), (1, 2, 2, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_other_way_round_is_the_same_map(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(5, 7, bias=bias), torch.randn(shape)
    with torch.no_grad():
        expected = linear(x)
        found = turned(x, linear.weight, linear.bias)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("rows", "times"), [(1, 0), (2, 1), (FEW, 1), (FEW + 1, 0)])
def test_it_is_used_for_few_rows_alone(monkeypatch: pytest.MonkeyPatch, rows: int, times: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(few_rows, "turned", lambda x, *rest: calls.append(len(x)) or turned(x, *rest))
    linear, x = nn.Linear(5, 7), torch.randn(rows, 5)
    with torch.no_grad():
        with FewRows():
            found = nn.functional.relu(linear(x))
        torch.testing.assert_close(found, linear(x).relu())
    assert calls == [rows] * times


def test_it_stays_away_from_gradients_and_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows, "turned", lambda *given: pytest.fail("used"))
    linear, x = nn.Linear(5, 7), torch.randn(2, 5)
    with FewRows():
        assert linear(x).requires_grad
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert linear(x).dtype == torch.bfloat16
