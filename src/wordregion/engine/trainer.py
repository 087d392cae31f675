"""The one training loop, for 1 to N processes."""

import itertools
import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wordregion.data.loader import StepLoader
from wordregion.distributed import comm
from wordregion.distributed.parallelize import Parallel, full_state
from wordregion.drafts import draft_of
from wordregion.engine import checkpoint, optim
from wordregion.engine.logs import Log
from wordregion.engine.memory import peak_gigabytes
from wordregion.engine.plateau import Validation
from wordregion.engine.precision import has_bf16
from wordregion.errors import CheckpointError, DataError, UsageError, WordregionError
from wordregion.models import store
from wordregion.recipes.recipe import Recipe, built, resolved
from wordregion.schema import Batch
from wordregion.tasks.protocol import Task

SHOWN = 20
"""Broken records of which each process prints a line; the rest are counted."""


LEARNING = ("steps", "accumulate", "precision", "clip")
"""Settings of a `Run`, beside batch and seed, that change what is learned."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: optimiser steps done, over all attempts.
        finished: False if it was stopped by a signal.
        metrics: of the last logged step.
        task: the trained task.
        signal: number of the signal that stopped it, or None; a command exits with 128 + this.
    """

    step: int
    finished: bool
    metrics: dict[str, float]
    task: nn.Module
    signal: int | None = None


class Interrupt:
    """Turns the first SIGTERM or Ctrl-C into a request to stop after the step; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number


def train(recipe: Recipe, out: Path, resume: bool = False) -> TrainResult:
    """Trains a recipe.

    Writes ``recipe.json``, ``metrics.jsonl``, ``tensorboard/`` and ``checkpoints/`` under `out`, and at the end
    the student (with a `Plateau` at its best): ``model.safetensors``, ``model.json``. A run that is stopped by SIGTERM
    or Ctrl-C finishes its step, writes a checkpoint and returns. ``resume`` continues it exactly from the last
    checkpoint; on another number of processes everything continues but the random numbers drawn during the step
    (dropout, hard negatives).

    Raises:
        UsageError: if `out` holds another run, or the settings do not fit the processes or the checkpoint.
        CheckpointError: on resume, if there is no checkpoint, or it is damaged or does not fit.
        DataError: if more than ``run.max_bad_share`` of the records are broken.
        WordregionError: if a loss is not finite.
    """
    comm.init_from_env()
    run = recipe.run
    found = checkpoint.checkpoints(out)
    if resume and not found:
        raise CheckpointError(f"{out}: no checkpoint to resume from. Leave out --resume, or correct --out.")
    if not resume and (found or (out / "model.safetensors").exists()):
        raise UsageError(f"{out}: holds a run already. Use --resume to continue it, or another --out.")
    comm.barrier()  # nobody writes before all have looked
    device = torch.device(run.device) if run.device else comm.device()
    _seed(run.seed)
    model = built(recipe)
    if recipe.prepare is not None and not resume:
        recipe.prepare(model.to(device))
    optim.freeze(model, recipe.optim)
    task: Any = recipe.task.build(model).to(device).train()
    parallel = Parallel(task, task.blocks(), run.parallel, run.compile, run.checkpoint_activations)
    optimiser = optim.build(task.model, recipe.optim)
    tensors = {f"task/{name}": value for name, value in task.state_dict().items()}
    tensors |= {f"optim/{n}": v for n, v in optim.moments(optimiser, task.model.named_parameters()).items()}
    start, counters, record = 0, {"skipped": 0, "seen": 0}, resolved(recipe)
    measured: Any = ()
    notes: list[str] = []
    if resume:
        facts = checkpoint.read_facts(found[-1])
        notes += _must_continue(found[-1], facts["recipe"], record)
        _seed(run.seed + comm.rank() + facts["step"])  # counts only on another number of processes
        checkpoint.load(found[-1], tensors)
        start, counters, measured = facts["step"], facts["counters"], facts.get("validation", ())
        if recipe.plateau is None:
            measured = ()
        if start >= run.steps:
            notes.append(f"already at step {start} of {run.steps}: nothing is left to train. Raise --steps to go on.")
        if facts["processes"] != comm.world_size():
            notes.append(
                f"resuming a run of {facts['processes']} processes on {comm.world_size()}: all continues but the "
                "random numbers of the step (dropout, hard negatives)"
            )
    else:
        _seed(run.seed + comm.rank())  # dropout and negatives differ between processes
    loader = StepLoader(
        recipe.data.train(),
        recipe.data.transform,
        recipe.data.collator(),
        batch=run.batch,
        seed=run.seed,
        rank=comm.rank(),
        world=comm.world_size(),
        workers=run.workers,
        start_step=start,
        accumulate=run.accumulate,
    )
    if comm.main_process():
        out.mkdir(parents=True, exist_ok=True)
        with draft_of(out / "recipe.json") as draft:
            draft.write_text(json.dumps(record, indent=1))
    log = Log(out, start, run.steps, comm.main_process())
    for note in notes:
        log.say(note)

    def save(step: int) -> None:
        facts = {"counters": counters, "recipe": record, "validation": validation.watch.seen}
        checkpoint.save(out, step, tensors, facts, run.keep)

    try:
        validation = Validation(recipe, task.model, out, device, log, measured)
        with Interrupt() as interrupt:
            loop = Loop(recipe, task, parallel, optimiser, device, log, counters, interrupt, validation)
            step, metrics, stopped = loop.run(loader, start, save)
    finally:
        loader.close()
        log.close()
    finished = step >= run.steps or validation.ended
    if finished:
        validation.restore()
        export(task.model, out)
    return TrainResult(step, finished, metrics, task, None if finished else stopped)


class Loop:
    """The steps of a run, between set-up and export."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        parallel: Parallel,
        optimiser: torch.optim.AdamW,
        device: torch.device,
        log: Log,
        counters: dict[str, int],
        interrupt: Interrupt,
        validation: Validation,
    ) -> None:
        self.recipe, self.task, self.parallel, self.optimiser = recipe, task, parallel, optimiser
        self.device, self.log, self.counters, self.interrupt = device, log, counters, interrupt
        self.validation = validation
        self.window, self.shown = Window(), 0
        self.half = recipe.run.precision == "bf16" and has_bf16(device)
        if recipe.run.precision == "bf16" and not self.half:
            log.say("this CPU computes bf16 far slower than fp32: training in fp32")

    def run(
        self, loader: StepLoader, start: int, save: Callable[[int], Any]
    ) -> tuple[int, dict[str, float], int | None]:
        """Runs until the end or a request to stop; returns steps done, last metrics, and the signal if any."""
        run, metrics, step = self.recipe.run, dict[str, float](), start
        batches = iter(loader)
        while step < run.steps and not self.validation.ended:
            micros = next(batches)
            totals, pairs = self._agree(micros)
            values, stop = self._step(step, [micro.to(self.device) for micro in micros], totals, loader)
            step += 1
            self.window.add(values, pairs)
            self.log.advance(step)
            if step % run.log_every == 0 or step == run.steps or stop:
                metrics, speed = self.window.close()
                metrics["skipped"] = float(self.counters["skipped"])
                metrics["memory_gb"] = peak_gigabytes(self.device)
                self.log.step(step, metrics, speed)
            if self.validation.due(step):
                self.validation(step)
            ended = step == run.steps or self.validation.ended
            if step % run.save_every == 0 or ended or stop:
                save(step)
            if stop and not ended:
                self.log.say(f"stopped after step {step}; a checkpoint is written. Continue with --resume.")
                return step, metrics, stop
        return step, metrics, None

    def _step(self, step: int, micros: list[Batch], totals: Tensor, loader: StepLoader) -> tuple[dict[str, float], int]:
        """One optimiser step; its metrics, and the signal that any process was sent, or 0."""
        run, settings = self.recipe.run, self.recipe.optim
        sums: dict[str, Tensor] = {}
        for number, micro in enumerate(micros):
            self.parallel.reduce_gradients(last=number == len(micros) - 1)
            with self._autocast():
                output = self.parallel(micro, totals)
            output.loss.backward()
            if output.known is not None:
                loader.leave_out(output.known)
            for name, value in itertools.chain([("loss", output.loss.detach())], output.metrics.items()):
                sums[name] = sums[name] + value if name in sums else value
        self.task.after_backward()
        values, stop = self._finite(step, sums)
        if run.clip is not None:
            values["gradient_norm"] = optim.clip_gradients(self.task.model, run.clip)
            self._require(step, [] if math.isfinite(values["gradient_norm"]) else ["the gradient"])
        values["lr"] = settings.lr * settings.factor(step, run.steps) * self.validation.watch.factor
        optim.set_rate(self.optimiser, values["lr"])
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.task.after_step()
        return values, stop

    def _agree(self, micros: list[Batch]) -> tuple[Tensor, int]:
        """Counts of the whole step over the number of ranks, and its texts; raises if too many records are broken."""
        counts = torch.stack([self.task.counts(micro) for micro in micros]).sum(0)
        broken = [line for micro in micros for line in micro.skipped]
        for line in broken[: SHOWN - self.shown]:
            self.shown += 1
            self.log.note(f"skipped: {line}" + (" (further ones are only counted)" if self.shown == SHOWN else ""))
        texts = sum(len(micro.token_ids) for micro in micros)
        total = comm.all_reduce_sum(torch.cat([counts, torch.tensor([float(len(broken)), float(texts)])]))
        self.counters["skipped"] += int(total[-2])
        self.counters["seen"] += self.recipe.run.batch
        skipped, seen = self.counters["skipped"], self.counters["seen"]
        if skipped > self.recipe.run.max_bad_share * max(seen, 1000):
            raise DataError(
                "training data", "", f"{skipped} broken records among the first {seen + skipped}",
                "Mend them (wordregion data check lists them), or raise --max-bad-share.",
            )  # fmt: skip
        return total[:-2] / comm.world_size(), int(total[-1])

    def _finite(self, step: int, sums: dict[str, Tensor]) -> tuple[dict[str, float], int]:
        """Metrics averaged over ranks, before the optimiser can use them; and the signal that any rank was sent."""
        values = torch.stack([value.detach().double().reshape(()) for value in sums.values()]).cpu()
        flags = torch.zeros(2, dtype=torch.double)
        if self.interrupt.asked:
            flags[int(self.interrupt.asked == signal.SIGTERM)] = 1
        packed = comm.all_reduce_sum(torch.cat([values, flags]))
        means = dict(zip(sums, (packed[:-2] / comm.world_size()).tolist(), strict=True))
        self._require(step, [f"{name}={value}" for name, value in means.items() if not math.isfinite(value)])
        return means, int(signal.SIGTERM if packed[-1] else signal.SIGINT if packed[-2] else 0)

    def _require(self, step: int, bad: list[str]) -> None:
        if bad:
            raise WordregionError(
                f"step {step + 1}: not finite: {', '.join(bad)}. Lower --lr, set --clip 1 or use fp32, then --resume "
                "from the last checkpoint."
            )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.half:  # no cache: it would keep sharded weights gathered
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
        return nullcontext()


class Window:
    """Mean metrics and speed since the last logged step. A metric's mean runs over the steps that had it."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._pairs = 0
        self._began = time.monotonic()

    def add(self, values: dict[str, float], pairs: int) -> None:
        """Counts one step of `pairs` texts."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        self._pairs += pairs
        self._lr = values["lr"]

    def close(self) -> tuple[dict[str, float], float]:
        """Mean metrics (the last learning rate) and texts a second; the next window begins."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()} | {"lr": self._lr}
        speed = self._pairs / (time.monotonic() - self._began)
        self._reset()
        return means, speed


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, for parts that draw from the global generator


def _must_continue(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Raises UsageError if the run would not continue: the order of the data depends on batch and seed.

    Returns:
        a line for other arguments of the recipe (data may have moved, so that they are told, not refused), and one for
        other settings that change what is learned.
    """
    for name in ("batch", "seed"):
        old, new = before["run"][name], now["run"][name]
        if old != new:
            raise UsageError(f"{folder}: was trained with {name}={old}, not {new}. Resume with --{name} {old}.")
    notes = []
    if told := _differences(before.get("arguments", {}), now["arguments"]):
        notes.append(
            f"resuming with other arguments of the recipe: {told}; the same run only if they are paths that moved"
        )
    then, given = ({**facts.get("optim", {}), **{n: facts["run"].get(n) for n in LEARNING}} for facts in (before, now))
    if told := _differences(then, given):
        notes.append(f"resuming with other settings: {told}; not the run that it would have been")
    return notes


def _differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name}={now.get(name)!r} (was {then.get(name)!r})" for name in names)


def export(model: nn.Module, out: Path) -> None:
    """Writes a whole model's weights, and its structure if that can be described; call it on all ranks."""
    state = full_state(model)
    if comm.main_process():
        if store.describable(model):
            store.save_model(model, out, state)  # type: ignore[arg-type]
        else:
            store.save_weights(model, out / store.WEIGHTS, state)
    comm.barrier()
