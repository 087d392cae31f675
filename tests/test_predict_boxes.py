"""`predict detect` and `predict ground`, by what sees colours: flags, files, pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from tests.evaluate.painted import CLASSES, TOKENIZER, Seeing, painted
from tests.evaluate.test_detection import to_tensor
from wordregion.errors import DataError, UsageError
from wordregion.predict_boxes import (
    DetectFlags,
    GroundFlags,
    as_coco,
    caption_prompts,
    check_flags,
    class_prompts,
    parse_classes,
    run_boxes,
)

CPU = torch.device("cpu")


def save(folder: Path, number: int, name: str) -> Path:
    big = F.resize(painted(number)[0], [160, 160], F.InterpolationMode.NEAREST)
    Image.fromarray((big * 255).byte().permute(1, 2, 0).numpy()).save(folder / name)
    return folder / name


def run(flags: DetectFlags | GroundFlags):
    names = check_flags(flags)
    if isinstance(flags, DetectFlags):
        phrases, prompts = class_prompts(flags, TOKENIZER)
    else:
        phrases, prompts = caption_prompts(flags.caption, tagger, TOKENIZER)
    seeing = Seeing()
    return run_boxes(flags, names, seeing, TOKENIZER, to_tensor, phrases, prompts, CPU), seeing


def tagger(texts):
    tags = {"red": "ADJ", "green": "ADJ", "circle": "NOUN", "square": "NOUN"}
    (text,) = texts
    return [[(text.index(word), text.index(word) + len(word), tags.get(word, "ADP")) for word in text.split()]]


def test_classes_of_one_picture(tmp_path: Path) -> None:
    flags = DetectFlags(
        image=save(tmp_path, 3, "a.png"),
        classes=". ".join(CLASSES),
        run=tmp_path,
        out=tmp_path / "drawn.png",
        json=tmp_path / "found.json",
        per_prompt=2,
    )
    (answers, broken), seeing = run(flags)
    assert (broken, seeing.pictures, len(set(seeing.prompts))) == ([], 1, 2)
    (told,) = json.loads(flags.json.read_text())
    assert (told["image"], told["width"], told["height"]) == ("a.png", 160, 160)
    assert {row["phrase"]: row["box"] for row in told["boxes"]} == {
        "red circle": [0, 0, 80, 80],
        "green_square": [80, 40, 160, 120],
        "blue star": [40, 120, 80, 160],
    }
    boxes = answers[0].detections()
    assert sorted(boxes.data["class_name"]) == sorted(CLASSES)
    assert boxes.xyxy.max() == 160
    before, after = np.asarray(Image.open(flags.image).convert("RGB")), np.asarray(Image.open(flags.out))
    assert before.shape == after.shape
    assert (before != after).any()


def test_all_pictures_of_a_folder_and_the_one_that_is_broken(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/c.png")):
        save(photos, number, name)
    (photos / "d.png").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture")
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(CLASSES) + "\n")
    flags = DetectFlags(
        image=photos, classes=str(classes), run=tmp_path, out=tmp_path / "out", coco=tmp_path / "found.json", batch=2
    )
    (answers, broken), _ = run(flags)
    assert [(answer.name, len(answer.found)) for answer in answers] == [("a.png", 0), ("b.png", 1), ("more/c.png", 2)]
    assert [line.split(",")[1] for line in broken] == [" d.png"]
    assert sorted(p.relative_to(flags.out).as_posix() for p in flags.out.rglob("*.png")) == [
        "a.png",
        "b.png",
        "more/c.png",
    ]
    content = json.loads(flags.coco.read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png", "more/c.png"]
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert content["annotations"][0] == {
        "id": 1, "image_id": 2, "category_id": 2, "score": 0.9, "bbox": [0.0, 0.0, 80.0, 80.0], "area": 6400.0,
        "iscrowd": 0,
    }  # fmt: skip
    assert as_coco(answers) == content


def test_phrases_of_a_caption(tmp_path: Path) -> None:
    flags = GroundFlags(
        image=save(tmp_path, 3, "a.png"), caption="red circle above green square", run=tmp_path, out=tmp_path / "b.jpg"
    )
    (answers, _), seeing = run(flags)
    assert set(seeing.prompts) == {"red circle above green square"}
    assert {row["phrase"]: row["box"] for row in answers[0].rows()} == {
        "red circle": [0, 0, 80, 80],
        "green square": [80, 40, 160, 120],
    }
    with pytest.raises(UsageError, match="no noun phrase"):
        caption_prompts("above", tagger, TOKENIZER)


def test_class_names() -> None:
    assert parse_classes("person. hair dryer .  . person") == ("person", "hair dryer")
    for text in ("", " . ", "(all)"):
        with pytest.raises(UsageError, match="no class names"):
            parse_classes(text)
    with pytest.raises(UsageError, match="is no file"):
        parse_classes("nothing.txt")


def test_what_cannot_be_done_is_said_first(tmp_path: Path) -> None:
    picture = save(tmp_path, 1, "a.png")
    (tmp_path / "empty").mkdir()

    def flags(**given: object) -> DetectFlags:
        return DetectFlags(**{"image": picture, "classes": "cat", "run": tmp_path, "out": tmp_path / "b.png"} | given)

    for given, message in (
        ({"image": tmp_path / "nothing.png"}, "no such file"),
        ({"out": tmp_path / "b.gif"}, "End it in one of"),
        ({"out": tmp_path / "none" / "b.png"}, "can't be written"),
        ({"image": tmp_path}, "Name a folder"),
        ({"image": tmp_path / "empty", "out": tmp_path / "o"}, "no pictures in"),
        ({"json": tmp_path / "none" / "b.json"}, "no such folder"),
        ({"least": 0.0}, "least"),
    ):
        with pytest.raises(UsageError, match=message):
            check_flags(flags(**given))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match="is no picture"):
        run(flags(image=broken))
