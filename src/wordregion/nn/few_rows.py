"""Linear maps of few rows on a CPU: what decoding token by token does all the time."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

FEW = 8
"""Rows up to which `turned` was faster, or as fast, with every map measured (`benchmarks/few_rows.py`)."""


class FewRows(TorchFunctionMode):
    """Within this context, without gradients, linear maps of a few rows on a CPU are computed by `turned`."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, given: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Calls `turned` instead of `F.linear` where it pays, and whatever else is called."""
        if function is F.linear and not named and _pays(given[0]):
            return turned(*given)
        return function(*given, **(named or {}))


def turned(x: Float[Tensor, "*rows K"], weight: Float[Tensor, "M K"], bias: Tensor | None = None) -> Tensor:
    """`F.linear` as (W x^T)^T: equal but for rounding.

    A product with few rows is bound by reading the weights, which the library behind torch does only half as fast where
    they are the second factor.
    """
    y = (weight @ x.reshape(-1, x.shape[-1]).T).T
    return (y if bias is None else y + bias).contiguous().view(*x.shape[:-1], -1)


def _pays(x: Tensor) -> bool:
    special = x.is_cuda or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return not (special or torch.is_grad_enabled()) and 1 < x.numel() // x.shape[-1] <= FEW
