"""Batches must depend on the step alone: not on workers, ranks, resumption, or broken neighbours."""

import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wordregion.data.collate import IMAGES_APART, Collator
from wordregion.data.loader import StepLoader, eval_batches
from wordregion.data.mix import Mix
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import DataError, UsageError
from wordregion.schema import Batch, Grounding, Sample

WORDS = ["a", "dog", "cat", "man", "red", "blue", "left", "right", "near"]


class Photos:
    """Small pictures whose content and words are those of their index; `broken` ones can't be read."""

    name = "photos"

    def __init__(self, size: int = 11, broken: frozenset[int] = frozenset(), wrong: frozenset[int] = frozenset()):
        self.size, self.broken, self.wrong = size, broken, wrong

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise DataError(self.where(index), "image", "is damaged", "Mend it")
        rng = np.random.default_rng(index)
        image = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        texts = tuple(" ".join(rng.choice(WORDS, 6)) for _ in range(3))
        box = (0.2, 0.2, 1.7 if index in self.wrong else 0.7, 0.8)
        groundings = (*(Grounding(i) for i in range(3)), Grounding(0, (box,), (0, 5)))
        return Sample(f"photo{index}", (image,), texts, groundings)

    def where(self, index: int) -> str:
        return f"photos.jsonl, line {index + 1}"


@pytest.fixture
def collator(tmp_path: Path) -> Collator:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return Collator(Tokenizer(tmp_path, max_tokens=10), Masking(0.3), texts_per_image=2, pad_to_max=True)


def take(loader: StepLoader, steps: int) -> list[list[Batch]]:
    try:
        return [step for step, _ in zip(iter(loader), range(steps), strict=False)]
    finally:
        loader.close()


def make(collator: Collator, dataset: object = None, **settings: int) -> StepLoader:
    defaults = {"batch": 4, "seed": 7}
    return StepLoader(
        Photos() if dataset is None else dataset, TrainTransform(16), collator, **{**defaults, **settings}
    )  # type: ignore[arg-type]


def plain(batch: Batch) -> dict[str, object]:
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in vars(batch).items()}


def same(one: list[list[Batch]], two: list[list[Batch]]) -> bool:
    assert len(one) == len(two)
    return [[plain(b) for b in step] for step in one] == [[plain(b) for b in step] for step in two]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bits(collator: Collator, workers: int) -> None:
    settings = {"accumulate": 2, "dataset": Photos(broken=frozenset({3, 8}))}
    expected = take(make(collator, **settings), 7)
    assert same(expected, take(make(collator, **settings, workers=workers), 7))
    assert not same(expected, take(make(collator, **settings, seed=8), 7))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 2, 5])
def test_resume_in_the_middle_of_an_epoch(collator: Collator, start: int, workers: int) -> None:
    whole = take(make(collator, accumulate=2), 8)  # 11 photos: an epoch ends within steps 2 and 5
    assert same(whole[start:], take(make(collator, accumulate=2, start_step=start, workers=workers), 8 - start))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_are_needed_no_more_come_without_pixels(collator: Collator, workers: int) -> None:
    settings = {"batch": 4, "seed": 7, "workers": workers}
    photos = Photos(broken=frozenset({3}))
    whole = take(StepLoader(photos, EvalTransform(16), collator, **settings), 30)
    loader, known = StepLoader(photos, EvalTransform(16), collator, **settings), torch.zeros(11).bool()
    for ((expected,), (got,)), _ in zip(zip(whole, iter(loader), strict=False), range(30), strict=True):
        gone = got.image[:, 0, 0, 0].isnan()
        assert not (gone & ~known[got.image_key]).any()
        assert torch.equal(got.image[~gone], expected.image[~gone])
        assert got.image[gone].isnan().all()
        blank = torch.zeros(len(gone), 3, 1, 1)
        assert same([[replace(got, image=blank)]], [[replace(expected, image=blank)]])  # all else is as it was
        loader.leave_out(got.image_key[:2])
        known[got.image_key[:2]] = True
        if known.sum() == 10:
            loader.leave_out(torch.tensor([5 + 2 * IMAGES_APART]))  # the third image of a record
    loader.close()
    assert gone.all()
    assert got.image.shape == expected.image.shape
    assert got.image.untyped_storage().nbytes() == 3 * 4 * len(got.image)  # a value a channel


def test_images_that_change_each_time_keep_their_pixels(collator: Collator) -> None:
    loader = make(collator)
    for (batch,), _ in zip(loader, range(6), strict=False):
        loader.leave_out(batch.image_key)
        assert not batch.image.isnan().any()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_process_has_the_two_ranks_batches_joined(collator: Collator, accumulate: int) -> None:
    alone = take(make(collator, batch=8, accumulate=accumulate), 4)
    ranks = [take(make(collator, batch=8, accumulate=accumulate, rank=r, world=2), 4) for r in range(2)]
    for step, (whole, left, right) in enumerate(zip(alone, *ranks, strict=True)):
        assert len(whole) == accumulate
        for one, a, b in zip(whole, left, right, strict=True):
            assert len(one.image_key) == 8 // accumulate
            for name in ("image", "image_key", "token_ids", "token_mask", "masked_ids", "labels", "box"):
                assert torch.equal(getattr(one, name), torch.cat([getattr(a, name), getattr(b, name)])), (step, name)
            texts = len(a.token_ids)
            assert one.text_image.tolist() == a.text_image.tolist() + (b.text_image + len(a.image)).tolist()
            assert one.grounding_text.tolist() == a.grounding_text.tolist() + (b.grounding_text + texts).tolist()
            joined = a.box_grounding.tolist() + (b.box_grounding + len(a.grounding_text)).tolist()
            assert one.box_grounding.tolist() == joined


def test_every_epoch_has_every_photo_once_and_another_view_of_it(collator: Collator) -> None:
    steps = take(make(collator), 11)  # 44 draws = 4 epochs of 11
    keys = [key for (batch,) in steps for key in batch.image_key.tolist()]
    images = [image for (batch,) in steps for image in batch.image]
    for epoch in range(4):
        assert sorted(keys[11 * epoch : 11 * epoch + 11]) == list(range(11))
    views = [image for key, image in zip(keys, images, strict=True) if key == 0]
    assert all(not torch.equal(views[i], views[j]) for i in range(4) for j in range(i))


def test_broken_records_are_replaced_counted_and_change_nothing_else(collator: Collator) -> None:
    good = take(make(collator), 6)
    bad = take(make(collator, Photos(broken=frozenset({3}), wrong=frozenset({5}))), 6)
    replaced = 0
    for (one,), (other,) in zip(good, bad, strict=True):
        hit = [i for i, key in enumerate(one.image_key.tolist()) if key in (3, 5)]
        lines = [f"photos.jsonl, line {one.image_key[i] + 1}" for i in hit]
        assert len(other.skipped) >= len(hit)
        assert all(any(said.startswith(line) for said in other.skipped) for line in lines)
        replaced += len(hit)
        for i in range(4):
            if i in hit:
                assert other.image_key[i] not in (3, 5)
            else:
                assert torch.equal(one.image[i], other.image[i])
                assert torch.equal(one.labels[2 * i : 2 * i + 2], other.labels[2 * i : 2 * i + 2])
        assert one.skipped == ()
    assert replaced >= 4


@pytest.mark.parametrize("workers", [0, 1])
def test_only_broken_records_is_one_clear_error(collator: Collator, workers: int) -> None:
    loader = make(collator, Photos(broken=frozenset(range(11))), workers=workers)
    with pytest.raises(
        DataError, match=r"20 records in a row are broken.*photos.jsonl, line \d+, field 'image'"
    ) as caught:
        take(loader, 1)
    assert "\n" not in str(caught.value)


def test_a_photo_without_caption_is_skipped(collator: Collator) -> None:
    class Bare(Photos):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample if index else Sample(sample.id, sample.images, sample.texts)

    said = [line for (batch,) in take(make(collator, Bare()), 6) for line in batch.skipped]
    assert said
    assert all("line 1," in line and "caption" in line for line in said)


def test_global_random_state_is_left_alone(collator: Collator) -> None:
    torch.manual_seed(5)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = take(make(collator, workers=1), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    torch.manual_seed(6)
    assert same(first, take(make(collator), 2))


def test_a_mixture_repeats_a_small_part_with_other_views(collator: Collator) -> None:
    steps = take(make(collator, Mix((Photos(9), 0.5), (Photos(2), 0.5))), 11)
    keys = torch.cat([batch.image_key for (batch,) in steps])
    assert (keys >= 9).float().mean().item() == pytest.approx(0.5, abs=0.06)
    images = torch.cat([batch.image for (batch,) in steps])[keys == 9]
    assert len({tuple(image.flatten().tolist()) for image in images}) == len(images) > 5


def children() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


@pytest.fixture
def before() -> set[int]:
    return children()


def test_workers_survive_signals_and_end_on_close(collator: Collator, before: set[int]) -> None:
    loader = make(collator, workers=2)
    steps = iter(loader)
    one = [next(steps)]
    workers = children() - before
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
    one += [next(steps) for _ in range(8)]
    assert same(one, take(make(collator), 9))
    loader.close()
    deadline = time.time() + 5
    while children() & workers and time.time() < deadline:
        time.sleep(0.05)
    assert not children() & workers
    loader.close()  # again does no harm


@pytest.mark.parametrize(
    ("size", "batch", "world", "workers"), [(11, 4, 2, 0), (11, 4, 3, 1), (3, 4, 2, 0), (8, 4, 1, 2)]
)
def test_evaluation_has_each_record_once(collator: Collator, size: int, batch: int, world: int, workers: int) -> None:
    everything = Collator(collator.tokenizer, texts_per_image=None)
    transform = EvalTransform(16)
    ranks = [list(eval_batches(Photos(size), transform, everything, batch, r, world, workers)) for r in range(world)]
    assert all(keys == sorted(keys) for keys in [[k for b in rank for k in b.image_key.tolist()] for rank in ranks])
    assert sorted(k for rank in ranks for b in rank for k in b.image_key.tolist()) == list(range(size))
    for rank in ranks:
        for got in rank:
            for image, key in zip(got.image, got.image_key.tolist(), strict=True):
                expected = transform(Photos(size)[key], np.random.default_rng(0)).images[0]
                assert torch.equal(image, expected)
            assert got.text_image.tolist() == [i for i in range(len(got.image)) for _ in range(3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_does_not_skip(collator: Collator, workers: int) -> None:
    batches = eval_batches(Photos(6, broken=frozenset({4})), EvalTransform(16), collator, 2, workers=workers)
    with pytest.raises(DataError, match=r"line 5, field 'image'"):
        list(batches)


def test_parts_can_be_sent_to_a_spawned_worker(collator: Collator) -> None:
    again = pickle.loads(pickle.dumps((TrainTransform(16), collator)))
    loaders = [StepLoader(Photos(), *parts, batch=4, seed=7) for parts in ((TrainTransform(16), collator), again)]
    assert same(take(loaders[0], 2), take(loaders[1], 2))


def test_settings_that_cannot_be(collator: Collator) -> None:
    bad: list[dict[str, int]] = [{"batch": 0}, {"batch": 6, "accumulate": 4}, {"batch": 6, "world": 4}, {"seed": -1}]
    for settings in (*bad, {"start_step": -1}, {"workers": -1}):
        with pytest.raises(UsageError):
            make(collator, **settings)
    with pytest.raises(UsageError, match="empty"):
        make(collator, Photos(0))
    with pytest.raises(UsageError):
        next(eval_batches(Photos(), EvalTransform(16), collator, 0))
