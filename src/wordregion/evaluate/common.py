"""What all evaluations share: checks, progress bars, and a function run over a whole data set by all processes.

An evaluation of one prediction a sample is a call of `over_batches`::

    with evaluating(model) as device:
        rows = over_batches(predict, dataset, transform, collator, batch=batch, device=device, title="pairs")
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor, nn
from torch import distributed as dist

from wordregion.data.collate import Collates
from wordregion.data.loader import Transform, eval_batches
from wordregion.distributed import comm
from wordregion.errors import UsageError
from wordregion.schema import Batch, Dataset

Row = TypeVar("Row")


@runtime_checkable
class Measured(Protocol):
    """What an evaluation returns."""

    @property
    def metrics(self) -> dict[str, float]:
        """Percent by ``protocol/way of scoring/measure``."""
        ...

    @property
    def items(self) -> str:
        """On how much, for people: ``"247 images and 1,235 captions"``."""
        ...

    def to_json(self) -> str:
        """Everything as one JSON value."""
        ...


Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def check_request(protocol: str, dataset: Dataset, batch: int) -> None:
    """Checks what every evaluation is given.

    Raises:
        UsageError: unless the protocol is ``"raw"`` or ``"finetuned_on_X"``, the data set has samples, and batch >= 1.
    """
    if not re.fullmatch(r"raw|finetuned_on_[\w.+-]+", protocol):
        raise UsageError(
            f"protocol {protocol!r}: write 'raw' or 'finetuned_on_X', it becomes part of the result's name."
        )
    if batch < 1:
        raise UsageError(f"batch = {batch}: must be at least 1.")
    if len(dataset) == 0:
        raise UsageError(f"{dataset.name}: no samples to evaluate on. Check the split.")


@contextmanager
def evaluating(model: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Evaluation mode within the block; yields where to compute: `device`, or where the model is if None."""
    was_training = model.training
    model.eval()
    try:
        yield torch.device(device) if device is not None else next(model.parameters()).device
    finally:
        model.train(was_training)


def over_batches(
    predict: Callable[[Batch], Sequence[Row]],
    dataset: Dataset,
    transform: Transform,
    collator: Collates,
    *,
    batch: int,
    device: torch.device,
    workers: int = 0,
    progress: bool = True,
    title: str = "samples",
) -> list[Row]:
    """Runs `predict` on a data set, each process on every `world_size`-th batch; all get all rows, in order.

    Args:
        predict: a batch on `device` to one plain value (number, text, tuple ...: no tensor) a sample.
        dataset: read once.
        transform: without randomness.
        collator: samples to a batch.
        batch: samples a batch.
        device: where the batches go.
        workers: processes that read images.
        progress: show a bar with rate and time left (main process only).
        title: of the bar.

    Returns:
        the rows of all processes in the order of the data set, none dropped or doubled.

    Raises:
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    rank, world = comm.rank(), comm.world_size()
    total = sum(min(batch, len(dataset) - begin) for begin in range(rank * batch, len(dataset), world * batch))
    own: list[list[Row]] = []
    with progress_bars(progress and comm.main_process()) as bar, bar(title, total) as advance:
        for found in eval_batches(dataset, transform, collator, batch, rank, world, workers):
            own.append(list(predict(found.to(device))))
            advance(len(own[-1]))
    return join_batches(own)


def join_batches(own: list[list[Row]]) -> list[Row]:
    """Rows of all processes in the order of the data set.

    Args:
        own: the rows of this process, one list a batch, where rank r has the batches r, r + world_size, ...
    """
    parts: list[Any] = [own]
    if comm.world_size() > 1:
        parts = [None] * comm.world_size()
        dist.all_gather_object(parts, own)
    total = sum(len(part) for part in parts)
    return [row for turn in range(total) for row in parts[turn % len(parts)][turn // len(parts)]]


def share(own: Tensor, device: torch.device) -> Tensor:
    """Joins tensors of which each process filled its own rows and left the others zero; exact. On the CPU."""
    return comm.all_reduce_sum(own.to(device)).cpu()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.1f}/s")


@contextmanager
def progress_bars(show: bool) -> Iterator[Bar]:
    """A maker of progress bars: ``with bar(title, total) as advance: advance(n)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:

        @contextmanager
        def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
            task = progress.add_task(title, total=total)
            yield lambda count: progress.advance(task, count)

        yield bar
