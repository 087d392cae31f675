"""Texts of regions: as read, cropped, drawn into batches, and taken in turns with images."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from wordregion.data.collate import Collator
from wordregion.data.loader import StepLoader
from wordregion.data.mix import Mix
from wordregion.data.region_transforms import ByKind, RegionTransform, crop_around
from wordregion.data.regions import RegionTexts, around, region_texts
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Tokenizer, WordMasking
from wordregion.data.transforms import TrainTransform
from wordregion.data.turns import Turns, TurnStream
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample

LEFT, RIGHT, SMALL = (0.0, 0.2, 0.4, 0.8), (0.6, 0.2, 1.0, 0.8), (0.1, 0.3, 0.2, 0.5)


def sample(*texts, groundings, size=(100, 50)):
    picture = Image.new("RGB", size, "blue")
    return Sample("one", (picture,), texts, tuple(groundings))


class Listed:
    name = "listed"

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def where(self, index):
        return f"listed, {index}"

    def __getitem__(self, index):
        return self.samples[index]


def test_false_captions_stay_with_their_captions():
    plain, regions = (wrap(Scenes("train", 20, image_size=32, negatives=2)) for wrap in (lambda x: x, RegionTexts))
    seen = 0
    for index in range(20):
        before, after = plain[index], regions[index]
        for old, new in zip(before.captions(), after.captions(), strict=True):
            false = [[s.texts[text] for text in s.negatives.get(k, ())] for s, k in ((before, old), (after, new))]
            assert false[0] == false[1]
            seen += len(false[0])
        assert not {g.text for g in after.groundings} & {text for row in after.negatives.values() for text in row}
    assert seen > 5


def test_phrases_become_texts_around_all_their_boxes_and_classes_one_text_a_box():
    caption = "Two dogs chase a cat"
    found = RegionTexts(
        Listed(
            sample(
                caption,
                "cat",
                groundings=[
                    Grounding(text=0),
                    Grounding(text=0, span=(0, 8), boxes=(LEFT, RIGHT)),
                    Grounding(text=0, span=(15, 20), boxes=(SMALL,)),
                    Grounding(text=0, span=(15, 20), boxes=(SMALL,)),
                    Grounding(text=1, boxes=(SMALL, LEFT)),
                ],
            )
        )
    )[0]
    assert found.texts == (caption, "Two dogs", "a cat", "cat", "cat")
    assert [g.boxes for g in found.groundings] == [(), ((0.0, 0.2, 1.0, 0.8),), (SMALL,), (SMALL,), (LEFT,)]
    assert all(g.span is None for g in found.groundings)
    assert found.captions() == (0,)


def test_scenes_have_a_text_for_every_box_and_lose_no_caption():
    scenes = Scenes("train", 3, captions=2, image_size=32)
    found = RegionTexts(scenes)
    assert (len(found), found.where(1), found.name) == (3, scenes.where(1), "scenes")
    assert len(found[0].captions()) == 2
    boxes = {box for g in scenes[0].groundings for box in g.boxes}
    assert set(region_texts(found[0])) == boxes


def test_a_crop_holds_its_region_and_reaches_every_edge():
    rng = np.random.default_rng(0)
    crops = [crop_around(SMALL, (100, 50), rng) for _ in range(500)]
    for x0, y0, x1, y1 in crops:
        assert 0 <= x0 <= 10
        assert 20 <= x1 <= 100
        assert 0 <= y0 <= 15
        assert 25 <= y1 <= 50
    assert {c[0] for c in crops} == set(range(11))
    assert {c[2] for c in crops} == set(range(20, 101))
    assert crop_around((0, 0, 1, 1), (7, 5), rng) == (0, 0, 7, 5)
    x0, y0, x1, y1 = crop_around((0.999, 0.0, 1.0, 0.001), (3, 3), rng)
    assert x1 > x0
    assert y1 > y0


def test_boxes_stay_if_more_than_half_of_them_is_in_the_crop():
    record = sample(
        "a thing", "another", "both",
        groundings=[Grounding(0, (SMALL,)), Grounding(1, (RIGHT,)), Grounding(2, (LEFT, RIGHT)), Grounding(0)],
    )  # fmt: skip
    transform = RegionTransform(32, flip=0.0, randaugment=None)
    kept = []
    for seed in range(200):
        found = transform(record, np.random.default_rng(seed))
        for grounding in found.groundings:
            for x0, y0, x1, y1 in grounding.boxes:
                assert 0 <= x0 < x1 <= 1
                assert 0 <= y0 < y1 <= 1
        assert found.images[0].shape == (3, 32, 32)
        assert found.texts == record.texts
        assert found.captions() == (0,)
        kept.append(len([g for g in found.groundings if g.boxes]))
    assert set(kept) == {1, 2, 3}


def test_the_box_shows_in_the_crop_what_it_showed_in_the_picture():
    picture = Image.new("RGB", (100, 80), "blue")
    picture.paste("red", (30, 20, 60, 70))
    record = Sample("one", (picture,), ("red",), (Grounding(0, ((0.3, 0.25, 0.6, 0.875),)),))
    for seed in range(20):
        plain = RegionTransform(200, randaugment=None, mean=(0, 0, 0), std=(1, 1, 1))
        found = plain(record, np.random.default_rng(seed))
        x0, y0, x1, y1 = (round(200 * edge) for edge in found.groundings[0].boxes[0])
        red = found.images[0][0] > 0.5
        inside = torch.zeros_like(red)
        inside[y0:y1, x0:x1] = True
        assert (red != inside).float().mean() < 0.03


def flips(text):
    picture = Image.new("RGB", (40, 40), "blue")
    picture.paste("red", (0, 0, 20, 40))
    record = Sample("one", (picture,), (text,), (Grounding(0, ((0, 0, 1, 1),)),))
    found = RegionTransform(8, flip=1.0, randaugment=None)(record, np.random.default_rng(0))
    return bool(found.images[0][0, 4, 0] < found.images[0][0, 4, 7])


def test_a_sample_that_names_a_side_is_not_flipped():
    assert flips("a dog")
    assert flips("a bright copyright")
    assert not flips("the Left dog")
    assert not flips("the rightmost dog")


def test_each_kind_of_sample_has_its_transform():
    transform = ByKind(RegionTransform(16, flip=0.0, randaugment=None), TrainTransform(24, flip=0.0, randaugment=None))
    region = sample("a", groundings=[Grounding(0, (SMALL,))])
    image = sample("a", groundings=[Grounding(0), Grounding(0, (SMALL,), span=(0, 1))])
    assert transform(region, np.random.default_rng(0)).images[0].shape[1] == 16
    assert transform(image, np.random.default_rng(0)).images[0].shape[1] == 24


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"flip": 2.0}, {"randaugment": (2, 11)}])
def test_bad_settings_of_the_transform_are_refused(wrong):
    with pytest.raises(UsageError):
        RegionTransform(**{"image_size": 8, **wrong})


def ready(*texts, groundings):
    return Sample("one", (torch.zeros(3, 8, 8),), texts, tuple(groundings))


def items(*samples, seed=0):
    return [(i, s, np.random.default_rng([seed, i])) for i, s in enumerate(samples)]


REGIONS = ready(
    "a red circle", "the circle", "a blue star", "a square", "the star and the square",
    groundings=[
        Grounding(1, (LEFT,)), Grounding(0, (LEFT,)), Grounding(2, (RIGHT,)), Grounding(3, (SMALL,)), Grounding(4),
    ],
)  # fmt: skip


def test_a_caption_then_a_text_of_each_drawn_region():
    tokenizer = Tokenizer("scenes")
    seen = set()
    for seed in range(40):
        batch = Collator(tokenizer, regions=3)(items(REGIONS, seed=seed))
        texts = [tokenizer.decode(row.tolist()) for row in batch.token_ids]
        assert texts[0] == "the star and the square"
        regions = batch.regions()
        assert regions.text.tolist() == [1, 2]
        assert regions.image.tolist() == [0, 0]
        for text, box in zip(texts[1:], regions.box.tolist(), strict=True):
            own = {"a red circle": LEFT, "the circle": LEFT, "a blue star": RIGHT, "a square": SMALL}[text]
            assert box == pytest.approx(own)
        seen.add(frozenset(texts[1:]))
    assert not any({"a red circle", "the circle"} <= texts for texts in seen)
    assert len(seen) == 5


def test_without_a_caption_there_are_regions_alone_and_the_reverse():
    tokenizer = Tokenizer("scenes")
    alone = ready("a star", "a square", groundings=[Grounding(0, (LEFT,)), Grounding(1, (RIGHT,))])
    image = ready("a circle", groundings=[Grounding(0)])
    collator = Collator(tokenizer, WordMasking(), regions=5)
    for record in (alone, image):
        collator.check(record, "here")
    batch = collator(items(alone, image))
    assert batch.text_image.tolist() == [0, 0, 1]
    assert batch.regions().text.tolist() == [0, 1]
    assert ((batch.labels != -100).sum(1) >= 1).all()
    with pytest.raises(DataError, match="no caption"):
        collator.check(ready("a", groundings=[]), "here")
    with pytest.raises(DataError, match="no caption"):
        Collator(tokenizer).check(alone, "here")


@pytest.mark.parametrize("pairs", [2, 3, 4, 9, 20])
def test_a_batch_has_exactly_as_many_texts_as_asked_for(pairs):
    collator = Collator(Tokenizer("scenes"), regions=3, pairs=pairs)
    batch = collator(items(REGIONS, ready("a circle", groundings=[Grounding(0)])))
    assert len(batch.token_ids) == len(batch.text_image) == pairs
    again = collator(items(REGIONS, ready("a circle", groundings=[Grounding(0)])))
    assert torch.equal(batch.token_ids, again.token_ids)
    if pairs >= 4:
        assert len({(int(i), *row) for i, row in zip(batch.text_image, batch.token_ids.tolist(), strict=True)}) == 4


@pytest.mark.parametrize("wrong", [{"regions": -1}, {"pairs": 0}])
def test_bad_numbers_of_texts_are_refused(wrong):
    with pytest.raises(UsageError):
        Collator(Tokenizer("scenes"), **wrong)


def parts(images=10, regions=6):
    plain = sample("a circle", groundings=[Grounding(0)])
    region = sample("a star", groundings=[Grounding(0, (SMALL,))])
    return Listed(*[plain] * images), Listed(*[region] * regions)


def test_turns_are_drawn_from_seed_and_step_and_every_region_step_has_an_image_step_behind_it():
    stream = TurnStream(3, Turns(*parts()))
    kinds = [stream.is_region(step) for step in range(6000)]
    assert not any(a and b for a, b in pairwise(kinds))
    assert sum(kinds) / len(kinds) == pytest.approx(1 / 3, abs=0.02)
    again = TurnStream(3, Turns(*parts()))
    assert again.is_region(5999) == kinds[5999]
    assert [again.is_region(step) for step in range(6000)] == kinds
    assert [TurnStream(4, Turns(*parts())).is_region(step) for step in range(50)] != kinds[:50]
    always = TurnStream(0, Turns(*parts(), probability=1.0))
    assert [always.is_region(step) for step in range(4)] == [True, False, True, False]


def test_each_part_goes_through_its_own_records_and_ranks_share_a_step():
    turns = Turns(*parts(8, 4), share=0.5)
    stream = TurnStream(1, turns)
    whole = {step: stream.step(step, 4, 0, 1, 0, 1) for step in range(40)}
    images = [index for step, draws in whole.items() if not stream.is_region(step) for _, index in draws]
    regions = [index for step, draws in whole.items() if stream.is_region(step) for _, index in draws]
    assert sorted(images[:8]) == list(range(8))
    assert sorted(regions[:4]) == [8, 9, 10, 11]
    for step in range(20):
        ranks = [draw for rank in (0, 1) for draw in stream.step(step, 4, 0, 1, rank, 2)]
        assert ranks == whole[step]
    assert turns.where(9) == "listed, 1"
    with pytest.raises(IndexError):
        turns[12]


def test_the_loader_takes_turns_and_resumes_in_them():
    turns = Turns(*parts(), share=0.5)
    transform = ByKind(RegionTransform(16, randaugment=None), TrainTransform(16, randaugment=None))
    settings = {"batch": 4, "seed": 5}
    collator = Collator(Tokenizer("scenes"), regions=5, pairs=4)

    def steps(begin, count):
        loader = iter(StepLoader(turns, transform, collator, start_step=begin, **settings))
        return [next(loader)[0] for _ in range(count)]

    found, stream = steps(0, 8), TurnStream(5, turns)
    for step, batch in enumerate(found):
        region = stream.is_region(step)
        assert len(batch.image) == (2 if region else 4)
        assert len(batch.token_ids) == 4
        assert len(batch.regions().text) == (4 if region else 0)
    for before, after in zip(found[4:], steps(4, 4), strict=True):
        assert torch.equal(before.image, after.image)
        assert torch.equal(before.token_ids, after.token_ids)


def test_one_mixed_batch_holds_both():
    images, regions = parts()
    transform = ByKind(RegionTransform(16, randaugment=None), TrainTransform(16, randaugment=None))
    loader = StepLoader(
        Mix((images, 1.0), (regions, 1.0)), transform, Collator(Tokenizer("scenes"), regions=5), batch=8, seed=0
    )
    (batch,) = next(iter(loader))
    assert 0 < len(batch.regions().text) < len(batch.token_ids)


@pytest.mark.parametrize("wrong", [{"probability": 0.0}, {"share": 1.5}])
def test_bad_turns_are_refused(wrong):
    with pytest.raises(UsageError):
        Turns(*parts(), **wrong)
    with pytest.raises(UsageError, match="regions 0"):
        Turns(parts()[0], Listed())


def test_around():
    assert around((LEFT, RIGHT)) == (0.0, 0.2, 1.0, 0.8)
