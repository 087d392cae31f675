"""The scenes as a detection set: boxes of what is asked for, and names that training never says."""

import pytest

from wordregion.data.check import verify
from wordregion.data.datasets import open_source
from wordregion.data.prompts import ABSENT, class_prompt
from wordregion.data.scene_detections import NAMES, SceneDetections, scene_classes
from wordregion.data.scene_graph import SHAPES
from wordregion.data.scene_render import box_of
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError


def test_every_colour_and_shape_of_an_unseen_class_is_in_a_seen_one() -> None:
    seen, unseen = scene_classes("seen"), scene_classes("unseen")
    assert (len(seen), len(unseen)) == (80, 20)
    assert not set(seen) & set(unseen)
    assert set(seen) | set(unseen) == set(scene_classes())
    for place in (0, 1):
        assert {name.split()[place] for name in unseen} <= {name.split()[place] for name in seen}


def test_no_scene_says_a_renamed_class() -> None:
    tokenizer = Tokenizer("scenes", max_tokens=64, clean=False)

    def tokens(*texts: str) -> set[int]:
        return set(tokenizer(list(texts)).ids.flatten().tolist())

    new = [tokens(name) - tokens("") for name in scene_classes("renamed")]
    assert len(new) == 10
    said = tokens(*(class_prompt(scene_classes(names)).text for names in ("all", "shapes")))
    said |= tokens(*(text for index in range(25) for text in Scenes("train", 25, image_size=16)[index].texts))
    assert not said & set().union(*new)


def test_boxes_are_those_of_the_named_things() -> None:
    every = SceneDetections("val", 30, image_size=32)
    parts = [SceneDetections("val", 30, image_size=32, names=names) for names in ("seen", "unseen")]
    for index in range(30):
        sample = every[index]
        verify(sample, every.where(index))
        things = every.scenes.record(index).scene.things
        told = {sample.texts[g.text]: g.boxes for g in sample.groundings}
        assert told == {f"{thing.colour} {thing.shape}": (box_of(thing),) for thing in things}
        assert set(sample.texts) | set(sample.target[ABSENT]) == set(every.classes)
        split = [part[index] for part in parts]
        assert sorted(split[0].texts + split[1].texts) == sorted(sample.texts)
        assert all(set(s.texts) | set(s.target[ABSENT]) == set(p.classes) for s, p in zip(split, parts, strict=True))
    with pytest.raises(UsageError, match=r"'some'.*renamed"):
        SceneDetections(names="some")


def test_a_shape_has_the_same_boxes_under_both_its_names() -> None:
    plain, renamed = (SceneDetections("val", 30, image_size=32, names=names) for names in ("shapes", "renamed"))
    assert plain.classes == SHAPES
    by_number = [
        {d.classes.index(sample.texts[g.text]): g.boxes for sample in (d[i],) for g in sample.groundings}
        for d in (plain, renamed)
        for i in range(30)
    ]
    assert by_number[:30] == by_number[30:]
    assert max(len(boxes) for sample in by_number for boxes in sample.values()) > 1
    for index in range(30):
        verify(plain[index], plain.where(index))
        things = plain.scenes.record(index).scene.things
        assert sum(map(len, by_number[index].values())) == len(things)


@pytest.mark.parametrize("names", NAMES)
def test_sources_name_them(names: str) -> None:
    dataset = open_source(f"scenes:{names}")
    assert isinstance(dataset, SceneDetections)
    assert (len(dataset), dataset.classes) == (20_000, scene_classes(names))
    assert dataset.where(0).startswith("scenes (train")


def test_sources_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="scenes:shapes#val"):
        open_source("scenes:shapes#test")
    with pytest.raises(UsageError, match=r"'sizes'.*shapes"):
        open_source("scenes:sizes#train")
