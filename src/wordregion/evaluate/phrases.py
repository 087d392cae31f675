"""Phrase localisation: a detector reads a caption and finds the boxes of each of its phrases (Flickr30k Entities)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from wordregion.data.collate import Collates
from wordregion.data.ground_collate import PictureCollator
from wordregion.data.loader import Transform
from wordregion.data.prompts import Span, phrase_prompts
from wordregion.detector import Ask, Detector, Question
from wordregion.errors import UsageError
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.evaluate.phrase_recall import ALL, ANY, MERGED, FoundPhrase, find_phrase, recall
from wordregion.models.grounder import Grounder
from wordregion.schema import Batch, Box, Dataset, Grounding

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@dataclass(frozen=True)
class PhraseResult:
    """What `evaluate_phrases` measured.

    Attributes:
        metrics: percent by name: ``raw/any_box/R@1``, ``raw/merged_box/R@10``, ``raw/any_box_people/R@1`` ...; and of
            the whole image as the one box of every phrase, ``raw/whole_image_any_box/R@1``.
        phrases: every phrase.
        images: how many were asked.
    """

    metrics: dict[str, float]
    phrases: tuple[FoundPhrase, ...]
    images: int

    @property
    def items(self) -> str:
        """On how much."""
        return f"{len(self.phrases):,} phrases in {self.images:,} images"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_phrases(
    model: Grounder,
    dataset: Dataset,
    collator: Collates,
    transform: Transform,
    *,
    batch: int = 4,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> PhraseResult:
    """Recall of phrases at 1, 5 and 10 boxes. Processes share the work; all get the whole result.

    A picture is encoded once for all its captions; a caption over the tokenizer's limit is read in pieces.

    Args:
        model: in any mode; evaluated without dropout, its mode is restored.
        dataset: samples whose captions have spans with boxes.
        collator: gives the tokenizer of the captions.
        transform: makes the picture a normalised tensor, and leaves boxes in place.
        batch: images at a time.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar (main process only).

    Raises:
        UsageError: for a bad argument, outputs that are not finite, or if no phrase has a box.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    with evaluating(model, device) as where:
        return measure_phrases(
            Detector(model, collator.tokenizer),
            dataset,
            collator,
            transform,
            batch=batch,
            protocol=protocol,
            workers=workers,
            device=where,
            progress=progress,
        )


def measure_phrases(
    ask: Ask,
    dataset: Dataset,
    collator: Collates,
    transform: Transform,
    *,
    batch: int = 4,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device,
    progress: bool = True,
) -> PhraseResult:
    """`evaluate_phrases` for whatever answers questions."""
    check_request(protocol, dataset, batch)

    def predict(found: Batch) -> list[tuple[tuple[FoundPhrase, ...], tuple[FoundPhrase, ...]]]:
        questions: list[Question] = []
        owner: list[list[_Asked]] = []
        for i, (texts, groundings, types) in enumerate(
            zip(found.target["texts"], found.target["groundings"], found.target["types"], strict=True)
        ):
            for text, asked in _by_text(groundings, types).items():
                spans = [phrase.span or (0, len(texts[text])) for phrase in asked]
                for prompt in phrase_prompts(texts[text], spans, collator.tokenizer):
                    questions.append((i, prompt))
                    owner.append([asked[number] for number in prompt.spans])
        rows: list[tuple[list[FoundPhrase], list[FoundPhrase]]] = [([], []) for _ in range(len(found.image))]
        for (i, prompt), asked, answer in zip(questions, owner, ask(found, questions), strict=True):
            for number, phrase in zip(prompt.spans, asked, strict=True):
                true_M4 = torch.tensor(phrase.boxes)
                own_K4 = answer.box[answer.label == number]
                rows[i][0].append(find_phrase(own_K4, true_M4, phrase.types))
                rows[i][1].append(find_phrase(WHOLE, true_M4, phrase.types))
        return [(tuple(own), tuple(whole)) for own, whole in rows]

    collate = PictureCollator(collator.tokenizer)
    rows = over_batches(
        predict, dataset, transform, collate, batch=batch, device=device, workers=workers, progress=progress
    )
    phrases = tuple(phrase for own, _ in rows for phrase in own)
    if not phrases:
        raise UsageError(f"{dataset.name}: no phrase has a box, so there is nothing to find. Use a set with boxes.")
    metrics = _named(recall(phrases), protocol)
    whole = recall(tuple(phrase for _, own in rows for phrase in own), (1,))
    metrics |= {
        f"{protocol}/whole_image_{measure}/R@1": 100 * whole[f"{measure}/{ALL}/R@1"] for measure in (ANY, MERGED)
    }
    return PhraseResult(metrics, phrases, len(rows))


@dataclass(frozen=True)
class _Asked:
    span: Span | None
    boxes: tuple[Box, ...]
    types: tuple[str, ...]


def _by_text(groundings: Sequence[Grounding], types: Sequence[tuple[str, ...]] | None) -> dict[int, list[_Asked]]:
    """The phrases with boxes of each text; `types` has one entry for each grounding with boxes, or is None."""
    boxed = [g for g in groundings if g.boxes]
    asked: dict[int, list[_Asked]] = {}
    for grounding, own in zip(boxed, [()] * len(boxed) if types is None else types, strict=True):
        asked.setdefault(grounding.text, []).append(_Asked(grounding.span, grounding.boxes, tuple(own)))
    return asked


def _named(shares: dict[str, float], protocol: str) -> dict[str, float]:
    """``any_box/all/R@1`` as ``raw/any_box/R@1``, ``any_box/people/R@1`` as ``raw/any_box_people/R@1``; percent."""
    metrics = {}
    for name, value in shares.items():
        measure, kind, depth = name.split("/")
        way = measure if kind == ALL else f"{measure}_{kind}"
        metrics[f"{protocol}/{way}/{depth}"] = 100 * value
    return metrics
