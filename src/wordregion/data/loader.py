"""Batches by step: the same for any number of workers, and after a resume at any step."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wordregion.data.collate import Collator, Item
from wordregion.data.sampler import Draw, Stream
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import DataError, UsageError
from wordregion.schema import Batch, Dataset

ATTEMPTS = 20


class _MicroBatches(TorchDataset):
    """Item = one micro-batch; runs in the loader's workers."""

    def __init__(self, dataset: Dataset, transform: TrainTransform | EvalTransform, collator: Collator, seed: int):
        self.dataset, self.transform, self.collator, self.seed = dataset, transform, collator, seed

    def __getitem__(self, draws: Sequence[Draw]) -> Batch:
        items: list[Item] = []
        skipped: list[str] = []
        for epoch, index in draws:
            items.append(self._item(epoch, index, skipped))
        return self.collator(items, skipped)

    def _item(self, epoch: int, index: int, skipped: list[str]) -> Item:
        """A record with its own generator; a broken one is replaced by another, drawn from its own seed."""
        chosen = index
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, epoch, index, attempt])
            try:
                return chosen, self.transform(self.dataset[chosen], rng), rng
            except DataError as error:
                skipped.append(str(error))
                chosen = int(rng.integers(len(self.dataset)))
        raise DataError(
            self.dataset.where(index), "", f"{ATTEMPTS} records in a row are broken", f"The last: {skipped[-1]}"
        )


class StepLoader:
    """Endless training batches, one list of micro-batches a step.

    Sample randomness comes from (seed, epoch, index) alone, so the state of the loader is the number of steps consumed.

    Args:
        dataset: source of samples.
        transform: image, boxes and text together.
        collator: samples to a batch.
        batch: images a step over all ranks and micro-batches.
        seed: of order, augmentation and masking.
        rank: of this process.
        world: number of processes.
        workers: loader processes; 0 = in this process.
        start_step: first step to yield.
        accumulate: micro-batches a step.

    Raises:
        UsageError: if `batch` is not a positive multiple of world * accumulate, or the data set is empty.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: TrainTransform | EvalTransform,
        collator: Collator,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        start_step: int = 0,
        accumulate: int = 1,
    ) -> None:
        if batch < 1 or batch % (world * accumulate):
            raise UsageError(
                f"batch={batch} cannot be split into {world} processes x {accumulate} micro-batches. "
                f"Choose a multiple of {world * accumulate}."
            )
        if len(dataset) == 0:
            raise UsageError(f"the data set '{dataset.name}' is empty. Check its path with: wordregion data check.")
        self.accumulate = accumulate
        self._stream = Stream(seed, len(dataset))
        self._split = (batch, accumulate, rank, world)
        self._next = start_step
        self._loader = torch_loader(
            _MicroBatches(dataset, transform, collator, seed), self._draws(start_step), workers, keep=True
        )
        self._iterator: Iterator[Batch] | None = None

    def _draws(self, start: int) -> "_Draws":
        return _Draws(self._stream, start, self._split)

    def __iter__(self) -> Iterator[list[Batch]]:
        self._iterator = iter(self._loader)
        while True:
            yield [next(self._iterator) for _ in range(self.accumulate)]

    def close(self) -> None:
        """Stops the workers."""
        shutdown = getattr(self._iterator, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()
        self._iterator = None


class _Draws:
    """Sampler of torch's DataLoader: endless lists of draws, one a micro-batch."""

    def __init__(self, stream: Stream, start: int, split: tuple[int, int, int, int]) -> None:
        self.stream, self.start, self.split = stream, start, split

    def __iter__(self) -> Iterator[Sequence[Draw]]:
        batch, accumulate, rank, world = self.split
        step = self.start
        while True:
            for micro in range(accumulate):
                yield self.stream.step(step, batch, micro, accumulate, rank, world)
            step += 1


def torch_loader(dataset: TorchDataset, sampler: Any, workers: int, keep: bool = False) -> DataLoader:
    """A DataLoader whose items are whole batches; pins memory where there is a GPU."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=keep and workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_single_thread,
        generator=torch.Generator(),  # else the loader draws its base seed from the global generator
    )


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)
