"""Compositional accuracy: does a picture fit its caption better than a false one that says almost the same?

The contrast (ITC) and the match head (ITM) are judged apart, and so is what the texts alone give away: such sets are
leaky, and a score that a blind baseline reaches says nothing about seeing.

Shape letters: T texts, I images, both of one sample.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from wordregion.data.collate import Collates, Item
from wordregion.data.loader import Transform
from wordregion.errors import DataError, UsageError
from wordregion.evaluate.common import check_request, evaluating, over_batches
from wordregion.models.finite import require_finite
from wordregion.models.fusion import FusionModel
from wordregion.schema import Batch, Dataset, Sample

WAYS = ("itc", "itm", "shorter", "likelier")


@runtime_checkable
class LanguageModel(Protocol):
    """Says how likely a text is, without any picture: `data.masked_lm.MaskedLM`."""

    def log_likelihood(self, texts: Sequence[str]) -> list[float]:
        """Mean log-probability of a token of each text."""
        ...


@dataclass(frozen=True)
class Contest:
    """One sample.

    Attributes:
        truth: the true text of each image.
        scores: by way of scoring, a row for each text of its score with each image.
        kind: of the sample.
        group: a finer kind, or None.
    """

    truth: tuple[int, ...]
    scores: dict[str, tuple[tuple[float, ...], ...]]
    kind: str
    group: str | None = None


@dataclass(frozen=True)
class Compositional:
    """What `evaluate_compositional` measured.

    Attributes:
        metrics: percent by name. For one picture a sample: ``raw/itm/accuracy``, ``raw/itm/accuracy_KIND``,
            ``raw/itm/mean_of_kinds``, and ``raw/itm/mean_of_groups`` where the set has finer kinds. For two pictures
            (Winoground): ``text``, ``image``, ``group`` in the place of ``accuracy``. The ways of scoring are ``itc``,
            ``itm``; of the texts alone ``shorter`` and, with a language model, ``likelier``, where equal scores count
            half; and ``chance``.
        contests: every sample, in the order of the data set.
    """

    metrics: dict[str, float]
    contests: tuple[Contest, ...]

    @property
    def items(self) -> str:
        """What was asked."""
        return f"{len(self.contests):,} contests of captions"

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self))


def evaluate_compositional(
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
    lm: LanguageModel | None = None,
) -> Compositional:
    """Asks every sample of a set.

    Args:
        model: in any mode, which is restored; without a head ``match`` the contrast alone is judged.
        dataset: samples whose groundings name the true text of each image, and whose other texts are false of it:
            `data.datasets.compositional`, `data.scenes.SceneNegatives`.
        collator: gives the tokenizer.
        transform: makes the images normalised tensors.
        batch: samples at once.
        protocol: ``"raw"`` or ``"finetuned_on_X"``; the first part of every metric's name.
        workers: processes that read images.
        device: where to compute; the model's own if None.
        progress: show a bar with rate and time left (main process only).
        lm: a language model for the text-only baseline ``likelier``.

    Raises:
        UsageError: for bad arguments, an empty data set, or scores that are not finite.
        DataError: for a broken record: an evaluation that skips records isn't comparable.
    """
    check_request(protocol, dataset, batch)
    with evaluating(model, device) as where:
        contests = over_batches(
            lambda found: _judge(model, found, lm),
            dataset,
            transform,
            _Contests(collator.tokenizer),
            batch=batch,
            device=where,
            workers=workers,
            progress=progress,
            title="contests",
        )
    return Compositional({f"{protocol}/{name}": value for name, value in measure(contests).items()}, tuple(contests))


def measure(contests: Sequence[Contest]) -> dict[str, float]:
    """Percent by ``way/measure``; see `Compositional`."""
    found: dict[str, float] = {}
    for way in WAYS:
        if way not in contests[0].scores:
            continue
        results = [
            outcome(c.scores[way], c.truth, ties=0.5 if way in ("shorter", "likelier") else 0.0) for c in contests
        ]
        found |= {f"{way}/{name}": value for name, value in _means(contests, results).items()}
    chances = [chance(len(next(iter(c.scores.values()))), len(c.truth)) for c in contests]
    return found | {f"chance/{name}": value for name, value in _means(contests, chances, kinds=False).items()}


def outcome(score_TI: Sequence[Sequence[float]], truth: Sequence[int], ties: float = 0.0) -> dict[str, float]:
    """Whether one sample is right: {"accuracy"} of one image, or {"text", "image", "group"} of several.

    Args:
        score_TI: of each text with each image.
        truth: the true text of each image.
        ties: what an equal score of a false text counts, 0 to 1; where several texts tie for the first place, the share
            of the true one among them is given instead of `ties` = 0.5.
    """
    images, texts = range(len(truth)), range(len(score_TI))
    text = 1.0
    for i in images:
        text *= _wins(score_TI[truth[i]][i], [score_TI[t][i] for t in texts if t != truth[i]], ties)
    if len(truth) == 1:
        return {"accuracy": text}
    image = 1.0
    for i in images:
        image *= _wins(score_TI[truth[i]][i], [score_TI[truth[i]][j] for j in images if j != i], ties)
    return {"text": text, "image": image, "group": text * image}


def chance(texts: int, images: int) -> dict[str, float]:
    """What scores drawn at random reach, in [0, 1]; of two images with two texts: 1/4, 1/4 and 1/6."""
    if images == 1:
        return {"accuracy": 1 / texts}
    if (texts, images) == (2, 2):  # of the 24 orders of four scores both true ones are above both false ones in 4
        return {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
    raise UsageError(f"a contest of {texts} texts and {images} images is not known. Use 1 image, or 2 with 2 texts.")


def _wins(own: float, others: Sequence[float], ties: float) -> float:
    if any(other > own for other in others):
        return 0.0
    equal = sum(other == own for other in others)
    return 1.0 if not equal else 1 / (1 + equal) if ties else 0.0


def _means(contests: Sequence[Contest], results: Sequence[dict[str, float]], kinds: bool = True) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for result in results for name in result):
        rows = [(c, r[name]) for c, r in zip(contests, results, strict=True) if name in r]
        found[name] = _percent([value for _, value in rows])
        if not kinds:
            continue
        by_kind = {kind: _percent([v for c, v in rows if c.kind == kind]) for kind in sorted({c.kind for c, _ in rows})}
        if len(by_kind) > 1:
            found |= {f"{name}_{kind}": value for kind, value in by_kind.items()}
            if name == "accuracy":
                found["mean_of_kinds"] = sum(by_kind.values()) / len(by_kind)
        groups = {c.group for c, _ in rows if c.group is not None}
        if len(groups) > 1:
            by_group = [_percent([v for c, v in rows if c.group == group]) for group in groups]
            found["mean_of_groups"] = sum(by_group) / len(by_group)
    return found


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


@torch.inference_mode()
def _judge(model: FusionModel, batch: Batch, lm: LanguageModel | None) -> list[Contest]:
    target = batch.target
    image = model.encode_image(batch.image)
    text = model.encode_text(batch.token_ids, batch.token_mask)
    itc = model.project_text(text, batch.token_mask).float() @ model.project_image(image).float().T
    rows, columns = target["pair_text"].to(itc.device), target["pair_image"].to(itc.device)
    scores = {"itc": itc[rows, columns]}
    if "match" in model.heads:
        logits = model.heads["match"](model.fuse(text[rows], batch.token_mask[rows], image, columns).cls).float()
        scores["itm"] = logits[:, 1] - logits[:, 0]
    for score in scores.values():
        require_finite(score, "scores")
    plain = {way: score.tolist() for way, score in scores.items()}
    contests: list[Contest] = []
    begin = 0
    for texts, truth, kind, group in zip(
        target["texts"], target["truth"], target["kind"], target["group"], strict=True
    ):
        images = len(truth)
        own: dict[str, tuple[tuple[float, ...], ...]] = {}
        for way, values in plain.items():
            rows_of = [values[begin + t * images : begin + (t + 1) * images] for t in range(len(texts))]
            own[way] = tuple(map(tuple, rows_of))
        blind = {"shorter": [-float(len(text.split())) for text in texts]}
        if lm is not None:
            blind["likelier"] = lm.log_likelihood(texts)
        own |= {way: tuple((value,) * images for value in values) for way, values in blind.items()}
        contests.append(Contest(truth, own, kind, group))
        begin += len(texts) * images
    return contests


class _Contests:
    """A collator of all images and texts of each sample, with every pair of them: text by text, image by image."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def check(self, sample: Sample, where: str) -> None:
        """Raises DataError unless each image has one true text, and there is a false one."""
        truth = [[g.text for g in sample.groundings if g.image == i] for i in range(len(sample.images))]
        if any(len(own) != 1 for own in truth) or len(sample.texts) < 2:
            raise DataError(where, "groundings", "do not name one true text for each image", "Use a compositional set.")

    def __call__(self, items: Sequence[Item], skipped: Sequence[str] = ()) -> Batch:
        samples = [sample for _, sample, _ in items]
        encoded = self.tokenizer([text for sample in samples for text in sample.texts])
        pairs: list[tuple[int, int]] = []
        first_text = first_image = 0
        for sample in samples:
            texts, images = len(sample.texts), len(sample.images)
            pairs += [(first_text + t, first_image + i) for t in range(texts) for i in range(images)]
            first_text, first_image = first_text + texts, first_image + images
        pixels = [image for sample in samples for image in sample.images if isinstance(image, Tensor)]
        return Batch(
            image=torch.stack(pixels),
            image_key=torch.arange(len(pixels)),
            token_ids=encoded.ids,
            token_mask=encoded.mask,
            text_image=torch.zeros(len(encoded.ids), dtype=torch.long),
            target={
                "pair_text": torch.tensor([text for text, _ in pairs]),
                "pair_image": torch.tensor([image for _, image in pairs]),
                "texts": [sample.texts for sample in samples],
                "truth": [
                    tuple(next(g.text for g in s.groundings if g.image == i) for i in range(len(s.images)))
                    for s in samples
                ],
                "kind": [str(sample.target.get("kind")) for sample in samples],
                "group": [sample.target.get("group") for sample in samples],
            },
            skipped=tuple(skipped),
        )
