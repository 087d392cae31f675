"""Compositional test sets: a picture, its caption, and false captions that differ little from it.

Read as published: SugarCrepe, Winoground, ARO (relation, attribution, order), VALSE and VL-CheckList. All become the
same kind of sample, in which a `Grounding` links each picture to its true text; the other texts are false of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from wordregion.data.fields import number, required, shown, text_value
from wordregion.data.files import Packed, check_index, load_json
from wordregion.data.images import ImageStore
from wordregion.data.scene_views import SceneNegatives
from wordregion.data.sources import Jsonl
from wordregion.errors import DataError, UsageError
from wordregion.schema import Dataset, Grounding, Sample

KINDS = "scenes, or a file or folder of SugarCrepe, Winoground, ARO, VALSE or VL-CheckList"
VOTES = 2
"""VALSE: annotators of three who must prefer the caption for a case to count (its README)."""
_SCENES = 2000


@dataclass(frozen=True)
class Case:
    """What a record asks.

    Attributes:
        images: names of the pictures.
        texts: the true text of each picture first, in their order; then false ones.
        kind: the set's own kind; None = the name of the file.
        group: a finer kind, such as the relation that is asked for; None = none.
        crop: left, top, width and height in pixels: the part of the picture to look at; None = all.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    kind: str | None = None
    group: str | None = None
    crop: tuple[float, float, float, float] | None = None


class Contests:
    """Pictures with true and false captions (`Dataset`): target {"kind": str, "group": str or None}.

    Args:
        path: a file of one of the sets, or a folder: all ``.json`` and ``.jsonl`` files below it, each a kind by its
            name (Winoground: by its tag).
        images: folder or tar of the pictures; default: the folder ``images`` beside the file, or else its own.
        available: leave out the cases whose pictures are not there; `left_out` counts them.

    Raises:
        UsageError: if there is no such file or folder.
        DataError: if a file has none of the known formats, a record is broken, or no case is left.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None, available: bool = False) -> None:
        root, self.name, self.left_out = Path(path), str(path), 0
        folder = root if root.is_dir() else root.parent
        files = sorted(folder.rglob("*.json*")) if root.is_dir() else [root]
        default = folder / "images" if (folder / "images").is_dir() else folder
        self._images = ImageStore(default if images is None else images)
        packed: list[tuple[Any, ...]] = []
        for file in files:
            name = "_".join(file.relative_to(folder).with_suffix("").parts)
            for key, where, case in _cases(file):
                if available and not all(map(self._images.has, case.images)):
                    self.left_out += 1
                    continue
                packed.append(
                    (f"{name}-{key}", where, case.images, case.texts, case.kind or name, case.group, case.crop)
                )
        if not packed:
            raise DataError(self.name, "", "has no case to ask", f"Give {KINDS}, and its pictures with --images.")
        self._cases = Packed(packed)

    def __len__(self) -> int:
        return len(self._cases)

    def where(self, index: int) -> str:
        """File and record."""
        return self._cases[index][1]

    def __getitem__(self, index: int) -> Sample:
        check_index(index, len(self), self.name)
        name, where, images, texts, kind, group, crop = self._cases[index]
        pictures: tuple[Image | Tensor, ...] = tuple(self._picture(image, crop, where) for image in images)
        groundings = tuple(Grounding(text=i, image=i) for i in range(len(pictures)))
        return Sample(name, pictures, tuple(texts), groundings, {"kind": kind, "group": group})

    def _picture(self, name: str, crop: Sequence[float] | None, where: str) -> Image:
        picture = self._images.open(name, where, upright=crop is None)
        if crop is None:
            return picture
        left, top, width, height = crop
        box = (max(left, 0), max(top, 0), min(left + width, picture.width), min(top + height, picture.height))
        if not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(where, "bbox_x", f"box {crop} lies outside of the picture", "Correct or remove it.")
        x0, y0, x1, y1 = map(round, box)
        return picture.crop((x0, y0, x1, y1))


def open_contests(spec: str, images: Path | None = None, available: bool = False, scene_pixels: int = 128) -> Dataset:
    """The test set that a user names: ``scenes``, drawn at `scene_pixels`, or a path (see `Contests`)."""
    if spec == "scenes" and not Path(spec).exists():
        return SceneNegatives("val", _SCENES, image_size=scene_pixels)
    if not Path(spec).exists():
        raise UsageError(f"{spec}: no such file or folder. Give {KINDS}.")
    return Contests(spec, images, available)


def sugar_crepe(record: dict[str, Any], where: str) -> Case:
    """Hsieh et al. 2023: {"filename", "caption", "negative_caption"}."""
    return Case((_text(record, "filename", where),), _texts(record, where, "caption", "negative_caption"))


def aro(record: dict[str, Any], where: str) -> Case:
    """Yuksekgonul et al. 2023, VG-Relation and VG-Attribution: {"image_path", "bbox_x" ..., "true_caption" ...}."""
    x, y, w, h = (number(_field(record, f"bbox_{side}", where), where, f"bbox_{side}") for side in "xywh")
    attributes = record.get("attributes")
    if attributes is not None and not isinstance(attributes, list):
        raise DataError(where, "attributes", f"is {shown(attributes)}", "Give a list of texts.")
    group = _label(record, "relation_name", where) or ("_".join(map(str, attributes)) if attributes else None)
    texts = _texts(record, where, "true_caption", "false_caption")
    return Case((_text(record, "image_path", where),), texts, group=group, crop=(x, y, w, h))


def aro_order(record: dict[str, Any], where: str) -> Case:
    """ARO's word orders, saved: {"image", "caption_options": [the true one, shuffled ones ...]}."""
    options = _field(record, "caption_options", where)
    if not isinstance(options, list) or len(options) < 2:
        raise DataError(where, "caption_options", f"is {shown(options)}", "Give the caption, then its shuffled forms.")
    texts = tuple(text_value(text, where, f"caption_options[{i}]") for i, text in enumerate(options))
    return Case((_text(record, "image", where),), texts)


def valse(record: dict[str, Any], where: str) -> Case | None:
    """Parcalabescu et al. 2022: {"image_file", "caption", "foil", "mturk": {"caption": votes}}; None if not valid."""
    votes = record.get("mturk")
    if isinstance(votes, dict) and number(votes.get("caption", 0), where, "mturk") < VOTES:
        return None
    return Case((_text(record, "image_file", where),), _texts(record, where, "caption", "foil"))


def vl_checklist(record: list[Any], where: str) -> Case:
    """Zhao et al. 2022: [image, {"POS": [texts], "NEG": [texts]}], of which the first of each count, as in its code."""
    image, said = record
    texts = []
    for side in ("POS", "NEG"):
        listed = said.get(side)
        if not isinstance(listed, list) or not listed:
            raise DataError(where, side, f"is {shown(listed)}", "Give a list of texts.")
        texts.append(text_value(listed[0], where, side))
    return Case((text_value(image, where, "image"),), tuple(texts))


def winoground(record: dict[str, Any], where: str) -> Case:
    """Thrush et al. 2022: {"image_0", "image_1", "caption_0", "caption_1", "collapsed_tag"}."""
    names = tuple(_text(record, field, where) for field in ("image_0", "image_1"))
    images = tuple(name if Path(name).suffix else f"{name}.png" for name in names)
    return Case(images, _texts(record, where, "caption_0", "caption_1"), kind=_label(record, "collapsed_tag", where))


FORMATS: tuple[tuple[frozenset[str], Callable[[Any, str], Case | None]], ...] = (
    (frozenset({"negative_caption", "filename"}), sugar_crepe),
    (frozenset({"true_caption", "false_caption"}), aro),
    (frozenset({"caption_options"}), aro_order),
    (frozenset({"foil", "image_file"}), valse),
    (frozenset({"caption_0", "caption_1"}), winoground),
)
"""Fields that tell a set, and its reader."""


def _cases(file: Path) -> Iterator[tuple[str, str, Case]]:
    """(key, where, case) of every valid record of a file."""
    if file.suffix == ".jsonl":
        source = Jsonl(file)
        records = [(str(i), source.where(i), source[i]) for i in range(len(source))]
    else:
        content = load_json(file, "a compositional test set")
        named = (
            content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
        )
        records = [(str(key), f"{file}, record {key}", record) for key, record in named]
    for key, where, record in records:
        case = _reader(record, where)(record, where)
        if case is not None:
            yield key, where, case


def _reader(record: Any, where: str) -> Callable[[Any, str], Case | None]:
    if isinstance(record, list) and len(record) == 2 and isinstance(record[1], dict):
        return vl_checklist
    if isinstance(record, dict):
        for fields, read in FORMATS:
            if fields <= record.keys():
                return read
    raise DataError(where, "", f"{shown(record)} has none of the known formats", f"Give {KINDS}.")


def _field(record: dict[str, Any], field: str, where: str) -> Any:
    return required(record, field, where, "Take the file from its release again.")


def _text(record: dict[str, Any], field: str, where: str) -> str:
    return text_value(_field(record, field, where), where, field)


def _label(record: dict[str, Any], field: str, where: str) -> str | None:
    """A name of a kind, if the record has one."""
    value = record.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(where, field, f"is {shown(value)}", "Give a text, or leave it out.")
    return value


def _texts(record: dict[str, Any], where: str, *fields: str) -> tuple[str, ...]:
    return tuple(_text(record, field, where) for field in fields)
