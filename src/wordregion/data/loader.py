"""Batches by step: the same for any number of workers, and after a resume at any step."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wordregion.data.check import verify
from wordregion.data.collate import IMAGES_APART, Collates, Item
from wordregion.data.mix import Mix
from wordregion.data.sampler import Draw, Shuffled, Stream
from wordregion.data.transforms import EvalTransform
from wordregion.data.turns import Turns, TurnStream
from wordregion.errors import DataError, UsageError, WordregionError
from wordregion.schema import Batch, Dataset, Sample

ATTEMPTS = 20
Transform = Callable[[Sample, np.random.Generator], Sample]


class _MicroBatches(TorchDataset):
    """Item = one micro-batch; runs in the loader's workers. `left_out`: records without pixels, in shared memory."""

    def __init__(
        self, dataset: Dataset, transform: Transform, collator: Collates, seed: int, left_out: Tensor | None = None
    ) -> None:
        self.dataset, self.transform, self.collator, self.seed = dataset, transform, collator, seed
        self.left_out = left_out

    def __getitem__(self, draws: Sequence[Draw]) -> Batch | WordregionError:
        """The batch, or the error as a value: torch cannot carry an exception of several fields out of a worker."""
        items: list[Item] = []
        skipped: list[str] = []
        try:
            for turn, index in draws:
                items.append(self._item(turn, index, skipped))
            return self.collator(items, skipped)
        except WordregionError as error:
            return error

    def _item(self, turn: int, index: int, skipped: list[str]) -> Item:
        """A record with its own generator; a broken one is replaced by another, drawn from its own seed."""
        chosen = index
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, turn, index, attempt])
            try:
                return chosen, self._sample(chosen, rng), rng
            except DataError as error:
                skipped.append(str(error))
                chosen = int(rng.integers(len(self.dataset)))
        raise DataError(
            self.dataset.where(index), "", f"{ATTEMPTS} records in a row are broken", f"The last: {skipped[-1]}"
        )

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        """A transformed record. Raises DataError if it breaks the schema or lacks what the collator needs."""
        where, sample = self.dataset.where(index), self.dataset[index]
        verify(sample, where)
        self.collator.check(sample, where)
        if self.left_out is not None and self.left_out[index]:
            assert isinstance(self.transform, EvalTransform)
            return self.transform.without_pixels(sample)
        return self.transform(sample, rng)


class _InOrder(_MicroBatches):
    """Item = one batch of records by index; a broken record is an error."""

    def _item(self, turn: int, index: int, skipped: list[str]) -> Item:
        rng = np.random.default_rng([self.seed, turn, index])
        return index, self._sample(index, rng), rng


class StepLoader:
    """Endless training batches, one list of micro-batches a step.

    Sample randomness comes from (seed, epoch, index) alone, so the state of the loader is the number of steps consumed.
    A broken record is replaced by another one, drawn from its own seed, and its line stands in `Batch.skipped`. The
    global random generators are neither read nor changed.

    Args:
        dataset: source of samples.
        transform: image, boxes and text together.
        collator: samples to a batch.
        batch: images a step over all ranks and micro-batches; of `Turns`, those of an image step.
        seed: of order, augmentation and masking.
        rank: of this process.
        world: number of processes.
        workers: loader processes; 0 = in this process.
        start_step: first step to yield.
        accumulate: micro-batches a step.

    Raises:
        UsageError: if `batch` is not a positive multiple of world * accumulate, a number is negative, or the data set
            is empty.
        DataError: while iterating, if 20 records drawn in a row are broken.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        collator: Collates,
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
        if min(seed, workers, start_step) < 0:
            raise UsageError(f"seed={seed}, workers={workers}, start_step={start_step}: none may be negative.")
        if len(dataset) == 0:
            raise UsageError(f"the data set '{dataset.name}' is empty. Check its path with: wordregion data check.")
        self.accumulate = accumulate
        self._stream = _stream(seed, dataset)
        self._split = (batch, accumulate, rank, world)
        self._left_out = None  # where random changes are drawn, pixels can't be left out
        if isinstance(transform, EvalTransform):
            self._left_out = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        self._loader = torch_loader(
            _MicroBatches(dataset, transform, collator, seed, self._left_out),
            _Draws(self._stream, start_step, self._split),
            workers,
        )
        self._iterator: Iterator[Batch | WordregionError] | None = None

    def __iter__(self) -> Iterator[list[Batch]]:
        """Steps from `start_step` on; stops the workers of an iteration before."""
        self.close()
        iterator = self._iterator = iter(self._loader)
        while True:
            yield [_batch_of(next(iterator)) for _ in range(self.accumulate)]

    def leave_out(self, image_key: Int[Tensor, "I"]) -> None:
        """From now on these images come without pixels, as NaN, if the transform makes the same of them each time.

        Args:
            image_key: `Batch.image_key`, of all images of each record.
        """
        if self._left_out is not None:
            self._left_out[image_key.cpu() % IMAGES_APART] = True

    def close(self) -> None:
        """Stops the workers."""
        _stop(self._iterator)
        self._iterator = None


def eval_batches(
    dataset: Dataset,
    transform: Transform,
    collator: Collates,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Every record once, in order; over the ranks too: rank r takes every `world`-th batch, beginning with batch r.

    A `Collator` with ``texts_per_image=None`` gives all captions. The last batch may be short, and a rank may get one
    batch less than another.

    Args:
        dataset: source of samples.
        transform: image, boxes and text together.
        collator: samples to a batch; its draws depend on the record's index alone.
        batch: images a batch.
        rank: of this process.
        world: number of processes.
        workers: loader processes; 0 = in this process.

    Raises:
        UsageError: if `batch` is not positive.
        DataError: for a broken record: an evaluation that leaves records out isn't comparable.
    """
    if batch < 1:
        raise UsageError(f"batch={batch}: must be at least 1.")
    chunks = [range(b, min(b + batch, len(dataset))) for b in range(0, len(dataset), batch)]
    return batches_of(chunks[rank::world], dataset, transform, collator, workers)


def batches_of(
    chunks: Sequence[Sequence[int]], dataset: Dataset, transform: Transform, collator: Collates, workers: int = 0
) -> Iterator[Batch]:
    """The batches of these records.

    Args:
        chunks: indices of the records of each batch.
        dataset: source of samples.
        transform: image, boxes and text together.
        collator: samples to a batch; its draws depend on the record's index alone.
        workers: loader processes; 0 = in this process.

    Raises:
        DataError: for a broken record.
    """
    draws = [[(0, index) for index in chunk] for chunk in chunks]
    iterator = iter(torch_loader(_InOrder(dataset, transform, collator, 0), draws, workers))
    try:
        for item in iterator:
            yield _batch_of(item)
    finally:
        _stop(iterator)


def _batch_of(item: Batch | WordregionError) -> Batch:
    if isinstance(item, WordregionError):
        raise item
    return item


def _stop(iterator: Any) -> None:
    """Ends the worker processes of a DataLoader's iterator, the hard way if they don't within torch's five seconds."""
    if hasattr(iterator, "_shutdown_workers"):
        workers = iterator._workers
        iterator._shutdown_workers()
        for worker in workers:
            if worker.is_alive():
                worker.kill()


def _stream(seed: int, dataset: Dataset) -> Stream | TurnStream:
    if isinstance(dataset, Turns):
        return TurnStream(seed, dataset)
    return Stream(seed, dataset.order if isinstance(dataset, Mix) else Shuffled(len(dataset)))


class _Draws:
    """Sampler of torch's DataLoader: endless lists of draws, one a micro-batch."""

    def __init__(self, stream: Stream | TurnStream, start: int, split: tuple[int, int, int, int]) -> None:
        self.stream, self.start, self.split = stream, start, split

    def __iter__(self) -> Iterator[Sequence[Draw]]:
        batch, accumulate, rank, world = self.split
        step = self.start
        while True:
            for micro in range(accumulate):
                yield self.stream.step(step, batch, micro, accumulate, rank, world)
            step += 1


def torch_loader(dataset: TorchDataset, sampler: Any, workers: int) -> DataLoader:
    """A DataLoader whose items are whole batches; pins memory where there is a GPU."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else the loader draws its base seed from the global generator
    )


def _start_worker(worker: int) -> None:
    """One thread each. Ctrl-C and SIGTERM are for the trainer, which finishes its step and then ends its workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
