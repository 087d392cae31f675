"""Object Detection in the Wild: 35 small detection sets, each in a folder with a COCO file for every split.

ROOT/Aquarium/Aquarium Combined.v2-raw-1024.coco/test/annotations_without_background.json
ROOT/pistols/export/test_annotations_without_background.json        the photos lie beside each file
ROOT/Aquarium/test/annotations_without_background.json              as well: a folder of the set's own name
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wordregion.data.datasets.coco import CocoInstances
from wordregion.data.fields import shown
from wordregion.data.files import load_json
from wordregion.data.prompts import Wording, clean_name
from wordregion.errors import DataError, UsageError

Split = Literal["train", "valid", "test"]

FOLDERS = {
    "AerialMaritimeDrone_large": "AerialMaritimeDrone/large",
    "AerialMaritimeDrone_tiled": "AerialMaritimeDrone/tiled",
    "AmericanSignLanguageLetters": "AmericanSignLanguageLetters/American Sign Language Letters.v1-v1.coco",
    "Aquarium": "Aquarium/Aquarium Combined.v2-raw-1024.coco",
    "BCCD": "BCCD/BCCD.v3-raw.coco",
    "boggleBoards": "boggleBoards/416x416AutoOrient/export",
    "brackishUnderwater": "brackishUnderwater/960x540",
    "ChessPieces": "ChessPieces/Chess Pieces.v23-raw.coco",
    "CottontailRabbits": "CottontailRabbits",
    "dice": "dice/mediumColor/export",
    "DroneControl": "DroneControl/Drone Control.v3-raw.coco",
    "EgoHands_generic": "EgoHands/generic",
    "EgoHands_specific": "EgoHands/specific",
    "HardHatWorkers": "HardHatWorkers/raw",
    "MaskWearing": "MaskWearing/raw",
    "MountainDewCommercial": "MountainDewCommercial",
    "NorthAmericaMushrooms": "NorthAmericaMushrooms/North American Mushrooms.v1-416x416.coco",
    "openPoetryVision": "openPoetryVision/512x512",
    "OxfordPets_by-breed": "OxfordPets/by-breed",
    "OxfordPets_by-species": "OxfordPets/by-species",
    "Packages": "Packages/Raw",
    "PascalVOC": "PascalVOC",
    "pistols": "pistols/export",
    "PKLot": "PKLot/640",
    "plantdoc": "plantdoc/416x416",
    "pothole": "pothole",
    "Raccoon": "Raccoon/Raccoon.v2-raw.coco",
    "selfdrivingCar": "selfdrivingCar/fixedLarge/export",
    "ShellfishOpenImages": "ShellfishOpenImages/raw",
    "ThermalCheetah": "ThermalCheetah",
    "thermalDogsAndPeople": "thermalDogsAndPeople",
    "UnoCards": "UnoCards/raw",
    "VehiclesOpenImages": "VehiclesOpenImages/416x416",
    "websiteScreenshots": "websiteScreenshots",
    "WildfireSmoke": "WildfireSmoke",
}
"""Where the published download keeps each set."""
PARTS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("mini_val", "valid", "val"),
    "test": ("test",),
}
"""Published names of the splits; a small part of the validation photos goes before all of them, as published."""
FILE = "annotations_without_background.json"
TESTED_ON_VALID = ("PascalVOC",)
"""Has no test split; the published settings test on its validation photos."""


@dataclass(frozen=True)
class Part:
    """A split of a set.

    Attributes:
        dataset: its photos and boxes.
        wordings: what to ask for, one for each class of the data set, in its order.
    """

    dataset: CocoInstances
    wordings: tuple[Wording, ...]


Prompts = dict[str, list[dict[str, Any]]]
"""Of a set, in the order of its classes: ``name``, and perhaps ``prefix`` and ``suffix``."""


def find_sets(folder: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """The folder of each set.

    Args:
        folder: holds them.
        names: which ones; all that are there if empty.

    Raises:
        UsageError: if there is no such folder, a set is unknown or not there, or there is none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Give the one that holds ODinW's sets.")
    if unknown := [name for name in names if name not in FOLDERS]:
        raise UsageError(f"ODinW: {unknown[0]!r} is none of its data sets. They are {', '.join(FOLDERS)}.")
    homes: dict[str, Path] = {}
    for name in names or FOLDERS:
        home = next((path for path in (folder / FOLDERS[name], folder / name) if path.is_dir()), None)
        if home is not None:
            homes[name] = home
        elif names:
            raise UsageError(
                f"{folder}: has no {name}. Expected {folder / FOLDERS[name]}; leave out the set, or get it."
            )
    if not homes:
        raise UsageError(
            f"{folder}: holds none of ODinW's sets. Expected, for example, {folder / FOLDERS['Aquarium']}."
        )
    return homes


def split_file(name: str, home: Path, split: Split) -> Path:
    """The annotations of a split.

    Raises:
        UsageError: if there is no such file, or several could be it.
    """
    for part in PARTS["valid" if split == "test" and name in TESTED_ON_VALID else split]:
        for path in (home / part / FILE, home / f"{part}_{FILE}"):
            if path.is_file():
                return path
        files = [path for path in sorted((home / part).glob("*.json")) if not path.name.startswith("fewshot_")]
        if len(files) == 1:
            return files[0]
        if files:
            listed = ", ".join(path.name for path in files)
            raise UsageError(f"{home / part}: {listed} could all be {name}'s annotations. Name the right one {FILE}.")
    raise UsageError(f"{name}: no annotations of '{split}'. Expected {home / PARTS[split][-1] / FILE}.")


def few_shot_file(train: Path, shots: int, seed: int) -> Path:
    """Where the published few-shot split lies, if it does."""
    return train.with_name(f"fewshot_train_shot{shots}_seed{seed}.json")


def open_part(name: str, path: Path, prompts: Prompts | None = None) -> Part:
    """A split of a set. A class without a name that nothing belongs to is left out (ChessPieces has one).

    Args:
        name: of the set.
        path: its annotations; the photos lie beside them.
        prompts: wordings for some sets; of others, the names are asked for.

    Raises:
        DataError: if the file is not in COCO's layout, or a class with boxes has no name.
        UsageError: if there are no classes, or another number of prompts.
    """
    content = load_json(path, "COCO instances")
    categories = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(categories, list) or not categories:
        raise UsageError(f"{path}: names no classes ('categories' is empty or missing). Restore the file.")
    given = (prompts or {}).get(name)
    if given is not None and len(given) != len(categories):
        raise UsageError(f"{name}: {len(given)} prompts for {len(categories)} classes of {path}. Give one for each.")
    used = {note.get("category_id") for note in content.get("annotations", []) if isinstance(note, dict)}
    kept, wordings = [], []
    for i, category in enumerate(categories):
        if not isinstance(category, dict):
            raise DataError(f"{path}, category {i + 1}", "", f"is {shown(category)}", "Expected COCO's layout.")
        own = str(category.get("name") or "").strip()
        prompt = given[i] if given is not None else {"name": own}
        wording = Wording(clean_name(prompt["name"]).strip(), prompt.get("prefix", ""), prompt.get("suffix", ""))
        if not wording.name:
            if category.get("id") in used:
                where = f"{path}, category {i + 1}"
                raise DataError(
                    where, "name", f"is {shown(category.get('name'))}", "Give it one, here or by --prompts."
                )
            continue
        kept.append({**category, "name": own or wording.name})
        wordings.append(wording)
    return Part(CocoInstances(path, path.parent, {**content, "categories": kept}), tuple(wordings))


def read_prompts(path: Path) -> Prompts:
    """Wordings of classes by set: a JSON object of lists such as those of the published settings (CAPTION_PROMPT, or
    OVERRIDE_CATEGORY), for example ``{"Aquarium": [{"name": "penguin", "prefix": "", "suffix": ", a bird"}, ...]}``.

    Raises:
        UsageError: if there is no such file.
        DataError: if it holds anything else.
    """
    content = load_json(path, "prompts by set")
    remedy = 'Expected {"SET": [{"name": "fish", "prefix": "", "suffix": ""}, ...], ...}.'
    if not isinstance(content, dict):
        raise DataError(str(path), "", f"the top level is {type(content).__name__}, not an object", remedy)
    for name, entries in content.items():
        if name not in FOLDERS:
            raise DataError(str(path), name, "is none of ODinW's sets", f"They are {', '.join(FOLDERS)}.")
        if not isinstance(entries, list) or not entries:
            raise DataError(str(path), name, f"is {shown(entries)}, not a list of classes", remedy)
        for i, entry in enumerate(entries):
            texts = [entry.get(key, "") for key in ("prefix", "suffix")] if isinstance(entry, dict) else [None]
            if not all(isinstance(text, str) for text in texts) or not isinstance(entry.get("name"), str):
                raise DataError(str(path), f"{name}[{i}]", f"is {shown(entry)}", remedy)
    return content
