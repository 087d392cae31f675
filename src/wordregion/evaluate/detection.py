"""Boxes by class name: a detector is asked for every class of a data set, prompt by prompt, and its boxes are measured.

Shape letters: K boxes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from wordregion.data.collate import Collates
from wordregion.data.datasets.coco import CocoInstances
from wordregion.data.files import load_json
from wordregion.data.ground_collate import PictureCollator
from wordregion.data.loader import Transform
from wordregion.data.prompts import Prompt, Wording, class_chunks
from wordregion.detector import Ask, Detector, Found
from wordregion.errors import UsageError
from wordregion.evaluate.box_ap import COCO_DEPTH, LVIS_DEPTH, Row, coco_ap, lvis_ap
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.models.detect import Thresholds
from wordregion.models.grounder import Grounder
from wordregion.schema import Batch, Box, Dataset

Measure = Literal["coco", "lvis"]
Boxes = tuple[tuple[int, Box, float], ...]
"""Number of a class, box in [0, 1], score."""


@dataclass(frozen=True)
class Seen:
    """What is known of one picture after it was asked.

    Attributes:
        id: of the sample.
        size: (width, height) in pixels, as the detector saw it.
        true: name and box of each true box.
        found: boxes found.
    """

    id: str
    size: tuple[int, int]
    true: tuple[tuple[str, Box], ...]
    found: Boxes


@dataclass(frozen=True)
class DetectionResult:
    """What `evaluate_detection` measured.

    Attributes:
        metrics: percent by name: ``raw/coco/AP``, ``finetuned_on_x/lvis_fixed/APr`` ...
        found: every box, as a row of COCO's result format.
        images: how many were asked.
        classes: how many were asked for.
    """

    metrics: dict[str, float]
    found: tuple[Row, ...]
    images: int
    classes: int

    @property
    def items(self) -> str:
        """On how much."""
        return f"{self.images:,} images and {self.classes:,} classes"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_detection(
    model: Grounder,
    dataset: Dataset,
    collator: Collates,
    transform: Transform,
    *,
    measure: Measure = "coco",
    classes: Sequence[str | Wording] | None = None,
    per_prompt: int = 40,
    batch: int = 4,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> DetectionResult:
    """Average precision on a detection set. Processes share the work; all get the whole result.

    A set in COCO's layout is measured against its file: crowds, areas and LVIS's verified classes count. Others are
    measured against the boxes of their samples, without the parts of AP by size.

    Args:
        model: in any mode; evaluated without dropout, its mode is restored.
        dataset: samples whose texts are class names and whose groundings have boxes.
        collator: gives the tokenizer of the prompts.
        transform: makes the picture a normalised tensor.
        measure: ``"coco"``: AP over the best 100 boxes of an image; ``"lvis"``: AP over the best 300 of a prompt, and
            the fixed AP.
        classes: what to ask for, one wording for each class of the data set, in its order; default: their names.
        per_prompt: classes a prompt, at most; the picture is encoded once for all prompts.
        batch: images at a time.
        protocol: ``"raw"`` (zero-shot) or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar (main process only).

    Raises:
        UsageError: for a bad argument, outputs that are not finite, or a data set without classes or boxes.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    depth = COCO_DEPTH if measure == "coco" else LVIS_DEPTH
    with evaluating(model, device) as where:
        ask = Detector(model, collator.tokenizer, Thresholds(most=depth))
        return measure_detection(
            ask,
            dataset,
            collator,
            transform,
            measure=measure,
            classes=classes,
            per_prompt=per_prompt,
            batch=batch,
            protocol=protocol,
            workers=workers,
            device=where,
            progress=progress,
        )


def measure_detection(
    ask: Ask,
    dataset: Dataset,
    collator: Collates,
    transform: Transform,
    *,
    measure: Measure,
    classes: Sequence[str | Wording] | None = None,
    per_prompt: int = 40,
    batch: int = 4,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device,
    progress: bool = True,
) -> DetectionResult:
    """`evaluate_detection` for whatever answers questions."""
    check_request(protocol, dataset, batch)
    names = class_names(dataset)
    if classes is not None and len(classes) != len(names):
        raise UsageError(f"{dataset.name}: {len(classes)} wordings for {len(names)} classes. Give one for each.")
    prompts = class_chunks(names if classes is None else classes, collator.tokenizer, per_prompt)
    depth = COCO_DEPTH if measure == "coco" else None

    def predict(found: Batch) -> list[Seen]:
        assert found.image_size is not None
        merged = ask_for_classes(ask, found, prompts, depth)
        target = found.target
        return [
            Seen(
                target["id"][i],
                (int(found.image_size[i, 1]), int(found.image_size[i, 0])),
                tuple((target["texts"][i][g.text], box) for g in target["groundings"][i] for box in g.boxes),
                rows_of(boxes),
            )
            for i, boxes in enumerate(merged)
        ]

    collate = PictureCollator(collator.tokenizer)
    seen = over_batches(
        predict, dataset, transform, collate, batch=batch, device=device, workers=workers, progress=progress
    )
    truth = truth_of(dataset, names, seen)
    found = truth.rows(seen)
    if measure == "lvis":
        metrics = {"lvis": lvis_ap(truth.content, found), "lvis_fixed": lvis_ap(truth.content, found, fixed=True)}
    else:
        metrics = {"coco": coco_ap(truth.content, found)}
        if not isinstance(dataset, CocoInstances):  # sizes are those of the detector's picture, not of the photo
            metrics = {"coco": {name: metrics["coco"][name] for name in ("AP", "AP50", "AP75")}}
    named = {f"{protocol}/{way}/{name}": v for way, values in metrics.items() for name, v in values.items()}
    return DetectionResult(named, tuple(found), len(seen), len(names))


def ask_for_classes(ask: Ask, batch: Batch, prompts: Sequence[Prompt], depth: int | None = None) -> list[Found]:
    """All prompts put to all pictures of a batch; boxes of one picture together, the best `depth` of them (None = all).

    Boxes of different prompts do not suppress each other (GLIP's code).
    """
    count = len(batch.image)
    answers = ask(batch, [(i, prompt) for prompt in prompts for i in range(count)])
    return [Found.joined(answers[i::count], depth) for i in range(count)]


def rows_of(found: Found) -> Boxes:
    """Plain values that processes can exchange."""
    columns = (found.label.tolist(), found.box.tolist(), found.score.tolist())
    return tuple((label, (x0, y0, x1, y1), score) for label, (x0, y0, x1, y1), score in zip(*columns, strict=True))


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """All classes that a data set knows, in its order. Raises UsageError if it has none."""
    names = getattr(dataset, "categories", None) or getattr(dataset, "classes", None) or ()
    names = tuple(names.values()) if isinstance(names, Mapping) else tuple(names)
    if not names:
        raise UsageError(f"{dataset.name}: knows no classes to ask for. Use COCO's layout, or ODVG with a label map.")
    return names


def truth_of(dataset: Dataset, names: Sequence[str], seen: Sequence[Seen]) -> "Truth":
    """What was to be found: the data set's own file where it is in COCO's layout, or the boxes of its samples."""
    if isinstance(dataset, CocoInstances):
        content = load_json(dataset.path, "COCO instances")
        by_id = {str(image["id"]): image for image in content["images"]}
        return Truth(content, [by_id[picture.id] for picture in seen], list(dataset.categories))
    number = {name: i + 1 for i, name in enumerate(names)}
    images = [{"id": i + 1, "width": picture.size[0], "height": picture.size[1]} for i, picture in enumerate(seen)]
    notes: list[Row] = []
    for picture, image in zip(seen, images, strict=True):
        for name, box in picture.true:
            if name not in number:
                raise UsageError(f"{dataset.name}: {picture.id} shows {name!r}, which is none of its classes.")
            row = {"image_id": image["id"], "category_id": number[name], "bbox": _pixels(box, image)}
            notes.append({"id": len(notes) + 1, **row})
    categories = [{"id": i, "name": name} for name, i in number.items()]
    return Truth({"images": images, "annotations": notes, "categories": categories}, images, [number[n] for n in names])


@dataclass(frozen=True)
class Truth:
    """True boxes, and whose they are.

    Attributes:
        content: in COCO's layout.
        images: entry of each picture that was asked.
        categories: id of each class.
    """

    content: dict[str, Any]
    images: list[dict[str, Any]]
    categories: list[int]

    def rows(self, seen: Sequence[Seen]) -> list[Row]:
        """Found boxes in COCO's result format, in pixels of the true images."""
        return [
            {
                "image_id": image["id"],
                "category_id": self.categories[label],
                "bbox": _pixels(box, image),
                "score": score,
            }
            for picture, image in zip(seen, self.images, strict=True)
            for label, box, score in picture.found
        ]


def _pixels(box: Box, image: Mapping[str, Any]) -> list[float]:
    x0, y0, x1, y1 = box
    width, height = image["width"], image["height"]
    return [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
