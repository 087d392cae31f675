"""The check that what a model gave are numbers: NaN compares false and sorts first, so it would pass for a result."""

from torch import Tensor

from wordregion.errors import UsageError


def require_finite(values: Tensor, what: str, infinite: bool = False) -> None:
    """Refuses NaN and infinity.

    Args:
        values: what a model gave.
        what: its name in the message, a plural.
        infinite: infinity is allowed.

    Raises:
        UsageError: if there is one.
    """
    if bool(values.isnan().any() if infinite else (~values.isfinite()).any()):
        raise UsageError(f"the model's {what} are not finite: its weights are damaged or the training diverged.")
