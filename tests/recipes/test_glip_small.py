"""GLIP's recipes on photos: what they mix, and what they miss. The models themselves need pretrained weights."""

from pathlib import Path

import pytest

from tests.data.test_detection_datasets import lines, odvg, photo
from tests.data.test_pseudo_boxes import SETTINGS, tagger, teacher
from wordregion.data.datasets import open_source
from wordregion.data.mix import Mix
from wordregion.data.parts import start_cache
from wordregion.data.pseudo_boxes import make_part, version_of
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.recipes.glip_small import _mixed, _with_pseudo, glip_flickr_small


def test_missing_weights_are_named() -> None:
    with pytest.raises(UsageError, match="resnet50_keras"):
        glip_flickr_small(weights=Path("nowhere"))


def test_a_student_learns_from_true_boxes_and_from_the_teachers(tmp_path: Path) -> None:
    photo(tmp_path, "a.jpg")
    regions = [{"bbox": [0, 0, 20, 30], "phrase": "a red circle"}]
    caption = {"grounding": {"caption": "a red circle above a square", "regions": regions}}
    path = lines(tmp_path, *(odvg(id=i, **caption) for i in range(4)))
    gold, captions = f"{path}[0::2]", f"{path}[1::2]"
    dataset, out = open_source(captions), tmp_path / "pseudo"
    start_cache(out, version_of(dataset, SETTINGS, "tags", "weights"))
    make_part(out, 0, dataset, tagger, Tokenizer("scenes", clean=False), teacher, SETTINGS)
    mixed = _with_pseudo([gold], captions, out, 0.65)
    assert isinstance(mixed, Mix)
    samples = [mixed[i] for i in range(len(mixed))]
    assert [sample.id for sample in samples] == ["0", "2", "1", "3"]
    boxes = [[(g.span, len(g.boxes)) for g in sample.groundings if g.boxes] for sample in samples]
    assert boxes[0] == boxes[1] == [((0, 12), 1)]
    assert boxes[2] == boxes[3] == [((0, 12), 1), ((19, 27), 1)]
    assert samples[2].groundings[1].boxes != samples[0].groundings[1].boxes
    assert len(_mixed([gold, captions])) == 4
    assert not isinstance(_mixed([gold]), Mix)
