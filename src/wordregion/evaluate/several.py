"""Several evaluations of one run as one, for models that do more than one thing."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wordregion.evaluate.common import Measured


@dataclass(frozen=True)
class Several:
    """What `evaluate_several` measured.

    Attributes:
        results: one an evaluation.
    """

    results: tuple[Measured, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Those of all evaluations, whose names differ."""
        return {name: value for result in self.results for name, value in result.metrics.items()}

    @property
    def items(self) -> str:
        """What was measured."""
        return "; ".join(result.items for result in self.results)

    def to_json(self) -> str:
        """A JSON list of the results."""
        return json.dumps([json.loads(result.to_json()) for result in self.results])


def evaluate_several(*given: Any, evaluations: tuple[Callable[..., Measured], ...], **settings: Any) -> Several:
    """Runs one evaluation after the other on the same model and data.

    Args:
        given: as each of them takes it: model, data set, collator, transform.
        evaluations: which.
        settings: likewise.
    """
    return Several(tuple(evaluation(*given, **settings) for evaluation in evaluations))
