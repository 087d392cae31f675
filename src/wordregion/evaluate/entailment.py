"""Visual entailment: accuracy over the classes, beside always giving the most frequent one."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from wordregion.data.collate import Collates
from wordregion.data.datasets.snli_ve import RELATIONS
from wordregion.data.loader import Transform
from wordregion.errors import UsageError
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.models.two_images import pair_logits
from wordregion.schema import Batch, Dataset


@dataclass(frozen=True)
class Verdict:
    """One sentence.

    Attributes:
        label: its class.
        scores: probability of each class.
        kind: of the sample, or None.
    """

    label: int
    scores: tuple[float, ...]
    kind: str | None = None

    @property
    def said(self) -> int:
        """The class of the highest score."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)


@dataclass(frozen=True)
class Entailment:
    """What `evaluate_entailment` measured.

    Attributes:
        metrics: percent by name: ``raw/accuracy``; ``raw/recall_neutral`` and so on, of each class that occurs;
            ``raw/accuracy_KIND`` where the data names kinds; and ``raw/majority/accuracy``, of always giving the most
            frequent class.
        verdicts: of each sentence, in the order of the data set.
    """

    metrics: dict[str, float]
    verdicts: tuple[Verdict, ...]

    @property
    def items(self) -> str:
        """What was judged."""
        return f"{len(self.verdicts):,} pairs of photo and sentence"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_entailment(
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
) -> Entailment:
    """Judges every sentence of a data set.

    Args:
        model: with the head ``entail``, whose classes are `RELATIONS`; in any mode, which is restored.
        dataset: read once; targets have ``label``, and perhaps ``kind``.
        collator: gives one image a sentence.
        transform: makes the images normalised tensors.
        batch: sentences at once.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar with rate and time left (main process only).

    Raises:
        UsageError: for bad arguments, an empty data set, another model, or predictions that are not finite.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    if "entail" not in model.heads:
        raise UsageError("the model has no head 'entail'. Build it with zoo.for_entailment.")
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
            title="sentences",
        )
    return Entailment({f"{protocol}/{name}": value for name, value in measure(rows).items()}, tuple(rows))


def measure(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Accuracy, recall of each class, accuracy of each kind, and the majority's accuracy, in percent."""
    found = {"accuracy": _right(verdicts)}
    for number, name in enumerate(RELATIONS):
        if own := [v for v in verdicts if v.label == number]:
            found[f"recall_{name}"] = _right(own)
    for kind in sorted({v.kind for v in verdicts if v.kind is not None}):
        found[f"accuracy_{kind}"] = _right([v for v in verdicts if v.kind == kind])
    most = Counter(v.label for v in verdicts).most_common(1)[0][1]
    return found | {"majority/accuracy": 100 * most / len(verdicts)}


@torch.inference_mode()
def _judge(model: FusionModel, batch: Batch) -> list[Verdict]:
    scores = pair_logits(model, batch, model.encode_image(batch.image), "entail").float().softmax(1)
    require_finite(scores, "predictions")
    kinds = batch.target.get("kind", [None] * len(scores))
    rows = zip(batch.target["label"].tolist(), scores.tolist(), kinds, strict=True)
    return [Verdict(label, tuple(own), kind) for label, own, kind in rows]


def _right(verdicts: Sequence[Verdict]) -> float:
    return 100 * sum(v.said == v.label for v in verdicts) / len(verdicts)
