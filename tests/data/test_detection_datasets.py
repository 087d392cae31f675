"""Adapters of detection and grounding sets: LVIS, Objects365, OpenImages, ODVG, MDETR; their broken records."""

import json
from pathlib import Path

import pytest

from tests.data.test_datasets import jpeg, write_tar
from wordregion.data.check import check, verify
from wordregion.data.datasets import CocoInstances, MdetrGrounding, Odvg, OpenImages, open_source
from wordregion.data.prompts import ABSENT
from wordregion.data.sources import Jsonl
from wordregion.errors import DataError, UsageError
from wordregion.schema import Grounding, Sample

CATEGORIES = [{"id": 1, "name": "cup"}, {"id": 2, "name": "bow_(decorative_ribbons)"}, {"id": 7, "name": "dog"}]
HALF, FULL = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0)


def photo(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(jpeg())


def instances(folder: Path, image: dict, *notes: dict) -> Path:
    image = {"id": 5, "width": 40, "height": 30, **image}
    annotations = [
        {"id": i, "image_id": 5, "iscrowd": 0, "bbox": [0, 0, 20, 30], **note} for i, note in enumerate(notes)
    ]
    path = folder / "instances_val.json"
    path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": CATEGORIES}))
    return path


def lines(folder: Path, *records: dict, name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def odvg(**part: object) -> dict:
    return {"filename": "a.jpg", "width": 40, "height": 30, **part}


def read(path: Path | str) -> Sample:
    dataset = open_source(str(path))
    verify(dataset[0], "here")
    return dataset[0]


def test_coco_asks_in_vain_for_what_has_no_box_not_even_a_crowd(tmp_path: Path) -> None:
    photo(tmp_path, "a.jpg")
    path = instances(tmp_path, {"file_name": "a.jpg"}, {"category_id": 1}, {"category_id": 7, "iscrowd": 1})
    sample = read(path)
    assert sample.texts == ("cup",)
    assert sample.groundings == (Grounding(text=0, boxes=(HALF,)),)
    assert sample.target[ABSENT] == ("bow_(decorative_ribbons)",)


def test_lvis_asks_in_vain_for_verified_classes_alone_and_names_photos_by_address(tmp_path: Path) -> None:
    photo(tmp_path, "val2017/000005.jpg")
    image = {"coco_url": "http://images.example.org/val2017/000005.jpg", "neg_category_ids": [7]}
    path = instances(tmp_path, image, {"category_id": 2})
    sample = CocoInstances(path, tmp_path)[0]
    assert sample.texts == ("bow_(decorative_ribbons)",)
    assert sample.target[ABSENT] == ("dog",)
    path = instances(tmp_path, image | {"neg_category_ids": [3]}, {"category_id": 2})
    with pytest.raises(DataError, match=r"neg_category_ids.*\[3\]"):
        CocoInstances(path, tmp_path)[0]


def test_odvg_detection(tmp_path: Path) -> None:
    photo(tmp_path, "a.jpg")
    (tmp_path / "set_label_map.json").write_text(json.dumps({"0": "cup", "1": "dog"}))
    found = [{"bbox": [0, 0, 20, 30], "category": "dog"}, {"bbox": [0, 0, 40, 30], "label": 1}]
    sample = read(lines(tmp_path, odvg(detection={"instances": found}), odvg(detection={"instances": []})))
    assert sample.texts == ("dog",)
    assert sample.groundings == (Grounding(text=0, boxes=(HALF, FULL)),)
    assert sample.target[ABSENT] == ("cup", "dog")
    assert open_source(str(tmp_path / "set.jsonl"))[1].texts == ()


def test_odvg_grounding_by_phrase_or_by_characters(tmp_path: Path) -> None:
    photo(tmp_path, "a.jpg")
    caption = "An android and a Man on a man"
    regions = [
        {"bbox": [0, 0, 20, 30], "phrase": "a man"},
        {"bbox": [[0, 0, 20, 30], [0, 0, 40, 30]], "tokens_positive": [[0, 10], [24, 29]], "score": 0.4},
    ]
    path = lines(tmp_path, odvg(grounding={"caption": caption, "regions": regions}))
    sample = read(path)
    assert sample.texts == (caption,)
    assert [caption[slice(*g.span)] for g in sample.groundings if g.span] == ["a Man", "An android", "a man"]
    assert [g.boxes for g in sample.groundings] == [(), (HALF,), (HALF, FULL), (HALF, FULL)]
    assert sample.target["scores"] == (1.0, 0.4, 0.4)
    assert len(Odvg(Jsonl(path), least_score=0.5)[0].groundings) == 2


def test_odvg_in_tar_shards_holds_its_pictures(tmp_path: Path) -> None:
    record = {"width": 40, "height": 30, "grounding": {"caption": "a dog", "regions": []}}
    write_tar(tmp_path / "0.tar", {"7.jpg": jpeg(), "7.json": json.dumps(record).encode()})
    sample = read(tmp_path / "0.tar")
    assert (sample.id, sample.texts, sample.groundings) == ("7", ("a dog",), (Grounding(text=0),))
    assert read(tmp_path).id == "7"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (odvg(), "neither detection nor grounding"),
        (odvg(grounding={"caption": "a dog", "regions": [{"bbox": [0, 0, 9, 9], "phrase": "cat"}]}), "does not occur"),
        (odvg(grounding={"caption": "a dog", "regions": [{"bbox": [0, 0, 9], "phrase": "dog"}]}), "Give 4 numbers"),
        (odvg(grounding={"caption": "a", "regions": [{"bbox": [0, 0, 9, 9], "tokens_positive": [[0, 2]]}]}), "no part"),
        (odvg(grounding={"caption": " ", "regions": []}), "is empty"),
        (odvg(grounding={"caption": "a dog"}), "no such list"),
        (odvg(detection={"instances": [{"bbox": [0, 0, 9, 9], "label": 4}]}), "category"),
        (odvg(detection={"instances": [{"bbox": [0, 0, 90, 9], "category": "dog"}]}), "outside of the 40 x 30"),
        (odvg(detection={"instances": []}, width=0), "width"),
    ],
)
def test_a_broken_odvg_line_names_itself(tmp_path: Path, record: dict, message: str) -> None:
    photo(tmp_path, "a.jpg")
    whole = odvg(detection={"instances": []})
    report = check(open_source(str(lines(tmp_path, whole, record))))
    assert report.counts["broken"] == 1
    assert message in str(report.problems[0])
    assert "line 2" in str(report.problems[0])


def test_mdetr_spans_gather_their_boxes(tmp_path: Path) -> None:
    photo(tmp_path, "a.jpg")
    image = {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30, "caption": "a dog and a cup"}
    notes = [
        {"id": 0, "image_id": 5, "bbox": [0, 0, 20, 30], "tokens_positive": [[0, 5]]},
        {"id": 1, "image_id": 5, "bbox": [0, 0, 40, 30], "tokens_positive": [[0, 5], [10, 15]]},
    ]
    path = tmp_path / "final_mixed_train.json"
    path.write_text(json.dumps({"images": [image], "annotations": notes, "categories": []}))
    sample = read(path)
    assert isinstance(open_source(str(path)), MdetrGrounding)
    assert sample.groundings == (
        Grounding(text=0),
        Grounding(text=0, span=(0, 5), boxes=(HALF, FULL)),
        Grounding(text=0, span=(10, 15), boxes=(FULL,)),
    )
    notes[0]["tokens_positive"] = [[0, 99]]
    path.write_text(json.dumps({"images": [image], "annotations": notes, "categories": []}))
    with pytest.raises(DataError, match=r"annotation 1 .*tokens_positive"):
        MdetrGrounding(path)[0]


def test_open_images(tmp_path: Path) -> None:
    photo(tmp_path, "train/0a.jpg")
    (tmp_path / "class-descriptions-boxable.csv").write_text('/m/1,Cup\n/m/2,"Dog, small"\n/m/3,Owl\n')
    columns = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    rows = ["0a,x,/m/2,1,0,0.5,0,1,0,0,0", "0a,x,/m/1,1,0,1,0,1,0,0,1"]
    boxes = tmp_path / "train-annotations-bbox.csv"
    boxes.write_text("\n".join([columns, *rows]) + "\n")
    sample = read(f"{tmp_path}#train")
    assert (sample.id, sample.texts, sample.target[ABSENT]) == ("0a", ("Dog, small",), ())
    assert sample.groundings == (Grounding(text=0, boxes=(HALF,)),)
    labels = "ImageID,Source,LabelName,Confidence\n0a,verification,/m/3,0\n0a,verification,/m/2,1\n"
    (tmp_path / "train-annotations-human-imagelabels-boxable.csv").write_text(labels)
    assert read(tmp_path).target[ABSENT] == ("Owl",)
    boxes.write_text("\n".join([columns, rows[0].replace("0.5", "1.5")]) + "\n")
    with pytest.raises(DataError, match=r"line 2.*not in \[0, 1\]"):
        OpenImages(tmp_path)[0]
    boxes.write_text("\n".join([columns, rows[0].replace("/m/2", "/m/9")]) + "\n")
    with pytest.raises(DataError, match="'/m/9' is no class"):
        OpenImages(tmp_path)[0]
    boxes.write_text("ImageID,LabelName\n")
    with pytest.raises(DataError, match="XMin"):
        OpenImages(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        OpenImages(tmp_path, "test")


def test_a_part_of_a_source_is_named_as_in_python(tmp_path: Path) -> None:
    photo(tmp_path, "a.jpg")
    path = lines(tmp_path, *(odvg(detection={"instances": []}, id=i) for i in range(5)))

    def ids(part: str) -> list[str]:
        dataset = open_source(f"{path}{part}")
        return [dataset[i].id for i in range(len(dataset))]

    assert ids("[0::2]") == ["0", "2", "4"]
    assert ids("[1::2]") == ["1", "3"]
    assert ids("[:2]") == ["0", "1"]
    assert ids("[-1:]") == ["4"]
    assert open_source(f"{path}[1::2]").name == f"{path}[1::2]"
    assert "line 4" in open_source(f"{path}[1::2]").where(1)
    with pytest.raises(UsageError, match="no record is left"):
        open_source(f"{path}[9:]")
    with pytest.raises(UsageError, match="step of 0"):
        open_source(f"{path}[::0]")
