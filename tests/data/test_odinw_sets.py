"""ODinW's folders as published: which files are which, and what classes are called."""

import json
from pathlib import Path

import pytest

from tests.data.test_datasets import jpeg
from wordregion.data.datasets.odinw import FOLDERS, find_sets, open_part, read_prompts, split_file
from wordregion.data.prompts import Wording
from wordregion.errors import DataError, UsageError
from wordregion.evaluate.odinw import ODINW35

CLASSES = ("fish", "jelly_fish")


def part(path: Path, classes: tuple[str, ...] = CLASSES, photos: int = 2, boxes: int = 1) -> Path:
    """A COCO file with its photos beside it; photo i shows the last class, and the last but one if it has two boxes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images, notes = [], []
    for number in range(photos):
        (path.parent / f"{number}.jpg").write_bytes(jpeg())
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30})
        for box in range(boxes):
            bbox = [10 * box, 0, 10, 20]
            notes.append({"id": len(notes), "image_id": number, "category_id": len(classes) - box, "bbox": bbox})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return path


def test_every_set_has_its_published_folder() -> None:
    assert set(FOLDERS) == set(ODINW35)
    assert len(set(FOLDERS.values())) == 35


def test_sets_are_found_in_published_folders_and_in_those_of_their_name(tmp_path: Path) -> None:
    one, two = tmp_path / FOLDERS["Aquarium"], tmp_path / "Packages"
    for folder in (one, two):
        folder.mkdir(parents=True)
    assert find_sets(tmp_path) == {"Aquarium": one, "Packages": two}
    assert find_sets(tmp_path, ["Packages"]) == {"Packages": two}
    with pytest.raises(UsageError, match=r"has no pothole\. Expected .*pothole; leave out the set"):
        find_sets(tmp_path, ["pothole"])
    with pytest.raises(UsageError, match="'Cars' is none"):
        find_sets(tmp_path, ["Cars"])
    with pytest.raises(UsageError, match="holds none of ODinW's sets"):
        find_sets(one)
    with pytest.raises(UsageError, match="no such folder"):
        find_sets(tmp_path / "nowhere")


def test_files_of_splits(tmp_path: Path) -> None:
    plain = part(tmp_path / "test" / "annotations_without_background.json")
    assert split_file("Aquarium", tmp_path, "test") == plain
    valid = part(tmp_path / "val_annotations_without_background.json")
    assert split_file("pistols", tmp_path, "valid") == valid
    small = part(tmp_path / "mini_val" / "annotations_without_background.json")
    assert split_file("EgoHands_generic", tmp_path, "valid") == small
    assert split_file("PascalVOC", tmp_path, "test") == small  # published so
    part(tmp_path / "train" / "fewshot_train_shot1_seed3.json")
    with pytest.raises(UsageError, match=r"pothole: no annotations of 'train'\. Expected .*train/annotations_without"):
        split_file("pothole", tmp_path, "train")
    own = part(tmp_path / "train" / "coco.json")
    assert split_file("pothole", tmp_path, "train") == own
    part(tmp_path / "train" / "other.json")
    with pytest.raises(UsageError, match=r"coco\.json, other\.json could all be"):
        split_file("pothole", tmp_path, "train")


def test_classes_are_asked_for_by_name_or_by_the_given_prompts(tmp_path: Path) -> None:
    path = part(tmp_path / "test" / "annotations_without_background.json")
    opened = open_part("Aquarium", path)
    assert opened.wordings == (Wording("fish"), Wording("jelly fish"))
    assert opened.dataset[0].texts == ("jelly_fish",)
    assert opened.dataset.shown(0) == {2}
    prompts = {
        "Aquarium": [{"id": 1, "name": "fish"}, {"name": "jellyfish", "prefix": "a ", "suffix": ", see-through"}]
    }
    assert open_part("Aquarium", path, prompts).wordings[1] == Wording("jellyfish", "a ", ", see-through")
    assert open_part("pothole", path, prompts).wordings[1] == Wording("jelly fish")
    with pytest.raises(UsageError, match="Aquarium: 1 prompts for 2 classes"):
        open_part("Aquarium", path, {"Aquarium": [{"name": "fish"}]})


def test_a_class_without_a_name_is_left_out_unless_it_has_boxes(tmp_path: Path) -> None:
    path = part(tmp_path / "a" / "a.json", ("  ", "white king"))
    opened = open_part("ChessPieces", path)
    assert opened.wordings == (Wording("white king"),)
    assert list(opened.dataset.categories.items()) == [(2, "white king")]
    path = part(tmp_path / "b" / "b.json", ("white king", "  "))
    with pytest.raises(DataError, match=r"category 2, field 'name'.*--prompts"):
        open_part("ChessPieces", path)
    named = open_part("ChessPieces", path, {"ChessPieces": [{"name": "white king"}, {"name": "board"}]})
    assert named.dataset[0].texts == ("board",)


def test_no_classes_is_one_clear_line(tmp_path: Path) -> None:
    path = part(tmp_path / "a.json", (), boxes=0)
    with pytest.raises(UsageError, match=r"a\.json: names no classes"):
        open_part("Aquarium", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not an object"),
        ('{"Cars": [{"name": "car"}]}', "'Cars'.*none of ODinW's sets"),
        ('{"Aquarium": []}', "not a list of classes"),
        ('{"Aquarium": [{"name": 3}]}', r"Aquarium\[0\]"),
        ('{"Aquarium": [{"name": "a", "suffix": null}]}', r"Aquarium\[0\]"),
        ("{", "line 1.*not JSON"),
    ],
)
def test_broken_prompts_are_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_prompts(path)


def test_prompts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('{"Aquarium": [{"id": 1, "name": "fish", "supercategory": "x"}]}')
    assert read_prompts(path)["Aquarium"][0]["name"] == "fish"
