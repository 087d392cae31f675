"""All that the engine knows of what it trains."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from wordregion.schema import Batch


@dataclass
class StepOutput:
    """What a forward returns.

    Attributes:
        loss: () normalised so that summing over micro-batches and averaging gradients over ranks gives the gradient of
            the whole batch.
        metrics: detached scalars to log, with the same normalisation.
        known: ``Batch.image_key`` of images whose pixels the task needs no more, or None.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None


@runtime_checkable
class Task(Protocol):
    """An `nn.Module` that owns the student and all other state of training; the one root for DDP and FSDP2."""

    model: nn.Module

    def counts(self, batch: Batch) -> Tensor:
        """(K,) how many items each mean runs over in one micro-batch."""
        ...

    def __call__(self, batch: Batch, totals: Tensor) -> StepOutput:
        """Losses of one micro-batch; `totals` = counts over micro-batches and ranks, over the number of ranks."""
        ...

    def after_backward(self) -> None:
        """Once a step, before the optimiser."""
        ...

    def after_step(self) -> None:
        """Once a step, after the optimiser."""
        ...

    def blocks(self) -> list[nn.Module]:
        """Units of sharding, compilation and activation checkpointing, of student and teacher."""
        ...
