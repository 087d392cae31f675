"""What a training run is made of. A recipe is a typed function that returns a `Recipe`; a variant edits a copy."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

from wordregion.data.collate import Collates
from wordregion.data.loader import Transform
from wordregion.engine.run import Run
from wordregion.errors import UsageError
from wordregion.evaluate.common import Measured
from wordregion.evaluate.retrieval import evaluate_retrieval
from wordregion.schema import Dataset


@dataclass(frozen=True)
class AdamW:
    """Optimiser and schedule: linear warm-up from `start`, then down to `final`.

    Attributes:
        lr: peak learning rate.
        weight_decay: reaches all parameters but vectors (biases, norms), as ALBEF groups them: the temperature, which
            holds one number, is decayed.
        betas: decay of the two moments.
        eps: of the denominator.
        schedule: after the warm-up: half a ``cosine`` or a straight line (``linear``) from 1 to `final`, or ``step``:
            times `drop` at each of `milestones`.
        warmup: steps of linear warm-up; its last step has the peak.
        start: share of `lr` from which the warm-up rises.
        final: share of `lr` at the end (cosine, linear).
        stairs: steps for which the rate stays (cosine, linear): while it warms up, and while it falls, counted from the
            first step (100 and an epoch in ALBEF's code). None = it changes at every step.
        milestones: shares of all steps, those of the warm-up among them (step; GLIP's code).
        drop: factor at each milestone (step).
        lr_scale: (prefix, factor) by parameter name; the first prefix that fits counts.
        no_decay: parts of names whose parameters are not decayed either.
        decay_vectors: vectors are decayed too, but for `no_decay` (GLIP's norms).
        bias_scale: factor of the learning rate of parameters with "bias" in their names (GLIP: 2).
        freeze: prefixes of names whose parameters are not trained.
    """

    lr: float = 1e-4
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    warmup: int = 0
    start: float = 0.0
    final: float = 0.0
    stairs: tuple[int, int] | None = None
    milestones: tuple[float, ...] = (0.6, 0.9)
    drop: float = 0.1
    lr_scale: tuple[tuple[str, float], ...] = ()
    no_decay: tuple[str, ...] = ()
    decay_vectors: bool = False
    bias_scale: float = 1.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "eps", "warmup", "start", "final", "drop", "bias_scale"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, (int, float)):
                raise UsageError(f"optim: {name}={value!r} is no number. Give one.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"optim: lr={self.lr} is not above 0. Give a learning rate such as 1e-4.")
        if self.schedule not in ("cosine", "linear", "step"):
            raise UsageError(f"optim: schedule={self.schedule!r} is unknown. Use cosine, linear or step.")
        if self.stairs is not None and (self.schedule == "step" or min(self.stairs) < 1):
            raise UsageError(
                f"optim: stairs={self.stairs} with schedule={self.schedule}. Give two numbers of steps above 0, with "
                "cosine or linear; milestones are stairs by themselves."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"optim: betas={self.betas} are outside [0, 1). Use (0.9, 0.999).")
        for name in ("weight_decay", "warmup", "start", "final", "drop", "bias_scale"):
            if getattr(self, name) < 0:
                raise UsageError(f"optim: {name}={getattr(self, name)} is negative. Give 0 or more.")

    def factor(self, step: int, steps: int) -> float:
        """Share of `lr` at step `step` (from 0) of `steps`."""
        if self.stairs is not None:
            return self._on_stairs(step, steps, *self.stairs)
        if step < self.warmup:
            return self.start + (1 - self.start) * (step + 1) / self.warmup
        if self.schedule == "step":
            return self.drop ** sum(step >= round(milestone * steps) for milestone in self.milestones)
        return self._falling((step - self.warmup) / max(1, steps - self.warmup))

    def _on_stairs(self, step: int, steps: int, rise: int, fall: int) -> float:
        """ALBEF's code ends a stair of the warm-up after every step that is a multiple of it, in epoch 0 only."""
        if self.warmup and step <= self.warmup and step < fall:
            return self.start + (1 - self.start) * (max(0, step - 1) // rise * rise) / self.warmup
        return self._falling(min(1.0, step // fall * fall / steps))

    def _falling(self, progress: float) -> float:
        falling = 1 - progress if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.final + (1 - self.final) * falling


@dataclass(frozen=True)
class Plateau:
    """Evaluation while training: the rate falls where the measure stops rising, training ends where it stays below.

    The result of such a run is its best weights.

    Attributes:
        every: steps between evaluations, by the recipe's evaluation on ``data.evaluate``.
        measure: end of the metric's name, for example ``"coco/AP"``; more is better.
        patience: evaluations in a row without a better value that are borne; one more, and the rate falls.
        stop: evaluations in a row below the best value after which training ends.
        drop: factor of the rate where it falls.
        least: smallest factor of the rate.
        batch: images evaluated at a time.
    """

    every: int
    measure: str
    patience: int = 3
    stop: int = 8
    drop: float = 0.1
    least: float = 0.01
    batch: int = 4

    def __post_init__(self) -> None:
        if min(self.every, self.stop, self.batch) < 1 or self.patience < 0 or not 0 < self.least <= self.drop < 1:
            raise UsageError(
                f"{self}: every, stop, batch >= 1, patience >= 0 and 0 < least <= drop < 1 must hold. "
                "Correct the recipe."
            )


@dataclass(frozen=True)
class Data:
    """Where samples come from, and how they become batches. Everything is opened when training starts.

    Attributes:
        train: opens the training set.
        transform: training transform of a sample.
        collator: makes the collator (samples to batch).
        evaluate: opens the data set to evaluate on, or None.
        eval_transform: transform without randomness, for evaluation.
    """

    train: Callable[[], Dataset]
    transform: Transform
    collator: Callable[[], Collates]
    evaluate: Callable[[], Dataset] | None = None
    eval_transform: Transform | None = None

    def __post_init__(self) -> None:
        for name in ("train", "transform", "collator", "evaluate", "eval_transform"):
            value = getattr(self, name)
            if not callable(value) and not (name.startswith("eval") and value is None):
                raise UsageError(f"data: {name} is {_kind(value)}, which can't be called. Give a function.")


@runtime_checkable
class TaskSettings(Protocol):
    """What to learn, as plain settings."""

    def build(self, model: Any) -> Any:
        """The `tasks.protocol.Task` around a model."""
        ...


Evaluation = Callable[..., Measured]
"""A function of `evaluate`: ``(model, dataset, collator, transform, *, batch, protocol, workers, device, progress)``,
perhaps with further arguments fixed by `functools.partial`."""


@dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
        name: shown in logs.
        model: builds the model, weights included.
        task: what to learn.
        data: from what.
        optim: with which optimiser.
        run: and how.
        evaluation: how a trained model is measured on ``data.evaluate``.
        plateau: when to measure it while it trains, and what follows; never if None.
        prepare: changes the values of a new run's model before its first step, where that is work; a resumed or
            evaluated run has them in its weights. None = nothing.
        source: the recipe function, ``"name"`` or ``"file.py:function"``; set by the command line.
        arguments: with which it was called; set by the command line.
    """

    name: str
    model: Callable[[], nn.Module]
    task: TaskSettings
    data: Data
    optim: AdamW
    run: Run
    evaluation: Evaluation = evaluate_retrieval
    plateau: Plateau | None = None
    prepare: Callable[[Any], None] | None = None
    source: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = {
            "name": (isinstance(self.name, str), "a text"),
            "model": (callable(self.model) and not isinstance(self.model, nn.Module), "a function that builds it"),
            "task": (isinstance(self.task, TaskSettings) and not isinstance(self.task, type), "settings with build()"),
            "data": (isinstance(self.data, Data), "a Data"),
            "optim": (isinstance(self.optim, AdamW), "an AdamW"),
            "run": (isinstance(self.run, Run), "a Run"),
            "evaluation": (callable(self.evaluation), "a function"),
            "plateau": (self.plateau is None or isinstance(self.plateau, Plateau), "a Plateau or None"),
            "prepare": (self.prepare is None or callable(self.prepare), "a function of the model, or None"),
        }
        for part, (fits, what) in wanted.items():
            if not fits:
                raise UsageError(f"recipe {self.name}: its {part} is {_kind(getattr(self, part))}. Give {what}.")


def built(recipe: Recipe) -> nn.Module:
    """The recipe's model.

    Raises:
        UsageError: if its function returns something else.
    """
    model: Any = recipe.model()
    if not isinstance(model, nn.Module):
        raise UsageError(f"recipe {recipe.name}: its model() returned {_kind(model)}. Return a torch.nn.Module.")
    return model


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def resolved(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values, as saved beside the weights and in each checkpoint."""
    return to_json(recipe)


def to_json(value: Any) -> Any:
    """Settings as JSON values: dataclasses as objects with their ``type``, functions by name, other objects by repr."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return named if type(value) in (Recipe, Data, Run) else {"type": type(value).__name__, **named}
    if isinstance(value, functools.partial):
        call = {"call": to_json(value.func), **{name: to_json(item) for name, item in value.keywords.items()}}
        return call | ({"args": to_json(value.args)} if value.args else {})
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return type(value).__qualname__
