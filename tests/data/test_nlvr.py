"""The formats of NLVR2 and NLVR."""

import io
import json
import tarfile

import pytest
from PIL import Image

from wordregion.data.datasets.nlvr import Nlvr, on_square
from wordregion.data.datasets.nlvr2 import Nlvr2
from wordregion.data.datasets.opening import open_source
from wordregion.data.datasets.pairs import ImageText
from wordregion.data.images import ImageStore
from wordregion.errors import DataError, UsageError


def picture(path, colour, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG")


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def published(identifier="dev-850-2-1", **more):
    return {"identifier": identifier, "sentence": "The left image shows a dog.", "label": "True", **more}


def test_the_published_lines_find_left_and_right_wherever_they_lie(tmp_path):
    picture(tmp_path / "photos" / "63" / "dev-850-2-img0.png", "red")
    picture(tmp_path / "photos" / "63" / "dev-850-2-img1.png", "blue")
    path = lines(tmp_path / "dev.json", published(), published(label="False"))
    data = Nlvr2(path, tmp_path / "photos")
    sample = data[0]
    assert (sample.id, sample.texts) == ("dev-850-2-1", ("The left image shows a dog.",))
    assert [image.getpixel((0, 0)) for image in sample.images] == [(255, 0, 0), (0, 0, 255)]
    assert sample.target == {"label": 1, "sentence": "dev-850-1"}
    assert [data[i].target["label"] for i in range(2)] == [1, 0]
    assert data.where(1) == f"{path}, line 2"


def test_albefs_list_gives_paths_and_shares_sentences_of_a_set_of_photos(tmp_path):
    for pair in (0, 1):
        for side, colour in enumerate(("red", "blue")):
            picture(tmp_path / "dev" / f"dev-850-{pair}-img{side}.png", colour)
    records = [
        {
            "images": [f"dev/dev-850-{pair}-img{side}.png" for side in (0, 1)],
            "sentence": "Two dogs.",
            "label": label,
        }
        for pair, label in ((0, "True"), (1, "False"))
    ]
    path = tmp_path / "nlvr_dev.json"
    path.write_text(json.dumps(records))
    first, second = (Nlvr2(path)[i] for i in range(2))
    assert (first.target["label"], second.target["label"]) == (1, 0)
    assert first.target["sentence"] == second.target["sentence"]
    assert first.images[1].getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (published("dev-850-0"), "split-set-pair-sentence"),
        (published(label="yes"), "Give True or False"),
        (published(label=1), "Give True or False"),
        (published(sentence=" "), "'sentence': is empty"),
        (published("dev-9-9-9"), "no image 'dev-9-9-img0.png'"),
        ({"sentence": "a", "label": "True"}, "'identifier': missing"),
    ],
)
def test_a_broken_line_is_named(tmp_path, record, words):
    for side in (0, 1):
        picture(tmp_path / f"dev-850-2-img{side}.png", "red")
    path = lines(tmp_path / "dev.json", published(), record)
    with pytest.raises(DataError, match=words) as caught:
        Nlvr2(path)[1]
    assert f"{path}, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "has no records"),
        ("", "has no records"),
        ('[{"images": ["a.png"], "sentence": "a", "label": "True"}]', "two"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        Nlvr2(path)[0]
    with pytest.raises(UsageError, match="no such file"):
        Nlvr2(tmp_path / "b.json")


def strip():
    drawing = Image.new("RGB", (400, 100), (128, 128, 128))
    for left, colour in ((0, "red"), (150, "green"), (300, "blue")):
        drawing.paste(Image.new("RGB", (100, 100), colour), (left, 0))
    return drawing


def test_the_boxes_of_a_drawing_keep_their_shape_on_the_square():
    square = on_square(strip())
    assert square.size == (225, 225)
    counts = dict((colour, count) for count, colour in square.getcolors())
    assert {c: counts[c] for c in ((255, 0, 0), (0, 128, 0), (0, 0, 255))} == {
        (255, 0, 0): 10000,
        (0, 128, 0): 10000,
        (0, 0, 255): 10000,
    }
    assert counts[(128, 128, 128)] == 225 * 225 - 30000
    assert [square.getpixel(at) for at in ((0, 0), (224, 0), (112, 224))] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def test_every_drawing_of_a_line_is_a_sample(tmp_path):
    with tarfile.open(tmp_path / "images_dev.tar", "w") as tar:
        for name in ("2/test-1572-0-1.png", "2/test-1572-0-0.png", "3/test-1572-1-0.png"):
            buffer = io.BytesIO()
            strip().save(buffer, "PNG")
            member = tarfile.TarInfo(name)
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)
    records = [
        {"identifier": f"1572-{i}", "sentence": "a box", "label": label, "directory": "2"}
        for i, label in enumerate(("true", "false", "true"))
    ]
    path = lines(tmp_path / "dev.json", *records)
    data = Nlvr(path)
    assert [data[i].id for i in range(3)] == ["test-1572-0-0", "test-1572-0-1", "test-1572-1-0"]
    assert [data[i].target for i in range(3)] == [{"label": label, "sentence": "1572"} for label in (1, 1, 0)]
    assert data[0].images[0].size == (225, 225)
    assert len(data) == 4
    with pytest.raises(DataError, match="no drawing of '1572-2'"):
        data[3]
    assert data.where(3) == f"{path}, line 3"


@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
def test_a_drawing_too_narrow_for_boxes_is_a_broken_record(tmp_path, size):
    picture(tmp_path / "dev-1572-0-0.png", "red", size)
    path = lines(tmp_path / "dev.json", {"identifier": "1572-0", "sentence": "a box", "label": "true"})
    with pytest.raises(DataError, match=rf"line 1 .*field 'identifier': the drawing is {size[0]} x {size[1]} pixels"):
        Nlvr(path)[0]


def test_names_of_a_folder_are_what_open_takes(tmp_path):
    picture(tmp_path / "b" / "c.png", "red")
    store = ImageStore(tmp_path)
    assert store.names() == ["b/c.png"]
    assert store.open(store.names()[0], "here").size == (8, 6)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (json.dumps(published()) + "\n", Nlvr2),
        (json.dumps([{"images": ["a.png", "b.png"], "sentence": "a", "label": "True"}]), Nlvr2),
        (json.dumps({"identifier": "1572-0", "sentence": "a", "label": "true", "directory": "2"}) + "\n", Nlvr),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_path_is_recognised(tmp_path, content, kind, suffix):
    path = tmp_path / f"dev.{suffix}"
    path.write_text(content)
    assert type(open_source(str(path))) is kind


def test_captions_are_not_taken_for_statements(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"image": "a.png", "caption": "a dog"})
    assert type(open_source(str(path))) is ImageText
