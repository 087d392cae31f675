"""Evaluation while training: the rate falls where a measure stops rising, and training ends where it stays below."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from wordregion.distributed import comm
from wordregion.drafts import draft_of
from wordregion.engine.logs import Log
from wordregion.errors import CheckpointError, UsageError
from wordregion.models import store
from wordregion.recipes.recipe import Plateau, Recipe

BEST, VALUES = "best.safetensors", "validation.json"
MARGIN = 1e-4
"""A value is better, for the rate, from this share above the best one (torch's `ReduceLROnPlateau`)."""


class Watch:
    """What a sequence of values does to the rate and to the end of training (GLIP's code).

    Args:
        settings: how long to wait; None = for ever.
        seen: step and value of each evaluation so far.

    Attributes:
        factor: of the learning rate.
        ended: whether the last values are below the best one, and as many as end training.
        seen: step and value of each evaluation.
    """

    def __init__(self, settings: Plateau | None, seen: Iterable[Sequence[float]] = ()) -> None:
        self.settings = settings
        self.factor, self.ended = 1.0, False
        self.seen: list[tuple[int, float]] = []
        self._best = self._bar = 0.0
        self._below = self._stale = 0
        for step, value in seen:
            self.see(int(step), value)

    def see(self, step: int, value: float) -> bool:
        """Takes in a value; whether it is the best so far, or as good. A value of 0 does not lower the rate."""
        assert self.settings is not None
        self.seen.append((step, value))
        if value > self._bar * (1 + MARGIN):
            self._bar, self._stale = value, 0
        elif value > 0:
            self._stale += 1
        if self._stale > self.settings.patience:
            self.factor, self._stale = max(self.factor * self.settings.drop, self.settings.least), 0
        good = value >= self._best
        self._best, self._below = max(self._best, value), 0 if good else self._below + 1
        self.ended = self._below >= self.settings.stop
        return good


class Validation:
    """Evaluates a model in training as its recipe's `Plateau` says; without one it does nothing.

    In the run's folder it keeps the best weights (``best.safetensors``: what is trained, and buffers) and what it saw
    (``validation.json``: [step, value] of each evaluation).

    Args:
        recipe: of the run.
        model: in training; whole in every process.
        out: folder of the run.
        device: where to compute.
        log: of the run.
        seen: what was seen before, where a run goes on.

    Raises:
        UsageError: if the recipe names nothing to evaluate on, or shards the model.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        out: Path,
        device: torch.device,
        log: Log,
        seen: Iterable[Sequence[float]] = (),
    ) -> None:
        self.recipe, self.model, self.out, self.device, self.log = recipe, model, out, device, log
        self.watch = Watch(recipe.plateau, seen)
        if recipe.plateau is None:
            return
        data = recipe.data
        if data.evaluate is None or data.eval_transform is None:
            raise UsageError(f"{recipe.name}: its plateau needs Data with evaluate and eval_transform. Name them.")
        if recipe.run.parallel == "fsdp" and comm.world_size() > 1:
            raise UsageError(f"{recipe.name}: its plateau evaluates a whole model. Use --parallel ddp.")
        self._given = (data.evaluate(), data.collator(), data.eval_transform)

    @property
    def ended(self) -> bool:
        """Whether training has come to its end."""
        return self.watch.ended

    def due(self, step: int) -> bool:
        """Whether to evaluate after so many steps."""
        plateau = self.recipe.plateau
        return plateau is not None and (step % plateau.every == 0 or step == self.recipe.run.steps)

    def __call__(self, step: int) -> None:
        """Evaluates, on all processes, and leaves every module in the mode that it was in."""
        plateau = self.recipe.plateau
        assert plateau is not None
        modes = [(module, module.training) for module in self.model.modules()]
        metrics = self.recipe.evaluation(
            self.model,
            *self._given,
            batch=plateau.batch,
            protocol="raw",
            workers=self.recipe.run.workers,
            device=self.device,
            progress=False,
        ).metrics
        for module, training in modes:
            module.training = training
        fitting = [value for name, value in metrics.items() if name.endswith(f"/{plateau.measure}")]
        if len(fitting) != 1:
            listed = ", ".join(metrics)
            raise UsageError(f"plateau: {len(fitting)} metrics end in '{plateau.measure}'. There is: {listed}.")
        best = self.watch.see(step, fitting[0])
        if comm.main_process():
            if best:
                store.save_weights(self.model, self.out / BEST, trained_only=True)
            with draft_of(self.out / VALUES) as draft:
                draft.write_text(json.dumps(self.watch.seen) + "\n")
        comm.barrier()
        told = ", the best" if best else f", rate x {self.watch.factor:g}"
        self.log.say(f"step {step}: {plateau.measure} {fitting[0]:.2f}{told}{', the end' if self.ended else ''}")

    def restore(self) -> None:
        """Gives the model its best weights.

        Raises:
            CheckpointError: if their file is missing or damaged.
        """
        if self.recipe.plateau is None:
            return
        path = self.out / BEST
        try:
            best = load_file(str(path), device="cpu")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: can't be read ({error}). Train again.") from error
        self.model.load_state_dict(best, strict=False)
