"""Visual question answering: a list of candidates ranked, or answers freely generated, and how right they are."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wordregion.data.datasets.daquar import items
from wordregion.data.datasets.vqa import read_answers
from wordregion.data.loader import Transform
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.evaluate.answers import generate_answers, rank_answers
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.evaluate.vqa_accuracy import normalise, vqa_accuracy
from wordregion.evaluate.wups import wordnet_similarity, wups
from wordregion.models.fusion import FusionModel
from wordregion.models.questions import answer_decoder, encode_distinct, encode_for_prior, encode_questions, word_prior
from wordregion.schema import Batch, Dataset

WUPS = (0.9, 0.0)
_JOINED = re.compile(
    r"(?<=\d\.) (?=\d)|(?<=^\.) (?=\d)|(?<=\$\.) (?=\d)"  # 1.5, .5, $.50
    r"|(?<=\b\w\.) (?=\w\b)"  # u.s.a.
    r"|(?<=\bwww\.) (?=\w)|(?<=\w\.) (?=(?:com|org|net|edu)\b)"  # www.amazon.com
    r"|(?<=[$#]) (?=\w)"  # $10, #1
)
"""Spaces that nobody writes."""


@dataclass(frozen=True)
class Vqa:
    """What `evaluate_vqa` measured.

    Attributes:
        metrics: percent by name, for example ``raw/rank_k128/accuracy``; none if the data has no answers.
        questions: how many were asked.
        predictions: the answer to each question, in the order of the data set.
        question_ids: ``target["question_id"]`` of each, or its number where the data has none.
    """

    metrics: dict[str, float]
    questions: int
    predictions: tuple[str, ...]
    question_ids: tuple[int | str, ...]

    @property
    def items(self) -> str:
        """What was asked."""
        return f"{self.questions:,} questions"

    def submission(self) -> list[dict[str, Any]]:
        """The result file of the VQA challenge: question id and answer."""
        return [{"question_id": q, "answer": a} for q, a in zip(self.question_ids, self.predictions, strict=True)]

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class _Row:
    """One question: what was answered, and what the data says of it."""

    predicted: str
    answers: dict[str, float] | None
    human: list[str] | None
    kind: str | None
    question_id: int | str | None

    @property
    def truth(self) -> str:
        """The answer with the largest weight, the first of several."""
        assert self.answers
        return max(self.answers, key=self.answers.__getitem__)


def evaluate_vqa(
    model: FusionModel,
    dataset: Dataset,
    collator: SentenceCollator,
    transform: Transform,
    *,
    candidates: Sequence[str] | Path | None = None,
    k: int = 128,
    beams: int = 1,
    max_answer_tokens: int = 10,
    wordnet: bool = False,
    original_behaviour: bool = False,
    batch: int = 32,
    protocol: str = "raw",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Vqa:
    """Answers every question of a data set and measures the answers.

    Measures: ``exact`` (the answer, as a set of parts separated by commas, is the one of largest weight; each part
    normalised as VQA's answers are, so "the two" equals "2"), ``accuracy`` (VQA accuracy, where every target has
    ``human_answers``), ``WUPS@0.9`` and ``WUPS@0.0`` (with `wordnet`). Where targets have a ``kind``, the first of
    ``accuracy`` and ``exact`` is given for each kind too, as ``exact_binding``.

    Where the model has a `WordPrior`, its head ``prior``, that adds to the log-probabilities of ranked candidates, and
    the measures are named ``rank_k128+prior``. Were the decoder's P(answer | question) alone, and image and question
    independent given the answer, this would be Bayes' rule; a decoder that looks counts the image twice.

    Args:
        model: with an ``answer`` head; in any mode, which is restored.
        dataset: read once; without answers there are predictions and no metrics.
        collator: its `answers` tokenizer is the decoder's.
        transform: makes the image a normalised tensor.
        candidates: the list to rank, or the path of a JSON list; None = generate freely.
        k: candidates of each question whose whole probability is computed; all if there are fewer.
        beams: of free generation; 1 = greedy.
        max_answer_tokens: where free generation is cut.
        wordnet: measure WUPS; needs NLTK with WordNet.
        original_behaviour: rank as ALBEF's code does; see `rank_answers`.
        batch: questions at once.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar with rate and time left (main process only).

    Raises:
        UsageError: for bad arguments, a model or collator without answers, absent WordNet, log-probabilities that are
            not finite, or data that have answers to some questions only.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    if k < 1 or beams < 1 or max_answer_tokens < 1:
        raise UsageError(f"k = {k}, beams = {beams}, max_answer_tokens = {max_answer_tokens}: all must be at least 1.")
    if "answer" not in model.heads:
        raise UsageError("the model has no answer decoder. Build it with zoo.for_questions.")
    if collator.answers is None:
        raise UsageError("the collator has no tokenizer of answers. Give it: SentenceCollator(..., answers=...).")
    if isinstance(candidates, Path):
        candidates = read_answers(candidates)
    if candidates is not None and not candidates:
        raise UsageError("candidates: an empty list. Give answers, or None to generate them.")
    similarity = wordnet_similarity() if wordnet else None
    with evaluating(model, device) as where:
        if candidates is None:
            answer = _generator(model, collator.answers, beams, max_answer_tokens)
            way = "greedy" if beams == 1 else f"beam{beams}"
        else:
            k = min(k, len(candidates))
            answer = _ranker(model, collator.answers, candidates, k, original_behaviour, where)
            way = f"rank_k{k}" + ("_original" if original_behaviour else "") + ("+prior" if word_prior(model) else "")
        rows = over_batches(
            lambda found: _rows(found, answer(found)),
            dataset,
            transform,
            replace(collator, answers=None, needs=()),
            batch=batch,
            device=where,
            workers=workers,
            progress=progress,
            title="questions",
        )
    metrics: dict[str, float] = {}
    lacking = sum(not row.answers for row in rows)
    if 0 < lacking < len(rows):
        raise UsageError(
            f"{dataset.name}: {lacking:,} of {len(rows):,} questions have no answer, so nothing can be measured. "
            "Give each an answer, or leave these questions out."
        )
    if not lacking:
        measures: dict[str, Callable[[_Row], float]] = {}
        if all(row.human for row in rows):
            measures["accuracy"] = lambda row: vqa_accuracy(row.predicted, row.human or ())
        measures["exact"] = lambda row: float(_parts(row.predicted) == _parts(row.truth))
        first = next(iter(measures))
        if similarity is not None:
            for threshold in WUPS:
                measures[f"WUPS@{threshold}"] = lambda row, t=threshold: wups(row.predicted, row.truth, t, similarity)  # type: ignore[misc]
        for name, measure in measures.items():
            metrics[f"{protocol}/{way}/{name}"] = _percent(rows, measure)
        for kind in sorted({row.kind for row in rows if row.kind}):
            own = [row for row in rows if row.kind == kind]
            metrics[f"{protocol}/{way}/{first}_{kind}"] = _percent(own, measures[first])
    ids = tuple(number if row.question_id is None else row.question_id for number, row in enumerate(rows))
    return Vqa(metrics, len(rows), tuple(row.predicted for row in rows), ids)


def _ranker(
    model: FusionModel,
    tokenizer: Tokenizer,
    candidates: Sequence[str],
    k: int,
    original_behaviour: bool,
    device: torch.device,
) -> Callable[[Batch], list[str]]:
    encoded = tokenizer(list(candidates))
    ids, mask = encoded.ids.to(device), encoded.mask.to(device)
    decoder, prior = answer_decoder(model), word_prior(model)

    @torch.no_grad()
    def answer(batch: Batch) -> list[str]:
        if prior is None:
            image, known = encode_distinct(model, batch.image), None
        else:
            image, summary = encode_for_prior(model, batch.image)
            known = prior.answers(summary, ids, mask)[batch.text_image]
        question = encode_questions(model, batch, image)
        best, _ = rank_answers(decoder, question, batch.token_mask, ids, mask, k, original_behaviour, known)
        return [candidates[index] for index in best[:, 0].tolist()]

    return answer


def _generator(model: FusionModel, tokenizer: Tokenizer, beams: int, max_tokens: int) -> Callable[[Batch], list[str]]:
    decoder = answer_decoder(model)

    @torch.no_grad()
    def answer(batch: Batch) -> list[str]:
        question = encode_questions(model, batch, encode_distinct(model, batch.image))
        ends = tokenizer.cls_id, tokenizer.sep_id
        found = generate_answers(decoder, question, batch.token_mask, *ends, max_tokens, beams)
        return [written(tokenizer.decode(ids)) for ids in found]

    return answer


def written(words: str) -> str:
    """Generated words as people write them: BERT's tokens part "t-shirt" into "t - shirt".

    Tokens carry no spaces, so what is usual is taken: "st. louis", but "1.5", "u.s.a." and "amazon.com"; "at&t", but
    "black & white".
    """
    words = re.sub(r"\s*(['\-/:])\s*", r"\1", words)
    words = re.sub(r"\s+([.%])|(?<=\d)\s+(\+)(?!\s*\w)", r"\1\2", words)
    words = _JOINED.sub("", re.sub(r"\s*&\s*(?=\w\b)", "&", words))
    return re.sub(r"(?<=\d), (?=\d{3}\b)", ",", re.sub(r"\s*,\s*", ", ", words))


def _rows(batch: Batch, predicted: Sequence[str]) -> list[_Row]:
    def column(name: str) -> list[Any]:
        values = batch.target.get(name)
        return [None] * len(predicted) if values is None else list(values)

    ids: list[Any] = [value.item() if isinstance(value, torch.Tensor) else value for value in column("question_id")]
    columns = (column("answers"), column("human_answers"), column("kind"), ids)
    return [_Row(*values) for values in zip(predicted, *columns, strict=True)]


def _parts(answer: str) -> frozenset[str]:
    """What ``exact`` compares: the parts between commas, each by VQA's `normalise` (punctuation, number words ...)."""
    return frozenset(map(normalise, items(answer)))


def _percent(rows: Sequence[_Row], measure: Callable[[_Row], float]) -> float:
    return 100 * sum(map(measure, rows)) / len(rows)
