"""X-VLM's region lines and Visual Genome: read, recognised, and one line for what is broken."""

import base64
import io
import json
import tarfile

import pytest
from PIL import Image

from wordregion.cli import main
from wordregion.data.check import check
from wordregion.data.datasets.opening import open_source
from wordregion.data.datasets.region_lines import RegionLines
from wordregion.data.datasets.visual_genome import VisualGenome
from wordregion.data.regions import region_texts
from wordregion.errors import DataError, UsageError

GOOD = {
    "image_rpath": "a.jpg",
    "caption": ["a dog on a bed", "dog and bed"],
    "elems": [
        {"caption": "dog", "attributes": ["brown", "small"], "bb": [10, 5, 20, 10]},
        {"caption": ["bed", "furniture"], "bb": [0, 0, 100, 50]},
        {"caption": "pillow", "attributes": "white", "bb": [0, 0, 1, 1]},
    ],
}


def picture():
    memory = io.BytesIO()
    Image.new("RGB", (100, 50), "green").save(memory, "JPEG")
    return memory.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture())
    return tmp_path


def lines(folder, *records):
    path = folder / "regions.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return open_source(str(path))


def test_a_line_becomes_captions_and_texts_with_boxes(folder):
    found = lines(folder, GOOD)
    assert isinstance(found, RegionLines)
    sample = found[0]
    assert [sample.texts[i] for i in sample.captions()] == ["a dog on a bed", "dog and bed"]
    texts = {box: [sample.texts[i] for i in own] for box, own in region_texts(sample).items()}
    assert texts == {
        (0.1, 0.1, 0.3, 0.3): ["brown dog", "small dog"],
        (0.0, 0.0, 1.0, 1.0): ["bed", "furniture"],
        (0.0, 0.0, 0.01, 0.02): ["white pillow"],
    }
    report = check(found)
    assert report.ok
    assert (report.counts["captions"], report.counts["regions"], report.counts["boxes"]) == (2, 5, 3)


def test_the_picture_may_be_in_the_line_or_in_the_tar(folder):
    record = {key: value for key, value in GOOD.items() if key != "image_rpath"}
    inside = lines(folder, {**record, "binary": base64.b64encode(picture()).decode()})
    assert inside[0].images[0].size == (100, 50)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name, data in (("1.jpg", picture()), ("1.json", json.dumps(record).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    shard = open_source(str(folder / "shard.tar"))
    assert isinstance(shard, RegionLines)
    assert shard[0].texts == inside[0].texts


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"elems": [{"caption": "dog"}]}, "field 'bb': missing"),
        ({"elems": [{"bb": [0, 0, 5, 5]}]}, "field 'caption': missing"),
        ({"elems": [{"caption": "dog", "bb": [0, 0, 5]}]}, "field 'elems[0].bb': is [0, 0, 5]"),
        ({"elems": [{"caption": "dog", "bb": [0, 0, 500, 5]}]}, "is outside of the 100 x 50 image"),
        ({"elems": [{"caption": "dog", "bb": [5, 5, 0, 5]}]}, "is empty"),
        ({"elems": [{"caption": "dog", "bb": [0, 0, "5", 5]}]}, "Give a finite number"),
        ({"elems": [{"caption": " ", "bb": [0, 0, 5, 5]}]}, "field 'elems[0].caption': is empty"),
        ({"elems": [{"caption": "dog", "attributes": 3, "bb": [0, 0, 5, 5]}]}, "field 'elems[0].attributes': is int 3"),
        ({"elems": ["dog"]}, "field 'elems[0]': is 'dog', not an object"),
        ({"elems": [], "caption": None}, "is empty, and there is no caption"),
        ({"image_rpath": "none.jpg"}, "no image 'none.jpg'"),
        ({"image_rpath": None}, "field 'image_rpath': missing"),
        ({"binary": "%%%"}, "not Base64"),
        ({"binary": "éé"}, "not Base64"),
        ({"binary": base64.b64encode(b"no picture").decode()}, "no picture"),
    ],
)
def test_a_broken_line_is_one_message_with_line_and_field(folder, change, told):
    found = lines(folder, GOOD, {**GOOD, **change})
    assert len(found[0].texts) == 7
    with pytest.raises(DataError) as caught:
        found[1]
    assert "regions.jsonl, line 2" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_check_of_the_command_line_counts_regions(folder, capsys):
    lines(folder, GOOD, {**GOOD, "elems": 3})
    assert main(["data", "check", str(folder / "regions.jsonl")]) == 1
    told = capsys.readouterr().out
    assert "1 broken" in told
    assert "5 regions" in told
    assert "line 2, field 'elems'" in told


def genome(folder, **changes):
    files = {
        "image_data": [{"image_id": 1, "url": "https://x/VG_100K/1.jpg", "width": 100, "height": 50}],
        "attributes": [
            {
                "image_id": 1,
                "attributes": [
                    {"names": ["dog"], "attributes": ["brown", "wet"], "x": 10, "y": 5, "w": 20, "h": 10},
                    {"names": ["bed"], "x": -5, "y": 0, "w": 200, "h": 50},
                    {"names": ["bird"], "x": 300, "y": 0, "w": 5, "h": 5},
                ],
            }
        ],
        "region_descriptions": [
            {"id": 1, "regions": [{"phrase": "the dog sleeps", "x": 10, "y": 5, "width": 20, "height": 10}]}
        ],
        **changes,
    }
    (folder / "VG_100K").mkdir(exist_ok=True)
    (folder / "VG_100K" / "1.jpg").write_bytes(picture())
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_visual_genome_gives_objects_with_attributes_and_region_descriptions(folder):
    found = open_source(str(genome(folder)))
    assert isinstance(found, VisualGenome)
    texts = {box: [found[0].texts[i] for i in own] for box, own in region_texts(found[0]).items()}
    assert texts == {
        (0.1, 0.1, 0.3, 0.3): ["brown dog", "wet dog", "the dog sleeps"],
        (0.0, 0.0, 1.0, 1.0): ["bed"],
    }
    assert check(found).ok
    assert set(VisualGenome(folder, objects=False)[0].texts) == {"the dog sleeps"}
    assert "the dog sleeps" not in VisualGenome(folder, regions=False)[0].texts


def test_objects_are_read_where_there_are_no_attributes(folder):
    objects = [{"image_id": 1, "objects": [{"names": ["cat"], "x": 0, "y": 0, "w": 5, "h": 5}]}]
    found = VisualGenome(genome(folder, attributes=None, region_descriptions=None, objects=objects))
    assert found[0].texts == ("cat",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attributes": None, "region_descriptions": None}, "none of attributes.json"),
        ({"image_data": {}}, "not a list"),
        ({"region_descriptions": [{"id": 9, "regions": []}]}, "9 is not in image_data.json"),
        ({"attributes": [{"image_id": 1}]}, "field 'attributes': missing"),
        ({"attributes": [{"image_id": 1, "attributes": [{"names": []}]}]}, "field 'names'"),
        ({"attributes": [], "region_descriptions": None}, "has no entries"),
        ({"image_data": [{"image_id": [1]}]}, "image_data.json, image 1, field 'image_id': is [1]"),
        ({"region_descriptions": [{"id": [1]}]}, "region_descriptions.json, image 1, field 'image_id': is [1]"),
        (
            {"image_data": [{"image_id": 1, "url": "a/1.jpg"}, {"image_id": 1, "url": "b/2.jpg"}]},
            "image_data.json, image 2, field 'image_id': is 1, as in",
        ),
        ({"attributes": [{"image_id": 1, "attributes": []}], "region_descriptions": None}, "no image has a text"),
    ],
)
def test_a_broken_release_is_one_line(folder, changes, told):
    with pytest.raises((UsageError, DataError)) as caught:
        VisualGenome(genome(folder, **changes))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"phrase": 7}, "field 'text': is int 7"),
        ({"width": -3}, "field 'box': is -3 wide and 10 high"),
    ],
)
def test_a_broken_region_is_counted(folder, change, told):
    region = {"phrase": "the dog sleeps", "x": 10, "y": 5, "width": 20, "height": 10, **change}
    report = check(VisualGenome(genome(folder, region_descriptions=[{"id": 1, "regions": [region]}])))
    assert report.counts["broken"] == 1
    assert f"region_descriptions.json, image 1, regions 1, {told}" in str(report.problems[0])


def test_a_broken_number_is_a_broken_record(folder):
    row = {"names": ["dog"], "x": 1, "y": None, "w": 2, "h": 2}
    found = VisualGenome(genome(folder, attributes=[{"image_id": 1, "attributes": [row]}]))
    with pytest.raises(DataError, match=r"attributes.json, image 1, attributes 1"):
        found[0]
