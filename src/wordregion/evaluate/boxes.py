"""Box accuracy: does the box head find what a phrase describes? (RefCOCO's measure, as X-VLM reports it.)

A phrase is found if its predicted box has an IoU of at least 0.5 with one of its true boxes; where phrases have
several, ``merged_acc@0.5`` counts against the box around them, which the head is trained to predict. ``pointing`` asks
only that the middle of the predicted box lies in a true one, as the maps of `evaluate.grounding` are judged. Beside it
stand two baselines that see neither picture nor text: the whole image, and the middle half of each side.

Shape letters: G phrases, K boxes of phrases.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordregion.data.collate import Collates
from wordregion.data.loader import Transform
from wordregion.data.phrases import PhraseCollator
from wordregion.errors import UsageError
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.evaluate.pointing import overlap_hits, point_hits
from wordregion.losses.boxes import to_corners
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.schema import Batch, Box, Dataset

BASELINES: dict[str, Box] = {"whole_image": (0.0, 0.0, 1.0, 1.0), "centre_box": (0.25, 0.25, 0.75, 0.75)}


@dataclass(frozen=True)
class FoundBox:
    """One phrase, the box that was predicted for it, and whether it is right.

    Attributes:
        image: position of the sample in the data set.
        phrase: its words.
        split: that the data set gives it, or "".
        box: predicted, xyxy in [0, 1].
        right: of the prediction, the whole image and the centre box: IoU >= 0.5 with one of the true boxes.
        right_merged: the same against the box around all true boxes.
        pointing: of the same three, whether the middle lies in one of the true boxes.
        boxes: how many true boxes there are.
    """

    image: int
    phrase: str
    split: str
    box: Box
    right: tuple[bool, ...]
    right_merged: tuple[bool, ...]
    pointing: tuple[bool, ...]
    boxes: int


@dataclass(frozen=True)
class BoxAccuracy:
    """What `evaluate_boxes` measured.

    Attributes:
        metrics: percent by name: ``raw/box/acc@0.5``, ``raw/whole_image/acc@0.5``, ``raw/box/testA_acc@0.5``,
            ``raw/box/pointing`` ...
        found: every phrase.
    """

    metrics: dict[str, float]
    found: tuple[FoundBox, ...]

    @property
    def items(self) -> str:
        """What was looked for."""
        return f"{len(self.found):,} phrases in {len({row.image for row in self.found}):,} images"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_boxes(
    model: FusionModel,
    dataset: Dataset,
    collator: Collates,
    transform: Transform,
    *,
    batch: int = 32,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> BoxAccuracy:
    """Predicts the box of every phrase that has one. Processes share the work; all get the whole result.

    Args:
        model: with a head ``box``; in any mode, which is restored.
        dataset: samples whose groundings have boxes; ``target["splits"]`` (a name for each text) is used where given.
        collator: gives the tokenizer of the phrases; each is read alone.
        transform: makes the images normalised tensors of the model's size, and leaves boxes in place.
        batch: images at a time.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar (main process only).

    Raises:
        UsageError: for a bad argument, a model without a box head, boxes that are not finite, or if no sample has a
            box.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    if "box" not in model.heads:
        raise UsageError("the model has no box head. Build it with zoo.for_boxes, and train it with the objective Box.")
    with evaluating(model, device) as where, torch.no_grad():
        rows = over_batches(
            lambda found: judged(predicted_boxes(model, found), found),
            dataset,
            transform,
            PhraseCollator(collator.tokenizer, "alone"),
            batch=batch,
            device=where,
            workers=workers,
            progress=progress,
        )
    found = tuple(row for of_image in rows for row in of_image)
    if not found:
        raise UsageError(f"{dataset.name}: no phrase has a box, so there is nothing to find. Use a set with boxes.")
    return BoxAccuracy(summary(found, protocol), found)


def predicted_boxes(model: FusionModel, batch: Batch) -> Float[Tensor, "G 4"]:
    """The box, xyxy in [0, 1], of each grounding's whole text in its image."""
    if not len(batch.grounding_text):
        return torch.zeros(0, 4)
    text, image = model.encode_text(batch.token_ids, batch.token_mask), model.encode_image(batch.image)
    cls = model.fuse(text, batch.token_mask, image, batch.text_image).cls
    box_T4 = to_corners(model.heads["box"](cls))
    require_finite(box_T4, "boxes")
    return box_T4.clamp(0, 1)[batch.grounding_text].cpu()


def judged(predicted_G4: Float[Tensor, "G 4"], batch: Batch) -> list[tuple[FoundBox, ...]]:
    """What was found in a batch from `PhraseCollator`: for each sample, its phrases."""
    box_K4, owner_K = batch.box.cpu(), batch.box_grounding.cpu()
    image_G = batch.text_image[batch.grounding_text].tolist()
    others = torch.tensor(list(BASELINES.values()))
    rows: list[list[FoundBox]] = [[] for _ in batch.image_key]
    for g, image in enumerate(image_G):
        true_K4 = box_K4[owner_K == g]
        merged_14 = torch.cat([true_K4[:, :2].amin(0), true_K4[:, 2:].amax(0)])[None]
        choices = torch.cat([predicted_G4[g : g + 1], others])
        x0, y0, x1, y1 = predicted_G4[g].tolist()
        rows[image].append(
            FoundBox(
                image=int(batch.image_key[image]),
                phrase=batch.target["phrase"][g],
                split=batch.target["split"][g] or "",
                box=(x0, y0, x1, y1),
                right=tuple(overlap_hits(choices, true_K4).tolist()),
                right_merged=tuple(overlap_hits(choices, merged_14).tolist()),
                pointing=tuple(_middle_hits(choices, true_K4).tolist()),
                boxes=len(true_K4),
            )
        )
    return [tuple(row) for row in rows]


def summary(found: Sequence[FoundBox], protocol: str) -> dict[str, float]:
    """Percent for the box head and for the baselines; for each split that the data set names."""
    measures: dict[str, Callable[[FoundBox], tuple[bool, ...]]] = {"acc@0.5": lambda row: row.right}
    if any(row.boxes > 1 for row in found):
        measures["merged_acc@0.5"] = lambda row: row.right_merged
    measures["pointing"] = lambda row: row.pointing
    metrics: dict[str, float] = {}
    for position, name in enumerate(("box", *BASELINES)):
        for split in sorted({row.split for row in found}):
            for measure, of in measures.items():
                values = [of(row)[position] for row in found if row.split == split]
                title = f"{split}_{measure}" if split else measure
                metrics[f"{protocol}/{name}/{title}"] = 100 * sum(values) / len(values)
    return metrics


def _middle_hits(choice_B4: Float[Tensor, "B 4"], box_K4: Float[Tensor, "K 4"]) -> Bool[Tensor, "B"]:
    middle_B2 = (choice_B4[:, :2] + choice_B4[:, 2:]) / 2
    of_each = torch.arange(len(choice_B4)).repeat_interleave(len(box_K4))
    return point_hits(middle_B2, box_K4.repeat(len(choice_B4), 1), of_each)
