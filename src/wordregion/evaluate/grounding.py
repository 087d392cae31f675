"""Weakly supervised grounding: where does Grad-CAM look for a phrase, by a model that never saw a box?

Two measures beside two baselines that see no text: the pointing game for every phrase, and, where a sample brings
boxes to choose from, RefCOCO's accuracy (the best box has an IoU of at least 0.5 with the true one).

Shape letters: I images, T texts, P pairs, G phrases, L tokens, N image tokens, Y and X cells of a map, K boxes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wordregion.data.collate import Collates
from wordregion.data.loader import Transform
from wordregion.data.phrases import PhraseCollator, Phrases
from wordregion.errors import UsageError
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.evaluate.pointing import box_scores, covered, overlap_hits, peaks, point_hits
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.models.gradcam import (
    check_words_count,
    match_attention,
    published_image_layer,
    published_layer,
    similarity_maps,
    text_maps,
    token_maps,
)
from wordregion.schema import Batch, Box, Dataset

Mode = Literal["itm", "itc"]
PAIRS_AT_ONCE = 128
"""Pairs whose attention and gradient are held at a time."""
CENTRE = (0.5, 0.5)


@dataclass(frozen=True)
class Located:
    """One phrase and where it was looked for. Shares are probabilities of a hit by chance, else 0 or 1.

    Attributes:
        image: ``Sample`` position in the data set.
        phrase: its words.
        split: that the data set gives it, or "".
        point: (x, y) of the map's maximum in [0, 1].
        pointing: share of hits of the pointing game by the map, the image's centre, and a random point.
        choice: index of the proposal that the map prefers, or -1 where there are none.
        accuracy: share of right boxes by the map, by the proposal nearest the centre, and by a random proposal; empty
            where there are none.
    """

    image: int
    phrase: str
    split: str
    point: tuple[float, float]
    pointing: tuple[float, float, float]
    choice: int
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class PhraseGrounding:
    """What `evaluate_grounding` measured.

    Attributes:
        metrics: percent by name; ``raw/itm_layer2_alone/pointing``, ``raw/centre/testA_acc@0.5`` ...
        located: every phrase.
    """

    metrics: dict[str, float]
    located: tuple[Located, ...]

    @property
    def items(self) -> str:
        """What was looked for."""
        return f"{len(self.located):,} phrases in {len({found.image for found in self.located}):,} images"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_grounding(
    model: FusionModel,
    dataset: Dataset,
    collator: Collates,
    transform: Transform,
    *,
    mode: Mode = "itm",
    layer: int | None = None,
    phrases: Phrases = "alone",
    batch: int = 32,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> PhraseGrounding:
    """Grounds every phrase of a data set that has boxes. Processes share the work; all get the whole result.

    Args:
        model: in any mode; evaluated without dropout, its mode is restored.
        dataset: samples whose groundings have boxes; ``target["proposals"]`` (boxes to choose from) and
            ``target["splits"]`` (a name for each text) are used where given.
        collator: gives the tokenizer of the phrases.
        transform: makes the images normalised tensors of the model's size, and leaves boxes in place.
        mode: ``"itm"``: gradient of the match logit on a fusion layer's cross-attention; ``"itc"``: of the contrast's
            similarity on the image encoder.
        layer: of the fusion encoder (itm) or the image encoder (itc), from 0; None = as deep as the paper's.
        phrases: whether a phrase is read alone, or in its caption with the map averaged over the phrase's tokens.
        batch: images at a time.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar (main process only).

    Raises:
        UsageError: for a bad argument, maps that are not finite, or if no sample has a box.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    if mode not in ("itm", "itc") or phrases not in ("alone", "in_caption"):
        raise UsageError(f"mode={mode!r}, phrases={phrases!r}: choose itm or itc, and alone or in_caption.")
    if mode == "itc" and phrases == "in_caption":
        raise UsageError("mode='itc' has one map for a whole text. Use phrases='alone', or mode='itm'.")
    if mode == "itm" and phrases == "in_caption":
        check_words_count(model, layer)
    with evaluating(model, device) as where, torch.no_grad():

        def predict(found: Batch) -> list[tuple[Located, ...]]:
            return locate(phrase_maps(model, found, mode, layer), found)

        collate = PhraseCollator(collator.tokenizer, phrases)
        rows = over_batches(
            predict, dataset, transform, collate, batch=batch, device=where, workers=workers, progress=progress
        )
    located = tuple(found for row in rows for found in row)
    if not located:
        raise UsageError(f"{dataset.name}: no phrase has a box, so there is nothing to find. Use a set with boxes.")
    return PhraseGrounding(summary(located, f"{protocol}/{_way(model, mode, layer)}_{phrases}", protocol), located)


def phrase_maps(
    model: FusionModel, batch: Batch, mode: Mode = "itm", layer: int | None = None
) -> Float[Tensor, "G Y X"]:
    """A Grad-CAM map for each grounding of a batch; see `evaluate_grounding`."""
    side = model.vision.grid
    if not len(batch.grounding_text):
        return torch.zeros(0, side, side, device=batch.image.device)
    assert batch.grounding_tokens is not None
    hidden_TLD = model.encode_text(batch.token_ids, batch.token_mask)
    if mode == "itc":
        text_TE = model.project_text(hidden_TLD, batch.token_mask)
        maps_TYX = similarity_maps(model, batch.image, text_TE, batch.text_image, layer)
        return maps_TYX[batch.grounding_text]
    image_INV = model.encode_image(batch.image)
    maps = []
    for rows in torch.arange(len(hidden_TLD), device=hidden_TLD.device).split(PAIRS_AT_ONCE):
        mask = batch.token_mask[rows]
        attention = match_attention(model, image_INV, hidden_TLD[rows], mask, batch.text_image[rows], layer)
        maps.append(token_maps(attention, mask))
    return text_maps(torch.cat(maps)[batch.grounding_text], batch.grounding_tokens)


def locate(maps_GYX: Float[Tensor, "G Y X"], batch: Batch) -> list[tuple[Located, ...]]:
    """What the maps of a batch from `PhraseCollator` find: for each sample, its phrases."""
    maps, box_K4, owner_K = maps_GYX.float().cpu(), batch.box.cpu(), batch.box_grounding.cpu()
    image_G = batch.text_image[batch.grounding_text].tolist()
    rows: list[list[Located]] = [[] for _ in batch.image_key]
    if not len(maps):
        return [() for _ in rows]
    require_finite(maps, "maps")
    points = peaks(maps)
    centre = torch.tensor(CENTRE).expand(len(maps), 2)
    hits, centre_hits = point_hits(points, box_K4, owner_K), point_hits(centre, box_K4, owner_K)
    for g, image in enumerate(image_G):
        true_K4 = box_K4[owner_K == g]
        choice, accuracy = _choose(maps[g : g + 1], batch.target["proposals"][image], true_K4)
        rows[image].append(
            Located(
                image=int(batch.image_key[image]),
                phrase=batch.target["phrase"][g],
                split=batch.target["split"][g] or "",
                point=(float(points[g, 0]), float(points[g, 1])),
                pointing=(float(hits[g]), float(centre_hits[g]), covered(true_K4)),
                choice=choice,
                accuracy=accuracy,
            )
        )
    return [tuple(row) for row in rows]


def _choose(map_1YX: Tensor, proposals: Sequence[Box] | None, true_K4: Tensor) -> tuple[int, tuple[float, ...]]:
    if not proposals:
        return -1, ()
    box_B4 = torch.tensor(proposals, dtype=torch.float32)
    right_B = overlap_hits(box_B4, true_K4)
    choice = int(box_scores(map_1YX, box_B4)[0].argmax())
    middle_B2 = (box_B4[:, :2] + box_B4[:, 2:]) / 2
    central = int((middle_B2 - torch.tensor(CENTRE)).norm(dim=1).argmin())
    return choice, (float(right_B[choice]), float(right_B[central]), float(right_B.double().mean()))


def summary(located: Sequence[Located], way: str, protocol: str) -> dict[str, float]:
    """Percent for the map and for both baselines; for each split that the data set names, and over all otherwise."""
    metrics: dict[str, float] = {}
    splits = sorted({found.split for found in located})
    shares: dict[str, Callable[[Located], Sequence[float]]] = {
        "pointing": lambda found: found.pointing,
        "acc@0.5": lambda found: found.accuracy,
    }
    for position, name in enumerate((way, f"{protocol}/centre", f"{protocol}/random")):
        for split in splits:
            for measure, of in shares.items():
                values = [of(found)[position] for found in located if found.split == split and of(found)]
                if values:
                    title = f"{split}_{measure}" if split else measure
                    metrics[f"{name}/{title}"] = 100 * sum(values) / len(values)
    return metrics


def _way(model: FusionModel, mode: Mode, layer: int | None) -> str:
    if mode == "itm":
        return f"itm_layer{published_layer(len(model.fusion.layers)) if layer is None else layer}"
    if model.vision.prefix_tokens:
        return f"itc_layer{published_image_layer(len(model.vision.blocks())) if layer is None else layer}"
    return "itc"
