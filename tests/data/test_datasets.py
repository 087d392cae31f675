"""Adapters: published formats to samples."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wordregion.data.check import verify
from wordregion.data.datasets import (
    AlbefJson,
    CocoCaptions,
    CocoInstances,
    Flickr30kEntities,
    ImageText,
    open_source,
)
from wordregion.data.datasets.flickr import parse_boxes, parse_sentence
from wordregion.data.scenes import Scenes
from wordregion.data.sources import Jsonl, Tar
from wordregion.schema import Grounding

SENTENCES = (
    "[/EN#1/people/x A boy] and [/EN#2/people his mother] look at [/EN#0/notvisual it] in [/EN#3/scene the park] .\n"
    "[/EN#4/people Two people] .\n"
)
XML = """<annotation><filename>11.jpg</filename><size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>1</name><name>4</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>100</ymax></bndbox></object>
<object><name>2</name><name>4</name><bndbox><xmin>101</xmin><ymin>51</ymin><xmax>200</xmax><ymax>100</ymax></bndbox>
</object><object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""
BOY, MOTHER = (0.0, 0.0, 0.25, 1.0), (0.5, 0.5, 1.0, 1.0)


def jpeg(colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(out, "JPEG")
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))


def write_coco(folder: Path) -> None:
    notes = folder / "annotations"
    notes.mkdir()
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (5, 6)]
    captions = [{"id": i, "image_id": (6, 5, 5)[i], "caption": f"caption {i} \n"} for i in range(3)]
    boxes = [
        {"id": 0, "image_id": 5, "category_id": 2, "bbox": [10, 15, 20, 15], "iscrowd": 0},
        {"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 40.5, 30], "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 2, "bbox": [0, 0, 10, 15], "iscrowd": 0},
        {"id": 3, "image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 15], "iscrowd": 1},
    ]
    kinds = [{"id": 1, "name": "dog"}, {"id": 2, "name": "traffic light"}]
    (notes / "captions_val2017.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (notes / "instances_val2017.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": kinds})
    )
    write_tar(folder / "val2017.tar", {"val2017/5.jpg": jpeg(), "val2017/6.jpg": jpeg("blue")})


def write_flickr(root: Path, layout: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "val.txt").write_text("11\n")
    files = {"Annotations/11.xml": XML.encode(), "Sentences/11.txt": SENTENCES.encode(), "Sentences/12.txt": b"x"}
    if layout == "tar":
        write_tar(root / "annotations_val.tar.gz", files, "w:gz")
        write_tar(root / "images_val.tar", {"11.jpg": jpeg()})
        return
    for name, data in {**files, "flickr30k-images/11.jpg": jpeg()}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)


def test_albef_json(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(jpeg())
    records: list[Any] = [
        {"image": "images/a.jpg", "caption": "one", "image_id": 3},
        {"image": "images/a.jpg", "caption": ["two", " three"]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(records))
    data = open_source(str(tmp_path / "train.json"))
    assert isinstance(data, AlbefJson)
    assert [s.texts for s in data] == [("one",), ("two", "three")]  # type: ignore[attr-defined]
    assert data[1].groundings == (Grounding(text=0), Grounding(text=1))
    assert data[1].captions() == (0, 1)
    assert data[1].id == "train-2"
    assert data.where(1) == f"{tmp_path}/train.json, record 2"


def test_coco_captions_finds_its_photos(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = open_source(f"{tmp_path}/annotations/captions_val2017.json")
    assert isinstance(data, CocoCaptions)
    assert [(data[i].id, data[i].texts) for i in range(2)] == [("5", ("caption 1", "caption 2")), ("6", ("caption 0",))]
    assert data[1].images[0].getpixel((3, 3))[2] > 200  # type: ignore[union-attr, index]
    assert data.where(1).endswith("captions_val2017.json, image 2 (id 6)")


def test_coco_instances_boxes_by_name(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = open_source(f"{tmp_path}/annotations/instances_val2017.json")
    assert isinstance(data, CocoInstances)
    assert data.categories == {1: "dog", 2: "traffic light"}
    sample = data[0]
    assert sample.texts == ("traffic light", "dog")
    assert sample.groundings == (
        Grounding(text=0, boxes=((0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.25, 0.5))),
        Grounding(text=1, boxes=((0.0, 0.0, 1.0, 1.0),)),  # half a pixel outside is cut off; the crowd is left out
    )
    assert sample.captions() == ()
    assert data[1].texts == ()


@pytest.mark.parametrize("layout", ["tar", "folders"])
def test_flickr30k_entities(tmp_path: Path, layout: str) -> None:
    write_flickr(tmp_path / "flickr", layout)
    data = open_source(f"{tmp_path}/flickr#val")
    assert isinstance(data, Flickr30kEntities)
    assert len(data) == 1
    sample = data[0]
    verify(sample, "here")
    assert sample.id == "11"
    assert sample.texts == ("A boy and his mother look at it in the park .", "Two people .")
    assert sample.groundings == (
        Grounding(text=0),
        Grounding(text=0, span=(0, 5), boxes=(BOY,)),
        Grounding(text=0, span=(10, 20), boxes=(MOTHER,)),
        Grounding(text=1),
        Grounding(text=1, span=(0, 10), boxes=(BOY, MOTHER)),
    )
    assert sample.images[0].size == (40, 30)  # type: ignore[union-attr]
    assert data.where(0) == f"{tmp_path}/flickr/val.txt, line 1 (photo 11)"


def test_flickr_photos_elsewhere(tmp_path: Path) -> None:
    write_flickr(tmp_path / "flickr", "folders")
    (tmp_path / "flickr/flickr30k-images").rename(tmp_path / "photos")
    assert open_source(f"{tmp_path}/flickr#val", tmp_path / "photos")[0].id == "11"


def test_sentence_spans_hold_the_phrases() -> None:
    text, phrases = parse_sentence("  é [/EN#12/a/b big dog] [/EN#3/x ran]. \r", "here")
    assert text == "é big dog ran."
    assert [(text[begin:end], chain) for begin, end, chain in phrases] == [("big dog", "12"), ("ran", "3")]
    assert parse_sentence("no marks [sic] .", "here") == ("no marks [sic] .", [])


def test_xml_pixels_count_from_one() -> None:
    assert parse_boxes(XML.encode(), "here") == {"1": (BOY,), "2": (MOTHER,), "3": (), "4": (BOY, MOTHER)}


def test_pairs_from_every_source_are_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "a.jsonl").write_text('{"image": "a.jpg", "caption": "a red square", "id": 7}\n')
    write_tar(tmp_path / "a.tar", {"7.jpg": jpeg(), "7.txt": b"a red square\n"})
    for name, image in (("bytes", jpeg()), ("path", "a.jpg"), ("struct", {"bytes": jpeg(), "path": None})):
        pq.write_table(pa.table({"image": [image], "caption": ["a red square"]}), tmp_path / f"{name}.parquet")
    for spec in ("a.jsonl", "a.tar", "*.tar", "bytes.parquet", "path.parquet", "struct.parquet"):
        sample = open_source(f"{tmp_path}/{spec}")[0]
        assert sample.texts == ("a red square",)
        assert sample.groundings == (Grounding(text=0),)
        assert np.abs(np.asarray(sample.images[0], dtype=int) - (254, 0, 0)).max() <= 1
        assert sample.id == ("7" if spec[-5:] != "rquet" else f"{tmp_path}/{spec}, row 1")


def test_pairs_with_named_fields_and_image_tar(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "wrong", "picture": "a.jpg", "caption": "wrong", "alt": ["x", "y"]}\n')
    write_tar(tmp_path / "images.tar", {"a.jpg": jpeg()})
    data = ImageText(Jsonl(tmp_path / "a.jsonl"), tmp_path / "images.tar", image="picture", caption="alt")
    assert data[0].texts == ("x", "y")
    assert data[0].id == f"{tmp_path}/a.jsonl, line 1"


def test_tar_without_text_takes_the_caption_of_its_json(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.jpg": jpeg(), "0.json": b'{"caption": "from json"}'})
    assert ImageText(Tar(tmp_path / "a.tar"))[0].texts == ("from json",)


def test_open_source_knows_scenes_folders_and_file_names_with_marks(tmp_path: Path) -> None:
    scenes = open_source("scenes")
    assert isinstance(scenes, Scenes)
    write_tar(tmp_path / "0.tar", {"0.jpg": jpeg(), "0.txt": b"zero"})
    assert open_source(str(tmp_path))[0].texts == ("zero",)
    (tmp_path / "a#b.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n')
    assert len(open_source(f"{tmp_path}/a#b.jsonl")) == 1
