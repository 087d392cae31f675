"""Captions of images: written greedily or by beam search, and measured against people's."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from wordregion.data.captions import CaptionCollator
from wordregion.data.loader import Transform
from wordregion.errors import UsageError
from wordregion.evaluate.cider import CiderD
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.evaluate.vqa import written
from wordregion.models.caption import CaptionWriter, word_head
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.models.generate import Limits, beam_search, write
from wordregion.schema import Batch, Dataset

_WORD = re.compile(r"n't\b|\d+(?:[.,:]\d+)+|[^\W_]+(?:-[^\W_]+)*|'(?:s|m|d|re|ve|ll)\b|\S")
_NOT = re.compile(r"(?<=[^\W\d_])n't\b")
_DROPPED = frozenset(["''", "'", "``", "`", "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'])

Row = tuple[str, tuple[str, ...], tuple[str, ...]]
"""(id of the record, people's captions, the caption of each way of writing)."""


@dataclass(frozen=True)
class Captions:
    """What `evaluate_captions` wrote and measured.

    Attributes:
        metrics: BLEU-4 and CIDEr, times 100 as in papers, by name: ``raw/beam3/CIDEr``.
        ids: of the records, in the order of the data set.
        predictions: by way of writing, a caption for each record.
    """

    metrics: dict[str, float]
    ids: tuple[str, ...]
    predictions: dict[str, tuple[str, ...]]

    @property
    def items(self) -> str:
        """What was captioned."""
        return f"{len(self.ids):,} images"

    def results(self, way: str) -> list[dict[str, Any]]:
        """COCO's result file: image id and caption. An id of digits is a number there."""
        ids = [int(name) if name.isdigit() else name for name in self.ids]
        return [{"image_id": i, "caption": text} for i, text in zip(ids, self.predictions[way], strict=True)]

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_captions(
    model: FusionModel,
    dataset: Dataset,
    collator: CaptionCollator,
    transform: Transform,
    *,
    beams: tuple[int, ...] = (1, 3),
    max_tokens: int = 20,
    min_tokens: int = 5,
    penalty: float = 1.0,
    neighbours: Callable[[], Dataset] | None = None,
    batch: int = 32,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Captions:
    """Captions every image of a data set and measures the captions with pycocoevalcap's BLEU-4 and CIDEr.

    Texts are split into words by `words`, without Java. METEOR and SPICE need Java: give `Captions.results` to
    pycocoevalcap's `COCOEvalCap`.

    Args:
        model: with a masked-word head; in any mode, which is restored.
        dataset: read once; its captions of whole images are the references.
        collator: gives the prompt.
        transform: makes the image a normalised tensor.
        beams: widths of the search, one row of metrics each; 1 = greedy.
        max_tokens: where a caption is cut; counts [CLS] and the prompt, as X-VLM's setting does.
        min_tokens: below this a caption does not end; counts likewise.
        penalty: see `Limits`.
        neighbours: opens a data set from which the baseline takes its captions: see `nearest_captions`. None = no
            baseline.
        batch: images at once.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar with rate and time left (main process only).

    Raises:
        UsageError: for bad arguments, a model that writes no captions or gives NaN, absent pycocoevalcap, or references
            without a word.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    if not beams or min(beams) < 1:
        raise UsageError(f"beams = {beams}: give widths of at least 1.")
    word_head(model)
    measures = scorers()
    limits = Limits(collator.tokenizer.sep_id, max_tokens, min_tokens, penalty)
    with evaluating(model, device) as where:
        rows = over_batches(
            lambda found: write_captions(model, found, collator, limits, beams),
            dataset,
            transform,
            collator,
            batch=batch,
            device=where,
            workers=workers,
            progress=progress,
            title="captions",
        )
        predictions = {way_of(width): tuple(row[2][i] for row in rows) for i, width in enumerate(beams)}
        if neighbours is not None:
            predictions["nearest"] = nearest_captions(
                model,
                dataset,
                neighbours(),
                collator,
                transform,
                batch=batch,
                workers=workers,
                device=where,
                progress=progress,
            )
    references = [row[1] for row in rows]
    metrics = {
        f"{protocol}/{way}/{name}": value
        for way, texts in predictions.items()
        for name, value in measured(texts, references, measures).items()
    }
    return Captions(metrics, tuple(row[0] for row in rows), predictions)


def way_of(beams: int) -> str:
    """How a width of the search is called in metrics."""
    return "greedy" if beams == 1 else f"beam{beams}"


@torch.no_grad()
def write_captions(
    model: FusionModel, batch: Batch, collator: CaptionCollator, limits: Limits, beams: Sequence[int]
) -> list[Row]:
    """The captions of a batch's images, each image encoded once."""
    image, prompt = model.encode_image(batch.image), collator.prompt_ids.to(batch.image.device)
    texts: list[list[str]] = []
    for width in beams:
        writer = CaptionWriter(model, image)
        found = (
            write(writer, prompt, len(image), limits)
            if width == 1
            else beam_search(writer, prompt, len(image), width, limits)
        )
        texts.append([written(collator.tokenizer.decode(ids)) for ids in found.ids])
    return [
        (name, tuple(references), tuple(own))
        for name, references, *own in zip(batch.target["id"], batch.target["references"], *texts, strict=True)
    ]


def nearest_captions(
    model: FusionModel,
    dataset: Dataset,
    known: Dataset,
    collator: CaptionCollator,
    transform: Transform,
    *,
    images: int = 5,
    batch: int = 32,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> tuple[str, ...]:
    """The baseline that writes nothing: for each image a caption of the most similar known images.

    Images are compared by the cosine of the image encoder's summaries. Of the captions of the nearest ones that is
    taken which is most like the others by CIDEr-D (Devlin et al. 2015).

    Args:
        model: in evaluation mode.
        dataset: what to caption.
        known: images with captions.
        collator: as in `evaluate_captions`.
        transform: likewise.
        images: how many of the nearest images give their captions.
        batch: images at once.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar.

    Raises:
        UsageError: if a summary is not finite.
    """

    @torch.no_grad()
    def encode(found: Batch) -> list[tuple[list[float], tuple[str, ...]]]:
        summary = torch.nn.functional.normalize(model.encode_image(found.image)[:, 0].float(), dim=-1)
        return list(zip(summary.tolist(), map(tuple, found.target["references"]), strict=True))

    def encoded(source: Dataset, title: str) -> list[tuple[list[float], tuple[str, ...]]]:
        where = torch.device(device) if device is not None else next(model.parameters()).device
        return over_batches(
            encode, source, transform, collator, batch=batch, device=where, workers=workers, progress=progress,
            title=title,
        )  # fmt: skip

    theirs, ours = encoded(known, "known images"), encoded(dataset, "images")
    captions = [[words(caption) for caption in own] for _, own in theirs]
    cider = CiderD(captions)
    table = torch.tensor([vector for vector, _ in theirs])
    similar = torch.tensor([vector for vector, _ in ours]) @ table.T
    require_finite(similar, "image summaries")
    chosen = similar.topk(min(images, len(theirs)), dim=1).indices.tolist()
    return tuple(_most_typical([captions[i] for i in own], cider) for own in chosen)


def _most_typical(captions: Sequence[Sequence[Sequence[str]]], cider: CiderD) -> str:
    pool = [caption for own in captions for caption in own]
    if len(pool) == 1:
        return " ".join(pool[0])
    scores = [cider.score(caption, [*pool[:i], *pool[i + 1 :]]) for i, caption in enumerate(pool)]
    return " ".join(pool[max(range(len(pool)), key=scores.__getitem__)])


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, as near to the Java tokenizer of COCO's captions as rules come.

    Possessives and short verbs stand alone ("dog 's", "do n't"); words with hyphens stay whole.
    """
    text = _NOT.sub(" n't", text.lower().replace("\u2019", "'").replace("cannot", "can not"))
    return [word for word in _WORD.findall(text) if word not in _DROPPED]


Scorers = Mapping[str, Callable[[dict[int, list[str]], dict[int, list[str]]], float]]


def scorers() -> Scorers:
    """BLEU-4 and CIDEr of pycocoevalcap, as functions of (references, captions) to a share.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise UsageError(
            "captions are measured with pycocoevalcap. Install it: pip install 'wordregion[caption]'"
        ) from (error)
    return {
        "BLEU-4": lambda references, captions: Bleu(4).compute_score(references, captions, verbose=0)[0][3],
        "CIDEr": lambda references, captions: Cider().compute_score(references, captions)[0],
    }


def measured(predictions: Sequence[str], references: Sequence[Sequence[str]], measures: Scorers) -> dict[str, float]:
    """Each measure of some captions, times 100.

    Raises:
        UsageError: if no reference has a word (pycocoevalcap counts none).
    """
    people = {i: [" ".join(words(text)) for text in own] for i, own in enumerate(references)}
    if not any(text for own in people.values() for text in own):
        raise UsageError(
            "no reference caption has a word, so nothing can be measured. Check the captions of the data set."
        )
    ours = {i: [" ".join(words(text))] for i, text in enumerate(predictions)}
    return {name: 100 * float(measure(people, ours)) for name, measure in measures.items()}
