"""The scenes as a detection set: boxes of what is asked for, and names that training never says."""

import pytest

from wordregion.data.check import verify
from wordregion.data.prompts import ABSENT
from wordregion.data.scene_detections import SceneDetections, scene_classes
from wordregion.data.scene_render import box_of
from wordregion.errors import UsageError


def test_every_colour_and_shape_of_an_unseen_class_is_in_a_seen_one() -> None:
    seen, unseen = scene_classes("seen"), scene_classes("unseen")
    assert (len(seen), len(unseen)) == (80, 20)
    assert not set(seen) & set(unseen)
    assert set(seen) | set(unseen) == set(scene_classes())
    for place in (0, 1):
        assert {name.split()[place] for name in unseen} <= {name.split()[place] for name in seen}


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
    with pytest.raises(UsageError, match="'seen', 'unseen' or 'all'"):
        SceneDetections(names="some")
