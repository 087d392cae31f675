"""Broken inputs: each is one clear line that names file, place, field and remedy, and no other exception escapes."""

import io
import json
import os
import pickle
import signal
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wordregion.data.check import check, contact_sheet
from wordregion.data.datasets import Flickr30kEntities, ImageText, open_source
from wordregion.data.datasets.nlvr2 import kind_of_statements
from wordregion.data.datasets.snli_ve import is_snli_ve
from wordregion.data.files import index_tar
from wordregion.data.images import ImageStore, decode
from wordregion.data.sources import HFDataset, Jsonl
from wordregion.errors import DataError, UsageError, WordregionError

GOOD = '{"image": "good.jpg", "caption": "a dog"}'
XML = (
    "<annotation><size><width>{width}</width><height>100</height></size><object><name>7</name><bndbox>"
    "<xmin>{xmin}</xmin><ymin>1</ymin><xmax>{xmax}</xmax><ymax>50</ymax></bndbox></object></annotation>"
)


def jpeg(size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def jsonl(folder: Path, line: str | bytes) -> None:
    """The line in question is the third of four; the second is empty."""
    (folder / "good.jpg").write_bytes(jpeg())
    data = line.encode() if isinstance(line, str) else line
    (folder / "bad.jsonl").write_bytes(GOOD.encode() + b"\n\n" + data + b"\n" + GOOD.encode() + b"\n")


def picture(folder: Path, data: bytes) -> None:
    (folder / "bad.jpg").write_bytes(data)
    jsonl(folder, '{"image": "bad.jpg", "caption": "a dog"}')


def saved(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, **options)  # type: ignore[arg-type]
    return out.getvalue()


def coco(folder: Path, kind: str, **changes: object) -> None:
    (folder / "good.jpg").write_bytes(jpeg())
    images = [{"id": 5, "file_name": "good.jpg", "width": 40, "height": 30}]
    notes = [{"id": 8, "image_id": 5, "caption": "a dog", "bbox": [1, 2, 10, 20], "category_id": 3}]
    content = {"images": images, "annotations": notes, "categories": [{"id": 3, "name": "dog"}]}
    for key, value in changes.items():
        target = content if key in content else images[0] if key in images[0] else notes[0]
        if value is None:
            del target[key]  # type: ignore[arg-type]
        else:
            target[key] = value  # type: ignore[index, call-overload]
    if kind == "captions":
        for note in content.get("annotations", []):
            note.pop("bbox", None)
    else:
        for note in content.get("annotations", []):
            note.pop("caption", None)
    (folder / f"{kind}.json").write_text(json.dumps(content))


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as out:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))


def cut_tar(folder: Path) -> None:
    tar(folder / "bad.tar", {"a.jpg": jpeg(), "a.txt": b"a dog", "b.jpg": jpeg(), "b.txt": b"a cat"})
    data = (folder / "bad.tar").read_bytes()
    (folder / "bad.tar").write_bytes(data[: len(jpeg()) + 2500])


def tail(folder: Path, change: Callable[[bytes, int], bytes]) -> None:
    """A tar of one pair whose bytes are changed; told where the zeros at its end begin."""
    tar(folder / "bad.tar", {"a.jpg": jpeg(), "a.txt": b"a dog"})
    data = (folder / "bad.tar").read_bytes()
    (folder / "bad.tar").write_bytes(change(data, -(-len(data.rstrip(b"\0")) // 512) * 512))


def csv_boxes(folder: Path, boxes: bytes, classes: bytes = b"/m/1,Dog\n") -> None:
    (folder / "class-descriptions-boxable.csv").write_bytes(classes)
    (folder / "train-annotations-bbox.csv").write_bytes(b"ImageID,LabelName,XMin,XMax,YMin,YMax\n" + boxes)
    (folder / "train").mkdir()


def saved_rows(folder: Path, **files: str) -> None:
    """A saved Hugging Face data set of one row; then some of its files are overwritten."""
    import datasets

    datasets.Dataset.from_dict({"image": ["good.jpg"], "caption": ["a dog"]}).save_to_disk(folder / "saved")
    for name, content in files.items():
        (folder / "saved" / f"{name}.json").write_text(content)


def parquet(folder: Path, columns: dict[str, list[object]]) -> None:
    pq.write_table(pa.table(columns), folder / "bad.parquet")


def flickr(folder: Path, xml: str | None = None, sentence: str | bytes = "[/EN#7/people A boy] runs .") -> None:
    for name in ("Annotations", "Sentences", "flickr30k-images"):
        (folder / name).mkdir()
    (folder / "train.txt").write_text("11\n")
    if xml != "":
        (folder / "Annotations/11.xml").write_text(xml or XML.format(width=100, xmin=1, xmax=50))
    data = sentence.encode() if isinstance(sentence, str) else sentence
    (folder / "Sentences/11.txt").write_bytes(b"A dog .\n" + data + b"\n")
    (folder / "flickr30k-images/11.jpg").write_bytes(jpeg())


def lines(*, image: object = "good.jpg", caption: object = "a dog") -> str:
    return json.dumps({"image": image, "caption": caption})


Case = tuple[str, Callable[[Path], object], str, tuple[str, ...]]
LINE = "bad.jsonl, line 3"
RECORDS: list[Case] = [
    # name, how to make it, what to open, what the one line must say
    ("truncated jpeg", lambda p: picture(p, jpeg()[:500]), "bad.jsonl", (LINE, "'image'", "damaged", "Replace")),
    ("empty image", lambda p: picture(p, b""), "bad.jsonl", (LINE, "'image'", "empty file", "Replace")),
    ("text named jpg", lambda p: picture(p, b"not found"), "bad.jsonl", (LINE, "'image'", "no picture", "Give one of")),
    (
        "too many pixels",
        lambda p: picture(p, saved(Image.new("1", (12000, 12000)), format="PNG")),
        "bad.jsonl",
        (LINE, "'image'", "pixels", "smaller"),
    ),
    (
        "huge bomb",
        lambda p: picture(p, saved(Image.new("1", (20000, 20000)), format="PNG")),
        "bad.jsonl",
        (LINE, "'image'", "pixels", "smaller"),
    ),
    (
        "float pixels",
        lambda p: picture(p, saved(Image.new("F", (9, 9)), format="TIFF")),
        "bad.jsonl",
        (LINE, "'image'", "float", "Replace"),
    ),
    (
        "broken png",
        lambda p: picture(p, saved(Image.new("RGB", (60, 60)), format="PNG")[:60]),
        "bad.jsonl",
        (LINE, "'image'", "damaged", "Replace"),
    ),
    (
        "image name with a line end and an escape",
        lambda p: jsonl(p, lines(image="a\n\x1b[2J.jpg")),
        "bad.jsonl",
        (LINE, "'image'", r"no image 'a\n\x1b[2J.jpg'", "point 'images' at"),
    ),
    (
        "missing image",
        lambda p: jsonl(p, lines(image="gone.jpg")),
        "bad.jsonl",
        (LINE, "'image'", "gone.jpg", "point 'images' at"),
    ),
    (
        "image is a folder",
        lambda p: jsonl(p, lines(image=".")),
        "bad.jsonl",
        (LINE, "'image'", "cannot read", "images"),
    ),
    (
        "image with a NUL",
        lambda p: jsonl(p, lines(image="a\0b")),
        "bad.jsonl",
        (LINE, "'image'", "cannot read", "images"),
    ),
    (
        "image name too long",
        lambda p: jsonl(p, lines(image="a" * 5000)),
        "bad.jsonl",
        (LINE, "'image'", "cannot read", "images"),
    ),
    ("image is a number", lambda p: jsonl(p, lines(image=3)), "bad.jsonl", (LINE, "'image'", "int 3", "Give a path")),
    (
        "bad JSON line",
        lambda p: jsonl(p, GOOD[:20]),
        "bad.jsonl",
        (LINE, "not JSON", "column 21", "one JSON object a line"),
    ),
    ("line is no object", lambda p: jsonl(p, "[1, 2]"), "bad.jsonl", (LINE, "list", "one JSON object a line")),
    ("deep JSON line", lambda p: jsonl(p, "[" * 100_000), "bad.jsonl", (LINE, "JSON", "one JSON object a line")),
    (
        "huge number",
        lambda p: jsonl(p, '{"id": ' + "9" * 5000 + "}"),
        "bad.jsonl",
        (LINE, "JSON", "one JSON object a line"),
    ),
    (
        "not UTF-8",
        lambda p: jsonl(p, b'{"image": "good.jpg", "caption": "caf\xe9"}'),
        "bad.jsonl",
        (LINE, "UTF-8", "Save"),
    ),
    (
        "no caption",
        lambda p: jsonl(p, '{"image": "good.jpg"}'),
        "bad.jsonl",
        (LINE, "'caption'", "missing (fields: image)", "Give"),
    ),
    ("no image", lambda p: jsonl(p, '{"caption": "a dog"}'), "bad.jsonl", (LINE, "'image'", "missing", "Give")),
    (
        "caption is a number",
        lambda p: jsonl(p, lines(caption=7)),
        "bad.jsonl",
        (LINE, "'caption'", "int 7", "Give a text"),
    ),
    (
        "caption in a list is null",
        lambda p: jsonl(p, lines(caption=["a", None])),
        "bad.jsonl",
        (LINE, "'caption[1]'", "NoneType", "Give"),
    ),
    (
        "empty caption",
        lambda p: jsonl(p, lines(caption="")),
        "bad.jsonl",
        (LINE, "'caption'", "empty", "remove the record"),
    ),
    (
        "blank caption",
        lambda p: jsonl(p, lines(caption=" \t ")),
        "bad.jsonl",
        (LINE, "'caption'", "empty", "remove the record"),
    ),
    (
        "empty list of captions",
        lambda p: jsonl(p, lines(caption=[])),
        "bad.jsonl",
        (LINE, "'caption'", "empty list", "Give"),
    ),
    (
        "half a character",
        lambda p: jsonl(p, lines(caption="a \ud800")),
        "bad.jsonl",
        (LINE, "'caption'", "half a character", "Unicode"),
    ),
    (
        "box with NaN",
        lambda p: coco(p, "instances", bbox=[1, 2, float("nan"), 4]),
        "instances.json",
        ("annotation 1 (id 8)", "'bbox'", "nan", "finite"),
    ),
    (
        "box with a number beyond floats",
        lambda p: coco(p, "instances", bbox=[10**400, 2, 3, 4]),
        "instances.json",
        ("annotation 1 (id 8)", "'bbox'", "100000", "finite"),
    ),
    (
        "box with negative width",
        lambda p: coco(p, "instances", bbox=[9, 2, -3, 4]),
        "instances.json",
        ("annotation 1", "'bbox'", "empty", "above 0"),
    ),
    (
        "box outside",
        lambda p: coco(p, "instances", bbox=[30, 2, 30, 4]),
        "instances.json",
        ("annotation 1", "'bbox'", "outside of the 40 x 30", "original image"),
    ),
    (
        "box in the slack only",
        lambda p: coco(p, "instances", bbox=[40.2, 2, 0.5, 4]),
        "instances.json",
        ("annotation 1", "'bbox'", "outside", "remove it"),
    ),
    (
        "box of 3 numbers",
        lambda p: coco(p, "instances", bbox=[1, 2, 3]),
        "instances.json",
        ("annotation 1", "'bbox'", "[1, 2, 3]", "4 numbers"),
    ),
    (
        "box of texts",
        lambda p: coco(p, "instances", bbox=["a", 2, 3, 4]),
        "instances.json",
        ("annotation 1", "'bbox'", "'a'", "finite number"),
    ),
    (
        "no box",
        lambda p: coco(p, "instances", bbox=None),
        "instances.json",
        ("annotation 1", "'bbox'", "missing", "COCO"),
    ),
    (
        "unknown category",
        lambda p: coco(p, "instances", category_id=99),
        "instances.json",
        ("annotation 1", "'category_id'", "99", "Add the category"),
    ),
    (
        "image of width 0",
        lambda p: coco(p, "instances", width=0),
        "instances.json",
        ("image 1 (id 5)", "'width'", "is 0", "pixels"),
    ),
    (
        "unknown image id",
        lambda p: coco(p, "captions", image_id=6),
        "captions.json",
        ("annotation 1 (id 8)", "'image_id'", "6", "Add the image"),
    ),
    (
        "image id is a list",
        lambda p: coco(p, "captions", image_id=[6]),
        "captions.json",
        ("annotation 1 (id 8)", "'image_id'", "[6]", "Add the image"),
    ),
    (
        "image without captions",
        lambda p: coco(p, "captions", image_id=6),
        "captions.json",
        ("image 1 (id 5)", "'caption'", "no annotation", "Add a caption"),
    ),
    (
        "empty COCO caption",
        lambda p: coco(p, "captions", caption=" "),
        "captions.json",
        ("annotation 1 (id 8)", "'caption'", "empty", "remove"),
    ),
    (
        "no file name",
        lambda p: coco(p, "captions", file_name=None),
        "captions.json",
        ("image 1 (id 5)", "'file_name'", "None", "name of the image file"),
    ),
    (
        "image entry is a number",
        lambda p: coco(p, "captions", images=[4]),
        "captions.json",
        ("image 1", "'id'", "no id in 4", "COCO"),
    ),
    (
        "no category",
        lambda p: coco(p, "instances", category_id=None),
        "instances.json",
        ("annotation 1 (id 8)", "'category_id'", "missing (fields: bbox)", "COCO"),
    ),
    (
        "annotation is a number",
        lambda p: coco(p, "instances", annotations=[{"bbox": 1, "image_id": 5}]),
        "instances.json",
        ("annotation 1", "'category_id'", "missing", "COCO"),
    ),
    (
        "ALBEF record is a text",
        lambda p: (p / "a.json").write_text('["a dog"]'),
        "a.json",
        ("a.json, record 1", "str", "Expected"),
    ),
    (
        "ALBEF record without image",
        lambda p: (p / "a.json").write_text('[{"caption": "a"}]'),
        "a.json",
        ("a.json, record 1", "'image'", "missing", "Expected"),
    ),
    (
        "ALBEF image missing",
        lambda p: (p / "a.json").write_text('[{"caption": "a", "image": "x"}]'),
        "a.json",
        ("a.json, record 1", "'image'", "no image 'x'", "images"),
    ),
    ("tar breaks off", cut_tar, "bad.tar", ("bad.tar, record 2", "breaks off", "b.jpg", "Copy or make the tar again")),
    (
        "joined tars",
        lambda p: tail(p, lambda data, end: data + data),
        "bad.tar",
        ("bad.tar, record 2", "after 'a.txt' (joined tars?)", "Copy or make the tar again"),
    ),
    (
        "tar behind an empty one",
        lambda p: tail(p, lambda data, end: bytes(10240) + data),
        "bad.tar",
        ("bad.tar, record 1", "more data behind its end", "Copy or make the tar again"),
    ),
    (
        "tar cut behind a file",
        lambda p: tail(p, lambda data, end: data[:end]),
        "bad.tar",
        ("bad.tar, record 2", "breaks off after 'a.txt'", "Copy or make the tar again"),
    ),
    (
        "tar with junk in the place of its end",
        lambda p: tail(p, lambda data, end: data[:end] + b"junk" * 256),
        "bad.tar",
        ("bad.tar, record 2", "damaged after 'a.txt'", "Copy or make the tar again"),
    ),
    (
        "tar of zeros",
        lambda p: (p / "bad.tar").write_bytes(bytes(20480)),
        "bad.tar",
        ("bad.tar, record 1", "20,480 zero bytes", "Copy or make the tar again"),
    ),
    (
        "tar key twice with an extension",
        lambda p: tar(p / "bad.tar", {"a.jpg": jpeg(), "a.JPG": jpeg(), "a.txt": b"a dog"}),
        "bad.tar",
        ("bad.tar, key a", "'jpg'", "two files 'a.jpg'", "Rename or remove one"),
    ),
    (
        "tar pair without text",
        lambda p: tar(p / "bad.tar", {"a.jpg": jpeg()}),
        "bad.tar",
        ("bad.tar, key a", "'caption'", "missing (fields: __key__, jpg)", "Give"),
    ),
    (
        "tar pair without image",
        lambda p: tar(p / "bad.tar", {"a.txt": b"a dog"}),
        "bad.tar",
        ("bad.tar, key a", "'image'", "missing", "Give"),
    ),
    (
        "tar text not UTF-8",
        lambda p: tar(p / "bad.tar", {"a.txt": b"\xff", "a.jpg": jpeg()}),
        "bad.tar",
        ("bad.tar, key a", "'txt'", "UTF-8", "Save"),
    ),
    (
        "tar JSON broken",
        lambda p: tar(p / "bad.tar", {"a.json": b"{", "a.jpg": jpeg()}),
        "bad.tar",
        ("bad.tar, key a.json", "not JSON", "Write"),
    ),
    (
        "tar image broken",
        lambda p: tar(p / "bad.tar", {"a.txt": b"a dog", "a.jpg": jpeg()[:300]}),
        "bad.tar",
        ("bad.tar, key a", "'jpg'", "damaged", "Replace"),
    ),
    (
        "parquet image broken",
        lambda p: parquet(p, {"image": [b"junk"], "caption": ["a"]}),
        "bad.parquet",
        ("bad.parquet, row 1", "'image'", "no picture", "Give one of"),
    ),
    (
        "parquet date out of range",
        lambda p: parquet(p, {"image": [b""], "caption": ["a"], "day": pa.array([2**30], pa.date32())}),
        "bad.parquet",
        ("bad.parquet, row 1", "row group 0 is damaged (", "Copy or write"),
    ),
    (
        "parquet null caption",
        lambda p: parquet(p, {"image": [b"junk"], "caption": pa.array([None], pa.string())}),
        "bad.parquet",
        ("bad.parquet, row 1", "'caption'", "missing", "Give"),
    ),
    (
        "parquet null struct",
        lambda p: parquet(p, {"image": [{"bytes": None, "path": None}], "caption": ["a"]}),
        "bad.parquet",
        ("bad.parquet, row 1", "'image'", "NoneType", "Give a path"),
    ),
    ("XML broken", lambda p: flickr(p, "<annotation><size>"), "", ("Annotations/11.xml", "not XML", "again")),
    (
        "XML missing",
        lambda p: flickr(p, ""),
        "",
        ("train.txt, line 1 (photo 11)", "11.xml", "take the photo off the list"),
    ),
    ("XML without size", lambda p: flickr(p, "<annotation/>"), "", ("11.xml", "'size/width'", "missing", "pixels")),
    (
        "XML of width 0",
        lambda p: flickr(p, XML.format(width=0, xmin=1, xmax=2)),
        "",
        ("11.xml", "'size/width'", "is 0", "original photo"),
    ),
    (
        "XML box is a text",
        lambda p: flickr(p, XML.format(width=100, xmin="one", xmax=2)),
        "",
        ("11.xml", "'object 1/xmin'", "'one'", "number of pixels"),
    ),
    (
        "XML box empty",
        lambda p: flickr(p, XML.format(width=100, xmin=50, xmax=20)),
        "",
        ("11.xml", "'object 1/bndbox'", "empty", "remove it"),
    ),
    (
        "XML box outside",
        lambda p: flickr(p, XML.format(width=100, xmin=50, xmax=150)),
        "",
        ("11.xml", "'object 1/bndbox'", "outside", "remove the box"),
    ),
    (
        "mark not closed",
        lambda p: flickr(p, sentence="[/EN#7/people A boy runs ."),
        "",
        ("11.txt, line 2", "'sentence'", "unbalanced", "[/EN#chain/type phrase]"),
    ),
    (
        "mark closed twice",
        lambda p: flickr(p, sentence="[/EN#7/people A boy]] runs ."),
        "",
        ("11.txt, line 2", "'sentence'", "unbalanced", "Write"),
    ),
    (
        "mark in a mark",
        lambda p: flickr(p, sentence="[/EN#7/people A [/EN#7/x big] boy] runs"),
        "",
        ("11.txt, line 2", "'sentence'", "unbalanced", "Write"),
    ),
    (
        "mark without phrase",
        lambda p: flickr(p, sentence="[/EN#7/people  ] runs ."),
        "",
        ("11.txt, line 2", "'sentence'", "no phrase", "Write"),
    ),
    (
        "unknown chain",
        lambda p: flickr(p, sentence="[/EN#9/people A boy] runs ."),
        "",
        ("11.txt, line 2", "'chain'", "'A boy' has chain 9", "again"),
    ),
    ("sentence not UTF-8", lambda p: flickr(p, sentence=b"caf\xe9"), "", ("11.txt", "'sentence'", "UTF-8", "Save")),
]

FILES: list[Case] = [
    ("no such file", lambda p: None, "gone.jsonl", ("gone.jsonl", "no such file", "Check the path")),
    ("unknown kind", lambda p: (p / "a.xyz").write_text(""), "a.xyz", ("a.xyz", "unknown kind", ".parquet")),
    ("unknown folder", lambda p: None, "", ("no data set recognised", "Give scenes")),
    ("unknown scenes split", lambda p: None, "scenes#dev", ("no such split", "scenes#val")),
    (
        "images of scenes are not there",
        lambda p: None,
        "scenes#val",
        ("nope: no such image folder", "scenes draws its own", "Leave"),
    ),
    ("split of tars", lambda p: tar(p / "a.tar", {"a.txt": b"a"}), "#val", ("'#val'", "has none", "Leave it out")),
    (
        "split of Parquet files",
        lambda p: parquet(p, {"image": ["a"], "caption": ["a"]}),
        "#val",
        ("'#val'", "has none", "Leave it out"),
    ),
    (
        "split of Visual Genome",
        lambda p: (p / "image_data.json").write_text("[]"),
        "#x",
        ("'#x'", "has none", "Leave it out"),
    ),
    ("split of saved rows", saved_rows, "saved#nosuch", ("'#nosuch'", "has none", "Leave it out")),
    *(
        (f"saved rows, {name} {content}", lambda p, n=name, c=content: saved_rows(p, **{n: c}), "saved", said)
        for name, content in (
            ("state", "[]"),
            ("state", "null"),
            ("state", '{"_data_files": 3}'),
            ("dataset_info", "[]"),
        )
        for said in [("saved: not a saved Hugging Face data set (", "written by save_to_disk")]
    ),
    (
        "saved splits are a list",
        lambda p: (p / "dataset_dict.json").write_text("[]"),
        "",
        ("not a saved Hugging Face data set (", "written by save_to_disk"),
    ),
    (
        "saved rows cut short",
        lambda p: (saved_rows(p), *(file.write_bytes(file.read_bytes()[:99]) for file in p.rglob("*.arrow"))),
        "saved",
        ("saved: not a saved Hugging Face data set (", "ead", "written by save_to_disk"),
    ),
    ("deep JSON", lambda p: (p / "a.json").write_text("[" * 100_000), "a.json", ("a.json", "JSON", "Expected")),
    (
        "deep JSON lines",
        lambda p: (p / "a.jsonl").write_text('{"a":' * 100_000),
        "a.jsonl",
        ("a.jsonl, line 1", "JSON", "one JSON object a line"),
    ),
    (
        "COCO category id twice",
        lambda p: coco(p, "instances", categories=[{"id": 3, "name": "dog"}, {"id": 3, "name": "cat"}]),
        "instances.json",
        ("instances.json, category 2", "'id'", "3 is both 'dog' and 'cat'", "an id of its own"),
    ),
    (
        "DAQUAR in Latin-1",
        lambda p: (p / "a.txt").write_bytes(b"what is in image1 ?\ncaf\xe9\n"),
        "a.txt",
        ("a.txt, line 2", "not UTF-8 (byte 23)", "Save"),
    ),
    (
        "OpenImages in Latin-1",
        lambda p: csv_boxes(p, b"0a,/m/1,0,1,0,1\n0\xe9,/m/1,0,1,0,1\n"),
        "",
        ("train-annotations-bbox.csv, line 3", "not UTF-8", "Save"),
    ),
    (
        "OpenImages classes in UTF-16",
        lambda p: csv_boxes(p, b"0a,/m/1,0,1,0,1\n", "/m/1,Dog\n".encode("utf-16")),
        "",
        ("class-descriptions-boxable.csv, line 1", "not UTF-8", "Save"),
    ),
    (
        "OpenImages field too large",
        lambda p: csv_boxes(p, b"0a,/m/1,0,1,0,1\n" + b"a" * 200_000 + b",/m/1,0,1,0,1\n"),
        "",
        ("train-annotations-bbox.csv, line 3", "field larger than field limit", "release again"),
    ),
    ("split of a file", lambda p: jsonl(p, GOOD), "bad.jsonl#val", ("'#val'", "Leave it out")),
    (
        "empty JSON lines",
        lambda p: (p / "a.jsonl").write_text("\n \n\r\n"),
        "a.jsonl",
        ("a.jsonl", "no records", "Write"),
    ),
    (
        "JSON lines of text",
        lambda p: (p / "a.jsonl").write_text("a dog\na cat\n"),
        "a.jsonl",
        ("a.jsonl, line 1", "not JSON", "Write"),
    ),
    (
        "JSON of text",
        lambda p: (p / "a.json").write_text("a\ndog"),
        "a.json",
        ("a.json, line 1", "not JSON", "Expected"),
    ),
    ("empty JSON", lambda p: (p / "a.json").write_text(""), "a.json", ("a.json, line 1", "not JSON", "Expected")),
    ("JSON not UTF-8", lambda p: (p / "a.json").write_bytes(b'["\xff"]'), "a.json", ("a.json", "UTF-8", "Save")),
    (
        "JSON top level",
        lambda p: (p / "a.json").write_text("3"),
        "a.json",
        ("a.json", "top level is int", "Expected ALBEF"),
    ),
    ("empty list", lambda p: (p / "a.json").write_text("[]"), "a.json", ("a.json", "no records", "Expected")),
    (
        "COCO without annotations",
        lambda p: coco(p, "captions", annotations=None),
        "captions.json",
        ("captions.json", "'annotations'", "Expected"),
    ),
    (
        "COCO without images",
        lambda p: coco(p, "captions", images=None),
        "captions.json",
        ("captions.json", "'images'", "Expected COCO"),
    ),
    (
        "COCO with no images",
        lambda p: coco(p, "captions", images=[]),
        "captions.json",
        ("captions.json", "'images'", "Give at least one"),
    ),
    (
        "COCO category without name",
        lambda p: coco(p, "instances", categories=[{"id": 3}]),
        "instances.json",
        ("category 1", "'name'", "missing", "COCO"),
    ),
    (
        "COCO of neither kind",
        lambda p: (p / "a.json").write_text('{"annotations": [{"x": 1}]}'),
        "a.json",
        ("a.json", "'annotations'", "neither", "Expected"),
    ),
    ("no tar", lambda p: (p / "a.tar").write_text("hello" * 300), "a.tar", ("a.tar", "not a tar", "again")),
    ("empty tar file", lambda p: (p / "a.tar").write_bytes(b""), "a.tar", ("a.tar", "not a tar", "again")),
    ("compressed tar", lambda p: (p / "a.tar").write_bytes(b"\x1f\x8b\x08\0"), "a.tar", ("a.tar", "gzip", "Unpack")),
    ("tar without files", lambda p: tar(p / "a.tar", {}), "a.tar", ("a.tar", "no records", "KEY.jpg")),
    (
        "no Parquet",
        lambda p: (p / "a.parquet").write_text("junk"),
        "a.parquet",
        ("a.parquet", "not a Parquet", "again"),
    ),
    (
        "Parquet without column",
        lambda p: parquet(p, {"image": [b""], "label": [1]}),
        "bad.parquet",
        ("bad.parquet", "'caption'", "columns: image, label", "caption=COLUMN"),
    ),
    (
        "Parquet without rows",
        lambda p: parquet(p, {"image": [], "caption": []}),
        "bad.parquet",
        ("bad.parquet", "no rows", "Write"),
    ),
    ("Flickr split missing", lambda p: flickr(p), "#test", ("test.txt", "no such file", "Check")),
    (
        "Flickr photos missing",
        lambda p: (flickr(p), (p / "flickr30k-images/11.jpg").unlink(), (p / "flickr30k-images").rmdir()),
        "",
        ("flickr30k-images", "Point 'images'"),
    ),
    (
        "Flickr list empty",
        lambda p: (flickr(p), (p / "train.txt").write_text("\n")),
        "",
        ("train.txt", "no photo ids", "Write"),
    ),
    (
        "Flickr tar broken",
        lambda p: (
            (p / "train.txt").write_text("1"),
            (p / "annotations_train.tar.gz").write_bytes(b"\x1f\x8b\x08junk"),
        ),
        "",
        ("annotations_train.tar.gz", "not a sound tar", "again"),
    ),
]


@pytest.mark.parametrize(("name", "make", "spec", "said"), RECORDS, ids=[case[0] for case in RECORDS])
def test_broken_record_is_counted_not_fatal(
    tmp_path: Path, name: str, make: Callable[[Path], object], spec: str, said: tuple[str, ...]
) -> None:
    make(tmp_path)
    dataset = open_source(str(tmp_path / spec) if spec else str(tmp_path))
    report = check(dataset)
    assert not report.ok
    assert report.counts["broken"] == report.total == len(report.problems)
    found = [str(problem) for problem in report.problems if all(word in str(problem) for word in said)]
    assert len(found) == 1, report.lines()
    assert str(tmp_path) in found[0]
    assert "\n" not in found[0]
    if spec == "bad.jsonl":
        assert (report.counts["images"], report.counts["broken"]) == (2, 1)
    for problem in report.problems:
        assert str(pickle.loads(pickle.dumps(problem))) == str(problem)


@pytest.mark.parametrize(("name", "make", "spec", "said"), FILES, ids=[case[0] for case in FILES])
def test_unusable_source_is_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], object], spec: str, said: tuple[str, ...]
) -> None:
    make(tmp_path)
    full = spec if spec.startswith("scenes") else f"{tmp_path}{spec}" if spec.startswith("#") else str(tmp_path / spec)
    with pytest.raises(WordregionError) as caught:
        open_source(full.rstrip("/"), tmp_path / "nope" if name.startswith("images of scenes") else None)
    for word in said:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_json_is_neither_kind_of_statement(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    assert kind_of_statements(tmp_path / "a.json") is None
    assert not is_snli_ve(tmp_path / "a.json")


def test_a_tar_file_of_negative_size_ends_the_scan(tmp_path: Path) -> None:
    bad = tarfile.TarInfo("b.jpg")
    bad.size = -512
    tail(tmp_path, lambda data, end: data[:end] + bad.tobuf(tarfile.GNU_FORMAT) + data[end:])

    def too_long(*_: object) -> None:
        raise AssertionError("reads the same header for ever")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(5)
    try:
        index = index_tar(tmp_path / "bad.tar")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert [index.name(row) for row in range(len(index.names))] == ["a.jpg", "a.txt"]
    assert "'b.jpg' a size of -512" in index.damage or "damaged after 'a.txt'" in index.damage


def test_a_pipe_in_the_place_of_an_image_is_not_read(tmp_path: Path) -> None:
    jsonl(tmp_path, lines(image="pipe.jpg"))
    os.mkfifo(tmp_path / "pipe.jpg")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.jpg").write_bytes(jpeg()), daemon=True)
    writer.start()  # who reads the pipe gets a picture, and does not wait for ever
    try:
        with pytest.raises(DataError, match=r"line 3.*cannot read image 'pipe.jpg' \(is no regular file\)"):
            open_source(str(tmp_path / "bad.jsonl"))[1]
    finally:
        if writer.is_alive():
            (tmp_path / "pipe.jpg").read_bytes()
        writer.join()


def test_errors_are_one_line_and_printable() -> None:
    assert str(UsageError("a\nb \x1b[0m \u2028 \udce9 é 犬")) == r"a\nb \x1b[0m \u2028 \udce9 é 犬"
    assert str(DataError("a\tb", "c", "is 'd\re'", "Give f.")) == r"a\tb, field 'c': is 'd\re'. Give f."


def test_images_folder_missing(tmp_path: Path) -> None:
    jsonl(tmp_path, GOOD)
    with pytest.raises(UsageError, match=r"nowhere: no such image folder.*Give the folder"):
        open_source(str(tmp_path / "bad.jsonl"), tmp_path / "nowhere")


def test_every_cut_of_a_picture_is_a_data_error() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = saved(Image.open(io.BytesIO(jpeg())), format=kind)
        for size in range(0, len(data) - 40, max(1, len(data) // 15)):
            with pytest.raises(DataError):
                decode(data[:size], "here")


def test_noise_in_a_picture_raises_nothing_else() -> None:
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = np.frombuffer(saved(Image.open(io.BytesIO(jpeg())), format=kind), np.uint8)
        for _ in range(30):
            noisy = data.copy()
            noisy[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            try:
                assert decode(noisy.tobytes(), "here").mode == "RGB"
            except DataError as error:
                assert "\n" not in str(error)  # noqa: PT017 (most noise is harmless)


def test_image_tar_that_breaks_off_says_so(tmp_path: Path) -> None:
    cut_tar(tmp_path)
    store = ImageStore(tmp_path / "bad.tar")
    assert store.open("a.jpg", "here").size == (40, 30)
    with pytest.raises(DataError, match=r"no image 'b.jpg'.*breaks off inside 'b.jpg'"):
        store.open("b.jpg", "here")


def test_file_cut_while_in_use(tmp_path: Path) -> None:
    jsonl(tmp_path, GOOD)
    source = Jsonl(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"line 4: .*became shorter.*Open the data set again"):
        source[2]
    (tmp_path / "bad.jsonl").unlink()
    with pytest.raises(DataError, match=r"cannot read.*Put the file back"):
        source[2]


def test_hugging_face_folder_and_columns(tmp_path: Path) -> None:
    import datasets

    with pytest.raises(UsageError, match="not a saved Hugging Face"):
        HFDataset(tmp_path)
    data = datasets.Dataset.from_dict({"image": [{"bytes": b"junk", "path": None}], "title": ["a"]})
    with pytest.raises(DataError, match=r"'caption': no such column \(columns: image, title\).*caption=COLUMN"):
        ImageText(HFDataset(data))
    with pytest.raises(DataError, match=r"row 1, field 'image'.*no picture"):
        ImageText(HFDataset(data), caption="title")[0]
    dates = datasets.Dataset(pa.table({"image": ["a"], "caption": ["a"], "day": pa.array([2**30], pa.date32())}))
    with pytest.raises(DataError, match=r"row 1: cannot be read \(.*\)\. Write the data set again"):
        HFDataset(dates)[0]
    both = datasets.DatasetDict({"train": data, "val": data})
    both.save_to_disk(tmp_path / "saved")
    with pytest.raises(UsageError, match=r"split is 'test'. Name one of train, val"):
        open_source(f"{tmp_path}/saved#test")


def test_repeated_ids_are_reported(tmp_path: Path) -> None:
    flickr(tmp_path)
    (tmp_path / "train.txt").write_text("11\n\n11\n")
    report = check(Flickr30kEntities(tmp_path))
    assert report.total == 1
    assert report.counts["broken"] == 0
    line = str(report.problems[0])
    assert all(word in line for word in ("line 3 (photo 11)", "'id'", "line 1 (photo 11)", "Remove one"))


def test_all_records_broken_has_no_contact_sheet(tmp_path: Path) -> None:
    parquet(tmp_path, {"image": [b"junk"], "caption": ["a"]})
    dataset = open_source(str(tmp_path / "bad.parquet"))
    with pytest.raises(DataError, match="no picture"):
        contact_sheet(dataset, tmp_path / "sheet.png")
    with pytest.raises(UsageError, match="at least 1"):
        check(dataset, limit=0)
