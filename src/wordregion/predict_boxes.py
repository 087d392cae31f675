"""`wordregion predict detect` and `predict ground`: boxes of classes, or of a caption's phrases, in a user's pictures.

Shape letters: K boxes.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tyro.conf import Positional, arg

from wordregion.data.files import existing_file
from wordregion.data.ground_collate import PictureCollator
from wordregion.data.images import ImageStore, decode
from wordregion.data.loader import Transform
from wordregion.data.noun_phrases import noun_phrases
from wordregion.data.prompts import Prompt, Span, chunks, class_chunks, clean_name, phrase_prompts
from wordregion.data.tagging import Tagger
from wordregion.data.tokens import Tokenizer
from wordregion.detector import Ask, Found
from wordregion.errors import DataError, UsageError
from wordregion.evaluate.common import progress_bars
from wordregion.evaluate.detection import ask_for_classes
from wordregion.schema import Sample

if TYPE_CHECKING:
    import supervision as sv

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
DRAWN = (".png", ".jpg", ".jpeg", ".webp")
UNUSED = np.random.default_rng(0)
"""Evaluation transforms draw nothing."""


@dataclass(frozen=True)
class _BoxFlags:
    run: Path
    """folder of a run, or of a model that `wordregion convert` wrote"""
    out: Annotated[Path, arg(aliases=("-o",))] = Path("boxes.png")
    """picture to write; for a folder of pictures, the folder to write them to"""
    json: Path | None = None
    """also write the boxes as JSON: for each picture the phrases, boxes in pixels and scores"""
    coco: Path | None = None
    """also write the boxes in COCO's layout, each with its score"""
    least: float = 0.5
    """smallest score of a box, 0 to 1"""
    batch: int = 4
    """pictures that go through the model together"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model, which has no recipe to name it: a hub name, a folder or a vocab.txt"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


@dataclass(frozen=True, kw_only=True)
class DetectFlags(_BoxFlags):
    """Finds the boxes of classes in a picture, or in all pictures of a folder or tar, and draws them.

    Any number of classes: they are asked for in several prompts, and the picture is encoded once.

    Examples: `wordregion predict detect street.jpg "person. bicycle. hair dryer." --run runs/mine -o boxes.png`,
    `wordregion predict detect photos/ classes.txt --run models/glip --out drawn --coco found.json`
    """

    image: Positional[Path]
    """picture file, or a folder or tar of pictures"""
    classes: Positional[str]
    """class names with full stops between them, or a .txt file with one a line"""
    per_prompt: int = 40
    """classes a prompt, at most"""


@dataclass(frozen=True, kw_only=True)
class GroundFlags(_BoxFlags):
    """Finds the boxes of each noun phrase of a caption in a picture, or in all pictures of a folder or tar.

    Examples: `wordregion predict ground street.jpg "a man on a red bicycle" --run runs/mine -o boxes.png`
    """

    image: Positional[Path]
    """picture file, or a folder or tar of pictures"""
    caption: Positional[str]
    """what to find"""
    tagger: str = "en_core_web_sm"
    """spaCy pipeline that finds the nouns: a name, or a folder"""


@dataclass(frozen=True)
class Answer:
    """The boxes of one picture.

    Attributes:
        name: of the picture.
        size: width and height in pixels.
        phrases: by number.
        found: boxes, in [0, 1], best first.
    """

    name: str
    size: tuple[int, int]
    phrases: Sequence[str]
    found: Found

    def rows(self) -> list[dict[str, Any]]:
        """``{"phrase", "box": [x0, y0, x1, y1] in pixels, "score"}`` for each box."""
        return [
            {"phrase": self.phrases[label], "box": [round(v, 2) for v in box], "score": round(score, 4)}
            for label, box, score in zip(
                self.found.label.tolist(), self._pixels().tolist(), self.found.score.tolist(), strict=True
            )
        ]

    def detections(self) -> "sv.Detections":
        """As supervision's detections: xyxy in pixels, confidence, class_id, and the phrases as ``class_name``."""
        sv = _supervision()
        label = self.found.label.numpy().astype(int)
        return sv.Detections(
            xyxy=self._pixels().numpy().reshape(-1, 4),
            confidence=self.found.score.numpy(),
            class_id=label,
            data={"class_name": np.array([self.phrases[i] for i in label], dtype=object)},
        )

    def _pixels(self) -> Tensor:
        return self.found.box * torch.tensor(self.size * 2, dtype=torch.float32)


def parse_classes(text: str) -> tuple[str, ...]:
    """Class names from a text with full stops between them, or from a file with one a line.

    Raises:
        UsageError: if there are none, or the file is missing or not UTF-8.
    """
    if text.lower().endswith(".txt") and not Path(text).is_file():
        raise UsageError(f"detect: '{text}' is no file. Give class names, or a .txt file with one a line.")
    from_file = text.lower().endswith(".txt")
    try:
        names = Path(text).read_text(encoding="utf-8").splitlines() if from_file else text.split(".")
    except UnicodeDecodeError as error:
        raise UsageError(f"detect: '{text}' is not UTF-8 ({error}). Save it as UTF-8.") from error
    found = tuple(dict.fromkeys(name.strip() for name in names if clean_name(name).strip()))
    if not found:
        raise UsageError(f"detect: no class names in '{text}'. Write, for example, \"person. bicycle\".")
    return found


def check_flags(flags: DetectFlags | GroundFlags) -> list[str] | None:
    """Names of the pictures in a folder or tar, or None for a single picture, before anything large is loaded.

    Raises:
        UsageError: for a missing picture, an empty folder, or names that nothing can be written to.
    """
    what = "detect" if isinstance(flags, DetectFlags) else "ground"
    if not 0 < flags.least <= 1 or flags.batch < 1:
        raise UsageError(f"{what}: least={flags.least}, batch={flags.batch}: 0 < least <= 1 and batch >= 1 must hold.")
    for path in (flags.json, flags.coco):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{what}: '{path}' can't be written, no such folder. Give another name.")
    many = flags.image.is_dir() or flags.image.suffix.lower() == ".tar"
    if not many:
        existing_file(flags.image, "a picture")
        if flags.out.suffix.lower() not in DRAWN or not flags.out.absolute().parent.is_dir():
            raise UsageError(f"{what}: '{flags.out}' can't be written. End it in one of {', '.join(DRAWN)}.")
        return None
    if flags.out.suffix:
        raise UsageError(f"{what}: {flags.image} holds many pictures, '{flags.out}' is one. Name a folder: --out drawn")
    names = [name for name in ImageStore(flags.image).names() if Path(name).suffix.lower() in PICTURES]
    if not names:
        raise UsageError(f"{what}: no pictures in {flags.image}. It should hold {', '.join(PICTURES)}.")
    return names


def class_prompts(flags: DetectFlags, tokenizer: Tokenizer) -> tuple[tuple[str, ...], list[Prompt]]:
    """The class names, and the prompts that ask for them."""
    names = parse_classes(flags.classes)
    return names, class_chunks(names, tokenizer, flags.per_prompt)


def caption_prompts(caption: str, tagger: Tagger, tokenizer: Tokenizer) -> tuple[tuple[str, ...], list[Prompt]]:
    """The noun phrases of a caption, and the prompts that ask for them.

    Raises:
        UsageError: if it has none.
    """
    spans: list[Span] = noun_phrases(tagger([caption])[0])
    if not spans:
        raise UsageError(
            f"ground: no noun phrase in '{caption}'. Say what to find, for example \"a man on a bicycle\"."
        )
    return tuple(caption[begin:end] for begin, end in spans), phrase_prompts(caption, spans, tokenizer)


def find_boxes(
    ask: Ask,
    tokenizer: Tokenizer,
    transform: Transform,
    pictures: Sequence[tuple[str, Image.Image]],
    phrases: Sequence[str],
    prompts: Sequence[Prompt],
    least: float,
    device: torch.device,
) -> list[Answer]:
    """The boxes of one batch of pictures.

    Args:
        ask: a `Detector`, or any other.
        tokenizer: of the prompts.
        transform: makes a picture a normalised tensor.
        pictures: names, and RGB pictures.
        phrases: by the numbers that the prompts use.
        prompts: what to ask.
        least: smallest score.
        device: of the model.
    """
    samples = [Sample(name, (picture,), (), ()) for name, picture in pictures]
    items = [(i, transform(sample, UNUSED), UNUSED) for i, sample in enumerate(samples)]
    batch = PictureCollator(tokenizer)(items).to(device)
    found = [boxes.over(least) for boxes in ask_for_classes(ask, batch, prompts)]
    return [Answer(name, picture.size, phrases, boxes) for (name, picture), boxes in zip(pictures, found, strict=True)]


def open_pictures(
    path: Path, names: Sequence[str] | None, batch: int, broken: list[str]
) -> Iterator[list[tuple[str, Image.Image]]]:
    """Batches of named pictures; those that can't be read are passed over and noted in `broken`.

    Raises:
        DataError: if a single picture can't be read.
    """
    if names is None:
        yield [(path.name, decode(path.read_bytes(), str(path)))]
        return
    store = ImageStore(path)
    for part in chunks(names, batch):
        opened = []
        for name in part:
            try:
                opened.append((name, store.open(name, f"{path}, {name}")))
            except DataError as error:
                broken.append(str(error))
        if opened:
            yield opened


def draw_boxes(picture: Image.Image, answer: Answer) -> Image.Image:
    """The picture with its boxes, phrases and scores; one colour a phrase."""
    if not len(answer.found):
        return picture
    sv = _supervision()
    boxes = answer.detections()
    scale = sv.calculate_optimal_text_scale(picture.size)
    drawn = sv.BoxAnnotator(thickness=sv.calculate_optimal_line_thickness(picture.size)).annotate(picture.copy(), boxes)
    labels = [f"{row['phrase']} {row['score']:.2f}" for row in answer.rows()]
    return sv.LabelAnnotator(text_scale=scale, text_padding=3, smart_position=True).annotate(drawn, boxes, labels)


def run_boxes(
    flags: DetectFlags | GroundFlags,
    names: Sequence[str] | None,
    ask: Ask,
    tokenizer: Tokenizer,
    transform: Transform,
    phrases: Sequence[str],
    prompts: Sequence[Prompt],
    device: torch.device,
) -> tuple[list[Answer], list[str]]:
    """All pictures, drawn, and the files that were asked for.

    Args:
        flags: of the command.
        names: of `check_flags`.
        ask: a `Detector`, or any other.
        tokenizer: of the prompts.
        transform: makes a picture a normalised tensor.
        phrases: by the numbers that the prompts use.
        prompts: what to ask.
        device: of the model.

    Returns:
        the boxes of each picture, and a line for each picture that can't be read.
    """
    answers: list[Answer] = []
    broken: list[str] = []
    with progress_bars(names is not None) as bar, bar("pictures", len(names or [0])) as advance:
        for pictures in open_pictures(flags.image, names, flags.batch, broken):
            own = find_boxes(ask, tokenizer, transform, pictures, phrases, prompts, flags.least, device)
            for (name, picture), answer in zip(pictures, own, strict=True):
                out = flags.out if names is None else (flags.out / name).with_suffix(".png")
                out.parent.mkdir(parents=True, exist_ok=True)
                draw_boxes(picture, answer).save(out)
            answers += own
            advance(len(pictures))
    if flags.json is not None:
        flags.json.write_text(json.dumps([as_json(answer) for answer in answers], indent=1) + "\n", encoding="utf-8")
    if flags.coco is not None:
        flags.coco.write_text(json.dumps(as_coco(answers)) + "\n", encoding="utf-8")
    return answers, broken


def as_json(answer: Answer) -> dict[str, Any]:
    """One picture's boxes as JSON values."""
    return {"image": answer.name, "width": answer.size[0], "height": answer.size[1], "boxes": answer.rows()}


def as_coco(answers: Sequence[Answer]) -> dict[str, Any]:
    """Pictures, phrases and boxes in COCO's layout; ids from 1, a score in each annotation."""
    phrases = list(dict.fromkeys(phrase for answer in answers for phrase in answer.phrases))
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for number, answer in enumerate(answers, 1):
        width, height = answer.size
        images.append({"id": number, "file_name": answer.name, "width": width, "height": height})
        for row in answer.rows():
            x0, y0, x1, y1 = row["box"]
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            kind = phrases.index(row["phrase"]) + 1
            notes.append({"id": len(notes) + 1, "image_id": number, "category_id": kind, "score": row["score"], **box})
    categories = [{"id": number, "name": phrase} for number, phrase in enumerate(phrases, 1)]
    return {"images": images, "annotations": notes, "categories": categories}


def _supervision() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OpenCV")
        import supervision
    return supervision
