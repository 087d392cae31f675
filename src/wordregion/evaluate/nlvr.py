"""Statements about two images (NLVR2) or one (NLVR), true or false: accuracy and consistency.

The rules are those of NLVR2's official script: accuracy over examples; consistency over different sentences, of which
one counts only if all its examples are answered rightly. Which examples share a sentence is the data's to say
(``target["sentence"]``).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from wordregion.data.collate import Collates
from wordregion.data.loader import Transform
from wordregion.errors import UsageError
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.models.two_images import pair_logits
from wordregion.schema import Batch, Dataset


@dataclass(frozen=True)
class Judgement:
    """One example.

    Attributes:
        label: 1 true, 0 false.
        score: probability of "true" in [0, 1]; above a half, the model says "true".
        sentence: id of its sentence, or None where the data has none.
        kind: of the example, or None.
    """

    label: int
    score: float
    sentence: str | int | None = None
    kind: str | None = None

    @property
    def right(self) -> bool:
        """Whether the model is right."""
        return (self.score > 0.5) == bool(self.label)


@dataclass(frozen=True)
class Statements:
    """What `evaluate_nlvr` measured.

    Attributes:
        metrics: percent by name: ``raw/accuracy``, ``raw/consistency`` where the data names its sentences,
            ``raw/accuracy_KIND`` where it names kinds, and ``raw/majority/accuracy``, of always giving the more
            frequent answer.
        judgements: of each example, in the order of the data set.
    """

    metrics: dict[str, float]
    judgements: tuple[Judgement, ...]

    @property
    def items(self) -> str:
        """What was judged."""
        return f"{len(self.judgements):,} statements"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_nlvr(
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
) -> Statements:
    """Judges every statement of a data set.

    Args:
        model: with the head ``nlvr``; in any mode, which is restored.
        dataset: read once; targets have ``label``, and perhaps ``sentence`` and ``kind``.
        collator: gives as many images a text as the model takes.
        transform: makes the images normalised tensors.
        batch: statements at once.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar with rate and time left (main process only).

    Raises:
        UsageError: for bad arguments, an empty data set, another model, or predictions that are not finite.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    if "nlvr" not in model.heads:
        raise UsageError("the model has no head 'nlvr'. Build it with zoo.for_two_images, or zoo.for_statements.")
    with evaluating(model, device) as where:
        rows = over_batches(
            lambda found: _judge(model, found),
            dataset,
            transform,
            collator,
            batch=batch,
            device=where,
            workers=workers,
            progress=progress,
            title="statements",
        )
    return Statements({f"{protocol}/{name}": value for name, value in measure(rows).items()}, tuple(rows))


def measure(judgements: Sequence[Judgement]) -> dict[str, float]:
    """Accuracy, consistency, accuracy of each kind, and the majority's accuracy, in percent."""
    found = {"accuracy": _percent([j.right for j in judgements])}
    if all(j.sentence is not None for j in judgements):
        found["consistency"] = consistency(judgements)
    for kind in sorted({j.kind for j in judgements if j.kind is not None}):
        found[f"accuracy_{kind}"] = _percent([j.right for j in judgements if j.kind == kind])
    most = Counter(j.label for j in judgements).most_common(1)[0][1]
    return found | {"majority/accuracy": 100 * most / len(judgements)}


def consistency(judgements: Sequence[Judgement]) -> float:
    """Percent of the different sentences of which every example is answered rightly."""
    whole: dict[str | int | None, bool] = {}
    for j in judgements:
        whole[j.sentence] = whole.get(j.sentence, True) and j.right
    return _percent(list(whole.values()))


@torch.inference_mode()
def _judge(model: FusionModel, batch: Batch) -> list[Judgement]:
    scores = pair_logits(model, batch, model.encode_image(batch.image)).float().softmax(1)[:, 1]
    require_finite(scores, "predictions")

    def column(name: str) -> list[Any]:
        values = batch.target.get(name, [None] * len(scores))
        return values.tolist() if isinstance(values, Tensor) else list(values)

    columns = (column("label"), scores.tolist(), column("sentence"), column("kind"))
    return [Judgement(int(label), *rest) for label, *rest in zip(*columns, strict=True)]


def _percent(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right)
