"""Compositional test sets in the formats in which they are published, written here by hand."""

import json
import tarfile

import pytest
from PIL import Image

from wordregion.data.datasets.compositional import Contests, open_contests
from wordregion.errors import DataError, UsageError


def photo(folder, name, size=(40, 20), colour=(200, 0, 0)):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def only(dataset):
    assert len(dataset) == 1
    return dataset[0]


def test_sugar_crepe_a_folder_of_kinds(tmp_path):
    for kind in ("swap_att", "add_obj"):
        case = {"filename": "1.png", "caption": f"a true {kind}", "negative_caption": f"a false {kind}"}
        write(tmp_path / "set" / f"{kind}.json", {"0": case, "3": {**case, "filename": "2.png"}})
    photo(tmp_path / "photos", "1.png")
    data = open_contests(str(tmp_path / "set"), tmp_path / "photos", available=True)
    assert (len(data), data.left_out) == (2, 2)
    sample = data[1]
    assert sample.id == "swap_att-0"
    assert sample.texts == ("a true swap_att", "a false swap_att")
    assert [(g.text, g.image) for g in sample.groundings] == [(0, 0)]
    assert sample.target == {"kind": "swap_att", "group": None}
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "photos", arcname="val2017")  # a name may leave out the tar's one folder
    packed = open_contests(str(tmp_path / "set"), tmp_path / "photos.tar", available=True)
    assert (len(packed), packed.left_out) == (2, 2)
    assert packed[1].images == sample.images
    everything = open_contests(str(tmp_path / "set"), tmp_path / "photos")
    assert len(everything) == 4
    with pytest.raises(DataError, match=r"no image '2.png'"):
        everything[1]


def test_winoground_two_pictures_and_two_texts(tmp_path):
    record = {
        "id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "some plants in a bag",
        "caption_1": "a bag in some plants", "tag": "Adjective-Age", "collapsed_tag": "Object", "num_main_preds": 1,
    }  # fmt: skip
    (tmp_path / "examples.jsonl").write_text(json.dumps(record) + "\n")
    photo(tmp_path / "images", "ex_0_img_0.png", colour=(1, 0, 0))
    photo(tmp_path / "images", "ex_0_img_1.png", colour=(2, 0, 0))
    sample = only(Contests(tmp_path / "examples.jsonl"))
    assert [image.getpixel((0, 0))[0] for image in sample.images] == [1, 2]
    assert [(g.text, g.image) for g in sample.groundings] == [(0, 0), (1, 1)]
    assert sample.target["kind"] == "Object"


def test_aro_pairs_look_at_the_box_only(tmp_path):
    record = {
        "image_id": 1, "image_path": "1.png", "bbox_x": 30, "bbox_y": 5, "bbox_w": 20, "bbox_h": 10,
        "true_caption": "the dog is behind the cat", "false_caption": "the cat is behind the dog",
        "relation_name": "behind",
    }  # fmt: skip
    photo(tmp_path / "images", "1.png")
    sample = only(Contests(write(tmp_path / "visual_genome_relation.json", [record])))
    assert sample.images[0].size == (10, 10)  # what sticks out is cut off
    assert sample.texts == ("the dog is behind the cat", "the cat is behind the dog")
    assert sample.target == {"kind": "visual_genome_relation", "group": "behind"}
    del record["relation_name"]
    record |= {"attributes": ["old", "wet"]}
    assert only(Contests(write(tmp_path / "vga.json", [record]))).target["group"] == "old_wet"
    record |= {"bbox_x": 90}
    with pytest.raises(DataError, match="outside of the picture"):
        only(Contests(write(tmp_path / "vga.json", [record])))


@pytest.mark.parametrize(("field", "value"), [("attributes", 5), ("relation_name", ["on"]), ("bbox_x", 10**400)])
def test_aro_fields_of_another_type_name_the_record(tmp_path, field, value):
    record = {
        "image_path": "1.png", "bbox_x": 3, "bbox_y": 5, "bbox_w": 2, "bbox_h": 1, "true_caption": "a dog",
        "false_caption": "a cat", field: value,
    }  # fmt: skip
    with pytest.raises(DataError, match=rf"bad.json, record 0, field '{field}': is "):
        Contests(write(tmp_path / "bad.json", [record]))


def test_aro_orders_have_several_false_texts(tmp_path):
    photo(tmp_path, "1.png")
    record = {"image": "1.png", "caption_options": ["a red dog", "dog a red", "red a dog"]}
    sample = only(Contests(write(tmp_path / "coco_order.json", [record])))
    assert sample.texts == ("a red dog", "dog a red", "red a dog")
    with pytest.raises(DataError, match="caption_options"):
        Contests(write(tmp_path / "bad.json", [{"image": "1.png", "caption_options": ["one"]}]))


def test_valse_counts_cases_that_two_of_three_confirmed(tmp_path):
    case = {"image_file": "1.png", "caption": "a man runs", "foil": "a man sits", "linguistic_phenomena": "actions"}
    cases = {f"actions_test_{votes}": case | {"mturk": {"caption": votes, "foil": 3 - votes}} for votes in range(4)}
    photo(tmp_path / "images", "1.png")
    data = Contests(write(tmp_path / "action-replacement.json", cases))
    assert [data.where(i).rpartition("_")[2] for i in range(len(data))] == ["2", "3"]
    assert data[0].texts == ("a man runs", "a man sits")
    assert data[0].target["kind"] == "action-replacement"


def test_vl_checklist_takes_the_first_of_each_side_and_names_kinds_by_folder(tmp_path):
    photo(tmp_path / "photos", "vg/1.png")
    record = ["vg/1.png", {"POS": ["a red car", "not this"], "NEG": ["a blue car", "nor this"]}]
    write(tmp_path / "data" / "Attribute" / "vg" / "color.json", [record])
    write(tmp_path / "data" / "Attribute" / "vaw" / "color.json", [record])
    data = Contests(tmp_path / "data", tmp_path / "photos")
    assert {data[i].target["kind"] for i in range(2)} == {"Attribute_vg_color", "Attribute_vaw_color"}
    assert data[0].texts == ("a red car", "a blue car")
    with pytest.raises(DataError, match="'NEG'"):
        Contests(write(tmp_path / "bad.json", [["vg/1.png", {"POS": ["x"], "NEG": []}]]), tmp_path / "photos")


def test_the_built_in_set_and_what_is_not_there():
    assert {open_contests("scenes")[i].target["kind"] for i in range(2)} == {"attribute", "relation"}
    with pytest.raises(UsageError, match="SugarCrepe"):
        open_contests("nowhere")


def test_unknown_formats_and_broken_records_name_the_record(tmp_path):
    with pytest.raises(DataError, match="known formats"):
        Contests(write(tmp_path / "x.json", [{"caption": "a dog"}]), tmp_path)
    with pytest.raises(DataError, match=r"record 7.*negative_caption"):
        Contests(
            write(tmp_path / "x.json", {"7": {"filename": "a", "caption": "b", "negative_caption": None}}), tmp_path
        )
    with pytest.raises(DataError, match="no case"):
        Contests(write(tmp_path / "x.json", []), tmp_path)
