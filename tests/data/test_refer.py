"""Referring expressions: what fits, and one clear line for what does not."""

import json

import pytest
from PIL import Image

from wordregion.data.check import verify
from wordregion.data.datasets.opening import open_source
from wordregion.data.datasets.refer import Referring
from wordregion.errors import DataError, UsageError, WordregionError
from wordregion.schema import Grounding

EXPRESSIONS = [
    {"image": "a.jpg", "text": "man in red", "ref_id": 7},
    {"image": "b.jpg", "text": "the dog", "ref_id": 8},
    {"image": "a.jpg", "text": "left man", "ref_id": 9},
]
REFS = [
    {"ref_id": 7, "ann_id": 1, "image_id": 50, "split": "testA", "sentences": []},
    {"ref_id": 8, "ann_id": 2, "image_id": 60, "split": "val", "sentences": []},
    {"ref_id": 9, "ann_id": 3, "image_id": 50, "split": "testA", "sentences": []},
]
INSTANCES = {
    "images": [{"id": 50, "width": 40, "height": 20}, {"id": 60, "width": 40, "height": 20}],
    "annotations": [
        {"id": 1, "image_id": 50, "bbox": [10, 5, 20, 10]},
        {"id": 2, "image_id": 60, "bbox": [0, 0, 40, 20]},
        {"id": 3, "image_id": 50, "bbox": [0, 0, 10, 20]},
    ],
}
PROPOSALS = {"50": [[10, 5, 20, 10, 0.9], [0, 0, 8, 20]], "60": [[0, 0, 40, 20]]}


@pytest.fixture
def write(tmp_path):
    for name in "ab":
        Image.new("RGB", (40, 20), "red").save(tmp_path / f"{name}.jpg")

    def make(**changed):
        given = {"val": EXPRESSIONS, "refs": REFS, "instances": INSTANCES, "dets": PROPOSALS} | changed
        for name, content in given.items():
            (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return make


def full(folder):
    return Referring(folder / "val.json", folder, folder / "refs.json", folder / "instances.json", folder / "dets.json")


def test_training_sees_texts_of_pictures_alone(write):
    data = Referring(write() / "val.json")
    assert len(data) == 2
    sample = data[0]
    assert sample.texts == ("man in red", "left man")
    assert sample.groundings == (Grounding(text=0), Grounding(text=1))
    assert sample.captions() == (0, 1)
    assert sample.target == {}
    assert data[1].id == "b"


def test_evaluation_sees_boxes_splits_and_proposals(write):
    data = full(write())
    sample = data[0]
    verify(sample, "here")
    assert [g.boxes for g in sample.groundings if g.boxes] == [((0.25, 0.25, 0.75, 0.75),), ((0.0, 0.0, 0.25, 1.0),)]
    assert sample.target == {
        "splits": ("testA", "testA"),
        "proposals": ((0.25, 0.25, 0.75, 0.75), (0.0, 0.0, 0.2, 1.0)),
    }
    assert data[1].target["splits"] == ("val",)


def test_several_files_are_one_set(write):
    folder = write()
    (folder / "more.json").write_text(json.dumps([{"image": "a.jpg", "text": "third", "ref_id": 7}]))
    data = Referring([folder / "val.json", folder / "more.json"])
    assert data[0].texts == ("man in red", "left man", "third")
    assert str(folder / "more.json") in data.name


BROKEN = {
    "val": [
        ({"a": 1}, "the top level is dict"),
        ([], "has no records"),
        ("[{", "not JSON"),
        ([3], "record 1: is int, not an object"),
        ([{"text": "x"}], "record 1, field 'image': missing"),
        ([{"image": "a.jpg", "caption": "x"}], "field 'text': missing"),
        ([{"image": "a.jpg", "text": " "}], "field 'text': is empty"),
        ([{"image": "a.jpg", "text": "x"}], "field 'ref_id': missing"),
        ([{"image": "a.jpg", "text": "x", "ref_id": 99}], "no reference 99"),
        ([{"image": "a.jpg", "text": "x", "ref_id": [7]}], "field 'ref_id'"),
        ([{"image": "c.jpg", "text": "x", "ref_id": 7}], "no image 'c.jpg'"),
    ],
    "refs": [
        ({}, "the top level is dict"),
        ([], "has no references"),
        ([1], "record 1: is int"),
        ([{"ref_id": 7, "image_id": 50, "split": "val"}], "field 'ann_id': missing"),
        ([{"ref_id": 7, "ann_id": 1, "image_id": 50, "split": ""}], "field 'split': is empty"),
        ([{"ref_id": {}, "ann_id": 1, "image_id": 50, "split": "val"}], "field 'ref_id': is {}"),
        ([{"ref_id": 7, "ann_id": 5, "image_id": 50, "split": "val"}], "names annotation 5"),
        ([{"ref_id": 7, "ann_id": 1, "image_id": 5, "split": "val"}], "names image 5"),
    ],
    "instances": [
        ([], "field 'annotations': no such list"),
        ({"annotations": [{}], "images": []}, "annotations 1, field 'id'"),
        (INSTANCES | {"annotations": [{"id": 1, "bbox": [0, 0, 900, 10]}]}, "outside of the 40 x 20 image"),
        (INSTANCES | {"annotations": [{"id": 1, "bbox": [0, 0]}]}, "annotation 1, field 'bbox'"),
        (INSTANCES | {"images": [{"id": 50, "width": 40}]}, "image 50, field 'height': missing"),
    ],
    "dets": [
        ([], "is empty"),
        ([[1]], "the top level is list"),
        ({"60": [[0, 0, 1, 1]]}, "no boxes for image 50"),
        ({"50": [[0, 0, 1]]}, "image 50, field 'box 1'"),
        ({"50": [[0, 0, 5, 5], [0, 0, "x", 1]]}, "field 'box 2': is 'x'"),
    ],
}


@pytest.mark.parametrize(("file", "content", "told"), [(f, c, t) for f, cases in BROKEN.items() for c, t in cases])
def test_broken_files_are_one_clear_line(write, file, content, told):
    folder = write(**{file: content})
    with pytest.raises(DataError) as error:
        full(folder)[0]
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_one_broken_record_spares_the_others(write):
    data = Referring(write(val=[{"image": "a.jpg"}, *EXPRESSIONS]) / "val.json")
    assert len(data) == 3
    with pytest.raises(DataError, match=r"record 1, field 'text'"):
        data[0]
    assert data[1].texts == ("man in red", "left man")


def test_parts_that_do_not_go_together(write):
    folder = write()
    for given in ({"refs": folder / "refs.json"}, {"proposals": folder / "dets.json"}):
        with pytest.raises(UsageError, match="boxes need both refs and instances"):
            Referring(folder / "val.json", **given)
    with pytest.raises(UsageError, match="no file of referring expressions"):
        Referring([])
    with pytest.raises(WordregionError, match="no such file"):
        Referring(folder / "nothing.json")


def test_data_check_knows_the_format(write):
    assert isinstance(open_source(str(write() / "val.json")), Referring)
