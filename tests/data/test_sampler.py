"""The order of records: complete, reproducible, and the same however it is shared out."""

from collections import Counter

import numpy as np
import pytest

from wordregion.data.mix import Mix
from wordregion.data.sampler import MixedOrder, Shuffled, Stream, order
from wordregion.errors import UsageError
from wordregion.schema import Sample


class Named:
    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        return Sample(id=f"{self.name}{index}", images=(), texts=())

    def where(self, index: int) -> str:
        return f"{self.name}, line {index}"


def test_an_epoch_is_a_permutation_and_each_another() -> None:
    one, two = order(3, 0, 100), order(3, 1, 100)
    assert sorted(one.tolist()) == sorted(two.tolist()) == list(range(100))
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, order(4, 0, 100))
    assert np.array_equal(one, order(3, 0, 100))


def test_a_batch_straddles_epochs_and_no_record_is_left_out() -> None:
    stream = Stream(0, Shuffled(7))
    draws = [draw for step in range(7) for draw in stream.step(step, 4, 0, 1, 0, 1)]
    assert [turn for turn, _ in draws] == [position // 7 for position in range(28)]
    assert len(set(draws)) == 28
    assert Counter(index for _, index in draws) == dict.fromkeys(range(7), 4)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_have_what_one_process_has(world: int, accumulate: int) -> None:
    batch = 24
    for step in range(5):
        for micro in range(accumulate):
            alone = Stream(1, Shuffled(10)).step(step, batch, micro, accumulate, 0, 1)
            shared = [
                draw
                for rank in range(world)
                for draw in Stream(1, Shuffled(10)).step(step, batch, micro, accumulate, rank, world)
            ]
            assert list(alone) == shared
            start = step * batch + micro * batch // accumulate
            assert alone == [Stream(1, Shuffled(10))[p] for p in range(start, start + batch // accumulate)]


def test_a_mixture_keeps_its_proportions_and_leaves_nothing_out() -> None:
    mixed = MixedOrder((90, 10), (1, 1), 60)
    counts: Counter[int] = Counter()
    seen: set[tuple[int, int]] = set()
    for epoch in range(6):
        rounds, indices = mixed.draws(5, epoch)
        assert (indices < 90).sum() == (indices >= 90).sum() == 30
        assert not np.array_equal(np.sort(indices), indices)
        seen |= set(zip(rounds.tolist(), indices.tolist(), strict=True))
        counts.update(indices.tolist())
    assert len(seen) == 360  # no draw twice: a record that comes again has another round
    assert set(counts[i] for i in range(90)) == {2}  # 180 draws of 90
    assert set(counts[i] for i in range(90, 100)) == {18}
    again = mixed.draws(5, 2)
    assert all(np.array_equal(a, b) for a, b in zip(again, MixedOrder((90, 10), (1, 1), 60).draws(5, 2), strict=True))


def test_mix_finds_records_and_names_them() -> None:
    mix = Mix((Named("a", 3), 2.0), (Named("b", 5), 1.0), (Named("c", 1), 1.0))
    assert [mix[i].id for i in range(len(mix))] == ["a0", "a1", "a2", "b0", "b1", "b2", "b3", "b4", "c0"]
    assert mix.where(3) == "b, line 0"
    assert mix.where(8) == "c, line 0"
    assert sum(mix.order.quotas) == 9
    for index in (-1, 9):
        with pytest.raises(IndexError):
            mix[index]


def test_bad_mixtures() -> None:
    full, empty = Named("full", 3), Named("empty", 0)
    for parts in (
        (),
        ((empty, 1.0),),
        ((full, 0.0),),
        ((full, -1.0),),
        ((full, float("nan")),),
        ((full, 1), (full, 1e-9)),
    ):
        with pytest.raises(UsageError, match="Mix"):
            Mix(*parts)
