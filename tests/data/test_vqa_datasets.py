"""VQA v2, ALBEF's questions, DAQUAR: files written here in their formats."""

import json

import numpy as np
import pytest
from PIL import Image

from wordregion.data.datasets.daquar import Daquar
from wordregion.data.datasets.opening import open_source
from wordregion.data.datasets.vqa import AlbefVqa, VqaV2, agreement, open_questions, read_answers
from wordregion.data.transforms import TrainTransform
from wordregion.errors import DataError, UsageError
from wordregion.schema import Sample


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def picture(path):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (8, 6), "red").save(path)


@pytest.fixture
def v2(tmp_path):
    questions = [
        {"image_id": 9, "question": "What colour is it?", "question_id": 9000},
        {"image_id": 9, "question": "Is it red?", "question_id": 9001},
    ]
    notes = [
        {
            "question_id": number,
            "image_id": 9,
            "answer_type": kind,
            "question_type": "what",
            "multiple_choice_answer": said[0],
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(said, 1)],
        }
        for number, kind, said in ((9001, "yes/no", ["yes"] * 10), (9000, "other", ["red"] * 7 + ["pink"] * 3))
    ]
    picture(tmp_path / "val2014" / "COCO_val2014_000000000009.jpg")
    write(
        tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json",
        {"data_subtype": "val2014", "questions": questions},
    )
    write(tmp_path / "v2_mscoco_val2014_annotations.json", {"data_subtype": "val2014", "annotations": notes})
    return tmp_path


def test_vqa_v2_is_read_with_the_annotations_beside_it(v2):
    data = open_questions(v2 / "v2_OpenEnded_mscoco_val2014_questions.json")
    assert isinstance(data, VqaV2)
    assert len(data) == 2
    sample = data[0]
    assert sample.texts == ("What colour is it?",)
    assert sample.images[0].size == (8, 6)
    assert sample.target["answers"] == pytest.approx({"red": 0.7, "pink": 0.3})
    assert sample.target["human_answers"] == ["red"] * 7 + ["pink"] * 3
    assert (sample.target["kind"], sample.target["question_id"]) == ("other", 9000)
    assert data[1].target["kind"] == "yes_no"
    assert "question 2" in data.where(1)


def test_a_test_set_has_questions_only(v2):
    path = v2 / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    write(path, {"data_subtype": "test-dev2015", "questions": [{"image_id": 1, "question": "Why?", "question_id": 5}]})
    picture(v2 / "test2015" / "COCO_test2015_000000000001.jpg")
    assert open_questions(path)[0].target == {"question_id": 5}


def test_annotations_of_another_subset_are_refused(v2):
    notes = v2 / "v2_mscoco_val2014_annotations.json"
    content = json.loads(notes.read_text())
    content["annotations"].pop()
    write(notes, content)
    with pytest.raises(DataError, match=r"no annotation of question 9000 \(1 in all\)"):
        open_questions(v2 / "v2_OpenEnded_mscoco_val2014_questions.json")


def test_a_missing_image_or_field_names_the_question(v2):
    path = v2 / "v2_OpenEnded_mscoco_val2014_questions.json"
    write(path, {"data_subtype": "val2014", "questions": [{"image_id": 9, "question_id": 9000}, {"question": "Who?"}]})
    data = VqaV2(path)
    with pytest.raises(DataError, match=r"question 1.*'question': missing"):
        data[0]
    with pytest.raises(DataError, match=r"question 2.*'image_id': missing"):
        data[1]
    write(path, {"data_subtype": "val2014", "questions": [{"image_id": 8, "question": "Who?", "question_id": 1}]})
    with pytest.raises(DataError, match=r"COCO_val2014_000000000008\.jpg"):
        VqaV2(path)[0]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("question_id", [1], r"is \[1\]"),
        ("question_id", 9001.5, "is 9001.5. Give a whole number"),
        ("image_id", 1.5, "is 1.5. Give a whole number"),
        ("image_id", "9", "is '9'"),
    ],
)
def test_a_number_that_is_none_breaks_one_question(v2, field, value, told):
    path = v2 / "v2_OpenEnded_mscoco_val2014_questions.json"
    content = json.loads(path.read_text())
    content["questions"][1][field] = value
    if value == 9001.5:
        notes = json.loads((v2 / "v2_mscoco_val2014_annotations.json").read_text())
        notes["annotations"][0]["question_id"] = value
        write(v2 / "v2_mscoco_val2014_annotations.json", notes)
    data = open_questions(write(path, content))
    assert data[0].target["question_id"] == 9000
    with pytest.raises(DataError, match=f"question 2, field '{field}': {told}"):
        data[1]


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ([1], "annotation 1: is 1, not an object"),
        ([{"question_id": [1]}], r"annotation 1, field 'question_id': is \[1\]"),
        ([{"answers": []}], "annotation 1, field 'question_id': missing"),
    ],
)
def test_annotations_that_are_none_are_refused(v2, notes, told):
    write(v2 / "v2_mscoco_val2014_annotations.json", {"annotations": notes})
    with pytest.raises(DataError, match=rf"v2_mscoco_val2014_annotations.json, {told}"):
        open_questions(v2 / "v2_OpenEnded_mscoco_val2014_questions.json")


def test_an_empty_answer_asks_for_a_text(v2):
    path = v2 / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["answers"][2]["answer"] = ""
    write(path, content)
    data = open_questions(v2 / "v2_OpenEnded_mscoco_val2014_questions.json")
    with pytest.raises(DataError, match=r"'answers\[2\]': is empty. Give a text, or remove"):
        data[1]


def test_agreement_is_the_share_of_the_people():
    assert agreement(["a", "b", "a", "a"]) == {"a": 0.75, "b": 0.25}


def test_albefs_questions(tmp_path):
    picture(tmp_path / "coco" / "a.jpg")
    picture(tmp_path / "vg" / "b.jpg")
    records = [
        {"dataset": "vqa", "image": "a.jpg", "question": "Who?", "question_id": 3, "answer": ["me", "me", "you"]},
        {"dataset": "vg", "image": "b.jpg", "question": "What?", "answer": "a boat"},
        {"dataset": "vqa", "image": "a.jpg", "question": "When?", "question_id": 4},
        {"dataset": "vqa", "image": "a.jpg", "question": "Why?", "answer": 7},
    ]
    path = write(tmp_path / "q.json", records)
    data = open_questions(path, tmp_path / "coco", tmp_path / "vg")
    assert isinstance(data, AlbefVqa)
    assert data[0].target["answers"] == pytest.approx({"me": 2 / 3, "you": 1 / 3})
    assert data[0].target["human_answers"] == ["me", "me", "you"]
    assert data[1].target == {"answers": {"a boat": 0.5}}
    assert data[2].target == {"question_id": 4}
    with pytest.raises(DataError, match="record 4, field 'answer'"):
        data[3]
    with pytest.raises(DataError, match="is empty"):
        AlbefVqa(write(tmp_path / "none.json", []))


def test_candidate_answers(tmp_path):
    assert read_answers(write(tmp_path / "a.json", ["yes", "no"])) == ("yes", "no")
    with pytest.raises(DataError, match="no list of answers"):
        read_answers(write(tmp_path / "b.json", {"yes": 1}))


@pytest.fixture
def rooms(tmp_path):
    for number in (3, 10):
        picture(tmp_path / f"image{number}.jpg")
    lines = [
        "what is on the desk in the image3 ?", "book, tape_dispenser",
        "how many chairs are on the image10 ?", "2",
        "what is left of image3 ?", "book,tape_dispenser",
        "what is this ?", "table",
        "what is red in the image3 ?",
    ]  # fmt: skip
    path = tmp_path / "qa.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_daquar(rooms):
    data = Daquar(rooms, rooms.parent)
    assert len(data) == 5
    assert data[0].texts == ("what is on the desk in the image ?",)
    assert data[0].target == {"answers": {"book, tape dispenser": 1.0}}
    assert data[1].texts == ("how many chairs are on the image ?",)
    assert data.answers() == ("book, tape dispenser", "2", "table")
    with pytest.raises(DataError, match="line 7, field 'question': names no image"):
        data[3]
    with pytest.raises(DataError, match="line 9, field 'answer'"):
        data[4]


def test_daquars_words_by_photo_need_no_photo(rooms):
    lines = "what is in image3 ?\nchair\nhow many lamps are in image4 ?\n2\nwhat is left of it in image3 ?\na_bed, sofa"
    rooms.write_text(lines)
    data = Daquar(rooms, rooms.parent, "train", suffix=".png")
    assert data.photos() == {"image3.png": [0, 2], "image4.png": [1]}
    assert data.words(2) == ("image3.png", "what is left of it in image ?", "a bed, sofa")
    rooms.write_text(f"{lines}\nwhat is this ?\nsofa")
    with pytest.raises(DataError, match="line 7, field 'question': names no image"):
        Daquar(rooms, rooms.parent, "train").photos()


def test_daquars_number_beyond_numbers_names_no_image(rooms):
    rooms.write_text(f"what is in image{'1' * 5000} ?\nchair\n{rooms.read_text()}")
    assert len(Daquar(rooms, rooms.parent, "val")) == 1
    with pytest.raises(DataError, match="line 1, field 'question': names no image"):
        Daquar(rooms, rooms.parent)[0]


def test_each_format_is_recognised(v2, rooms):
    assert isinstance(open_source(str(v2 / "v2_OpenEnded_mscoco_val2014_questions.json")), VqaV2)
    assert isinstance(open_source(str(write(v2 / "q.json", [{"question": "Who?", "image": "a.jpg"}]))), AlbefVqa)
    assert len(open_source(f"{rooms}#val")) == 1
    assert isinstance(open_source(str(rooms), rooms.parent), Daquar)


def test_daquar_holds_out_photos(rooms):
    train, val = Daquar(rooms, rooms.parent, "train"), Daquar(rooms, rooms.parent, "val")
    assert len(train) + len(val) == 5
    assert [val[i].texts[0] for i in range(len(val))] == ["how many chairs are on the image ?"]
    with pytest.raises(UsageError, match="part='test'"):
        Daquar(rooms, rooms.parent, "test")


def test_a_flip_exchanges_left_and_right_in_the_answers_too():
    picture = Image.new("RGB", (8, 8))
    sample = Sample(
        "a", (picture,), ("which side?",), target={"answers": {"left": 0.7, "the right one": 0.3}, "kind": "x"}
    )
    flipped = TrainTransform(8, flip=1.0, randaugment=None)(sample, np.random.default_rng(0))
    assert flipped.target == {"answers": {"right": 0.7, "the left one": 0.3}, "kind": "x"}
    straight = TrainTransform(8, flip=0.0, randaugment=None)(sample, np.random.default_rng(0))
    assert straight.target == sample.target
