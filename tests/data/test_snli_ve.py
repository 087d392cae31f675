"""SNLI-VE in both of its formats; made-up photos and sentences."""

import io
import json
import tarfile

import pytest
from PIL import Image

from wordregion.data.datasets.opening import open_source
from wordregion.data.datasets.snli_ve import RELATIONS, SnliVe
from wordregion.errors import DataError, UsageError

LINES = [
    {"Flickr30K_ID": "11", "captionID": "11.jpg#0", "gold_label": "entailment", "sentence1": "A dog runs .",
     "sentence2": "An animal moves.", "pairID": "11.jpg#0r0"},
    {"Flickr30K_ID": 22, "gold_label": "Neutral", "sentence2": "The cat is old."},
    {"Flickr30K_ID": "11", "gold_label": "contradiction", "sentence1": "A dog runs .", "sentence2": "A dog sleeps."},
]  # fmt: skip


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def published(folder, lines=LINES):
    path = folder / "dev.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def tar(path, files):
    with tarfile.open(path, "w") as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))


def test_the_published_format_with_photos_in_several_tars(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    tar(photos / "images_a.tar", {"images/11.jpg": jpeg("red")})
    tar(photos / "images_b.tar", {"images/22.jpg": jpeg("blue")})
    data = SnliVe(published(tmp_path), photos)
    samples = [data[i] for i in range(len(data))]
    assert [RELATIONS[s.target["label"]] for s in samples] == ["entailment", "neutral", "contradiction"]
    assert [s.texts for s in samples] == [("An animal moves.",), ("The cat is old.",), ("A dog sleeps.",)]
    assert [s.target["premise"] for s in samples] == ["A dog runs .", None, "A dog runs ."]
    assert [s.id for s in samples] == ["11.jpg#0r0", "dev-2", "dev-3"]
    assert samples[1].images[0].getpixel((3, 3))[2] > 200
    assert not samples[0].groundings  # a hypothesis describes nothing for sure
    assert data.where(1).endswith("dev.jsonl, line 2")


def test_albefs_list_beside_its_photos_and_recognition(tmp_path):
    (tmp_path / "11.jpg").write_bytes(jpeg("red"))
    path = tmp_path / "ve_dev.json"
    path.write_text(json.dumps([{"image": "11", "sentence": "A dog sleeps.", "label": "contradiction"}]))
    sample = SnliVe(path)[0]
    assert sample.target == {"label": 0, "premise": None}
    assert isinstance(open_source(str(path)), SnliVe)
    assert isinstance(open_source(str(published(tmp_path))), SnliVe)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gold_label": "-"}, r"dev\.jsonl, line 1, field 'gold_label': is '-'.*or remove the record"),
        ({"gold_label": 3}, "field 'gold_label': is 3"),
        ({"sentence2": " "}, "field 'sentence2': is empty"),
        ({"sentence2": None}, "field 'sentence2': missing"),
        ({"Flickr30K_ID": None}, "field 'Flickr30K_ID': missing"),
        ({"Flickr30K_ID": "99"}, r"field 'Flickr30K_ID': no image '99\.jpg'"),
    ],
)
def test_broken_records_are_named(tmp_path, change, words):
    (tmp_path / "11.jpg").write_bytes(jpeg("red"))
    data = SnliVe(published(tmp_path, [LINES[0] | change]))
    with pytest.raises(DataError, match=words):
        data[0]


def test_broken_files_are_named(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        SnliVe(tmp_path / "absent.jsonl")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(DataError, match="has no records"):
        SnliVe(tmp_path / "empty.json")
    (tmp_path / "list.json").write_text("[3]")
    with pytest.raises(DataError, match="is int, not an object"):
        SnliVe(tmp_path / "list.json")[0]
