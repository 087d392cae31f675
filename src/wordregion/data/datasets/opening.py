"""From what a user types to a data set."""

import re
from pathlib import Path

from wordregion.data.datasets.albef import AlbefJson
from wordregion.data.datasets.coco import CocoCaptions, CocoInstances
from wordregion.data.datasets.daquar import Daquar
from wordregion.data.datasets.flickr import Flickr30kEntities
from wordregion.data.datasets.mdetr import MdetrGrounding
from wordregion.data.datasets.nlvr import Nlvr
from wordregion.data.datasets.nlvr2 import Nlvr2, kind_of_statements
from wordregion.data.datasets.odvg import Odvg, is_odvg
from wordregion.data.datasets.open_images import CLASSES, OpenImages
from wordregion.data.datasets.pairs import ImageText
from wordregion.data.datasets.refer import Referring
from wordregion.data.datasets.region_lines import RegionLines, is_region_line
from wordregion.data.datasets.snli_ve import SnliVe, is_snli_ve
from wordregion.data.datasets.visual_genome import IMAGES, VisualGenome
from wordregion.data.datasets.vqa import open_questions
from wordregion.data.few_shot import Subset
from wordregion.data.files import load_json
from wordregion.data.sources import HFDataset, Jsonl, Parquet, Source, Tar
from wordregion.errors import DataError, UsageError
from wordregion.schema import Dataset

KINDS = (
    "scenes, a .jsonl (captions, X-VLM's regions, ODVG), .json (ALBEF captions or questions, COCO captions or "
    "instances, LVIS, Objects365, MDETR, NLVR, NLVR2, RefCOCO, VQA v2 questions), .txt (DAQUAR), .parquet or .tar file "
    "(or pattern), or a folder of Flickr30k Entities, OpenImages, Visual Genome or of a saved Hugging Face data set"
)

_PART = re.compile(r"(.+)\[(-?\d*):(-?\d*)(?::(-?\d*))?\]")
_VAL_SCENES = 512  # making every caption true of one scene only takes time that grows with the square of this


def open_source(spec: str, images: Path | None = None, by_image: bool = False) -> Dataset:
    """The data set that a path points at, recognised by its name and content.

    ``scenes`` is the built-in set: 20,000 scenes for training, 512 for validation; ``scenes:NAMES`` is the same as a
    detection set (`data.scene_detections.NAMES`): ``"scenes:renamed#val"``.

    Args:
        spec: a path or pattern, with ``#split`` where a source has splits: ``"flickr30k#val"``, ``"scenes#val"``. At
            its end, ``[begin:end]`` or ``[begin:end:step]`` picks records as in Python: ``"flickr30k#train[0::2]"``.
        images: folder or tar of the images, if they are not beside the source.
        by_image: one sample an image, with all its captions, also where a file has a record a caption (ALBEF's JSON).

    Raises:
        UsageError: if there is no such source, or its kind is not known.
        DataError: if the source cannot be used as a whole.
    """
    if (part := _PART.fullmatch(spec)) and not Path(spec).exists():
        begin, end, step = (int(part[k]) if part[k] else None for k in (2, 3, 4))
        if step == 0:
            raise UsageError(f"{spec}: a step of 0 picks nothing. Write, for example, {part[1]}[0::2].")
        dataset = open_source(part[1], images, by_image)
        return Subset(dataset, range(len(dataset))[begin:end:step], name=spec)
    path, split = (spec, None) if Path(spec).exists() else _split(spec)
    if (path == "scenes" or path.startswith("scenes:")) and not Path(path).exists():
        if images is not None and not images.exists():  # else they are of another source of the same mixture
            raise UsageError(f"{images}: no such image folder or tar, and {path} draws its own. Leave 'images' out.")
        return _open_scenes(spec, path, "train" if split is None else split)
    if Path(path).is_dir():
        return _open_folder(Path(path), split, images)
    if Path(path).suffix.lower() == ".txt" and Path(path).is_file():
        return Daquar(path, images or Path(path).parent, split or "all")
    if split is not None:
        raise UsageError(f"{spec}: '#{split}' names a split, but {path} is no folder. Leave it out.")
    suffix = Path(path).suffix.lower()
    if suffix in (".json", ".jsonl") and (statements := kind_of_statements(Path(path))) is not None:
        return (Nlvr2 if statements == "nlvr2" else Nlvr)(path, images)
    if suffix in (".json", ".jsonl") and is_snli_ve(Path(path)):
        return SnliVe(path, images)
    match suffix:
        case ".jsonl" | ".ndjson":
            return _lines(Jsonl(path), images)
        case ".parquet":
            return ImageText(Parquet(path), images)
        case ".tar":
            return _lines(Tar(path), images)
        case ".json":
            return _open_json(Path(path), images, by_image)
    known = "unknown kind of file" if Path(path).exists() else "no such file or folder"
    raise UsageError(f"{spec}: {known}. Give {KINDS}.")


def _open_scenes(spec: str, path: str, split: str) -> Dataset:
    from wordregion.data.scene_detections import SceneDetections
    from wordregion.data.scenes import Scenes

    if split not in ("train", "val"):
        raise UsageError(f"{spec}: no such split. Use {path}#train or {path}#val.")
    size = _VAL_SCENES if split == "val" else 20_000
    return Scenes(split, size) if path == "scenes" else SceneDetections(split, size, names=path.partition(":")[2])


def _split(spec: str) -> tuple[str, str | None]:
    path, mark, split = spec.rpartition("#")
    return (path, split) if mark else (spec, None)


def _open_folder(path: Path, split: str | None, images: Path | None) -> Dataset:
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
        return ImageText(HFDataset(path, split), images)
    if (path / "Annotations").is_dir() or list(path.glob("annotations*.tar*")):
        return Flickr30kEntities(path, split or "train", images)
    if (path / CLASSES).is_file() and not (path / IMAGES).is_file():
        return OpenImages(path, split or "train", images)
    if split is not None:
        raise UsageError(f"{path}#{split}: '#{split}' names a split, but {path} has none. Leave it out.")
    if (path / IMAGES).is_file():
        return VisualGenome(path, images)
    if list(path.glob("*.tar")):
        return _lines(Tar(f"{path}/*.tar"), images)
    if list(path.glob("*.parquet")):
        return ImageText(Parquet(f"{path}/*.parquet"), images)
    raise UsageError(f"{path}: no data set recognised in this folder. Give {KINDS}.")


def _lines(source: Source, images: Path | None) -> Dataset:
    """What the first sound record says that it is."""
    for index in range(min(20, len(source))):
        try:
            record = source[index]
        except DataError:  # reported when the record is read
            continue
        if is_region_line(record):
            return RegionLines(source, images)
        return Odvg(source, images) if is_odvg(record) else ImageText(source, images)
    return ImageText(source, images)


def _open_json(path: Path, images: Path | None, by_image: bool) -> Dataset:
    remedy = "Expected ALBEF's list of captions or questions, VQA v2's questions, or COCO's captions or instances."
    content = load_json(path, "a JSON file of captions or boxes")
    if (isinstance(content, dict) and "questions" in content) or (
        isinstance(content, list) and any(isinstance(record, dict) and "question" in record for record in content[:100])
    ):
        return open_questions(path, images, content=content)
    if isinstance(content, list):
        if any(isinstance(record, dict) and "ref_id" in record for record in content[:100]):
            return Referring(path, images)
        return AlbefJson(path, images, content, by_image)
    if not isinstance(content, dict):
        raise DataError(str(path), "", f"the top level is {type(content).__name__}", remedy)
    notes = content.get("annotations")
    if not isinstance(notes, list):
        raise DataError(str(path), "annotations", f"no such list (keys: {', '.join(list(content)[:12])})", remedy)
    if any(isinstance(note, dict) and "tokens_positive" in note for note in notes[:100]):
        return MdetrGrounding(path, images, content)
    if any(isinstance(note, dict) and "caption" in note for note in notes[:100]):
        return CocoCaptions(path, images, content)
    if "categories" in content or any(isinstance(note, dict) and "bbox" in note for note in notes[:100]):
        return CocoInstances(path, images, content)
    raise DataError(str(path), "annotations", "neither 'caption' nor 'bbox' in the first 100 entries", remedy)
