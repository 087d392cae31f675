"""The one training loop, for 1 to N processes."""

import itertools
import json
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wordregion.data.loader import StepLoader
from wordregion.distributed import comm
from wordregion.distributed.parallelize import Parallel, full_state
from wordregion.engine import checkpoint, optim
from wordregion.engine.logs import Log
from wordregion.errors import CheckpointError, DataError, UsageError, WordregionError
from wordregion.recipes.recipe import Recipe, resolved
from wordregion.schema import Batch
from wordregion.tasks.protocol import Task


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: optimiser steps done, over all attempts.
        finished: False if it was stopped by a signal.
        metrics: of the last logged step.
        task: the trained task.
    """

    step: int
    finished: bool
    metrics: dict[str, float]
    task: nn.Module


class Interrupt:
    """Turns the first SIGTERM or Ctrl-C into a request to stop after the step; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> "Interrupt":
        self._before: dict[int, Any] = {}
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
    ``model.safetensors`` (the student). A run that is stopped by SIGTERM or Ctrl-C finishes its step, writes a
    checkpoint and returns; ``resume`` continues it exactly (same processes) from the last checkpoint.

    Raises:
        UsageError: if `out` holds another run, or the settings do not fit the processes.
        CheckpointError: on resume, if there is no checkpoint or it does not fit.
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
    device = torch.device(run.device) if run.device else comm.device()
    torch.manual_seed(run.seed)
    model = recipe.model()
    optim.freeze(model, recipe.optim)
    task: Any = recipe.task.build(model).to(device).train()  # type: ignore[attr-defined]
    parallel = Parallel(task, task.blocks(), run.parallel, run.compile, run.checkpoint_activations)
    optimiser = optim.build(task.model, recipe.optim)
    tensors = {f"task/{name}": value for name, value in task.state_dict().items()}
    tensors |= {f"optim/{n}": v for n, v in optim.moments(optimiser, task.model.named_parameters()).items()}
    start, counters = 0, {"skipped": 0, "seen": 0}
    if resume:
        facts = checkpoint.load(found[-1], tensors)
        start, counters = facts["step"], facts["counters"]
    else:
        torch.manual_seed(run.seed + comm.rank())  # dropout and negatives differ between processes
    record = resolved(recipe)
    if comm.main_process():
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(json.dumps(record, indent=1))
    log = Log(out, start, run.steps, comm.main_process())
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

    def save(step: int) -> None:
        facts = {"step": step, "counters": counters, "processes": comm.world_size(), "recipe": record}
        checkpoint.save(out, step, tensors, facts, run.keep)

    try:
        with Interrupt() as interrupt:
            loop = Loop(recipe, task, parallel, optimiser, device, log, counters, interrupt)
            step, metrics = loop.run(loader, start, save)
    finally:
        loader.close()
        log.close()
    finished = step >= run.steps
    if finished:
        export(task.model, out / "model.safetensors")
    return TrainResult(step, finished, metrics, task)


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
    ) -> None:
        self.recipe, self.task, self.parallel, self.optimiser = recipe, task, parallel, optimiser
        self.device, self.log, self.counters, self.interrupt = device, log, counters, interrupt

    def run(self, loader: StepLoader, start: int, save: Callable[[int], Any]) -> tuple[int, dict[str, float]]:
        """Runs until the last step or a request to stop; returns the steps done and the last logged metrics."""
        run, metrics = self.recipe.run, dict[str, float]()
        began, pairs, step = time.monotonic(), 0.0, start
        batches = iter(loader)
        while step < run.steps:
            micros = [micro.to(self.device) for micro in next(batches)]
            totals, stop = self._agree(micros)
            values = self._step(step, micros, totals)
            step += 1
            pairs += float(totals[0]) * comm.world_size()
            self.log.advance(step)
            if step % run.log_every == 0 or step == run.steps or stop:
                metrics = self._finite(step, values)
                seconds = time.monotonic() - began
                self.log.step(step, metrics, pairs / seconds)
                began, pairs = time.monotonic(), 0.0
            if step % run.save_every == 0 or step == run.steps or stop:
                save(step)
            if stop:
                self.log.say(f"stopped after step {step}; a checkpoint is written. Continue with --resume.")
                break
        return step, metrics

    def _step(self, step: int, micros: list[Batch], totals: Tensor) -> dict[str, Tensor]:
        run, settings = self.recipe.run, self.recipe.optim
        sums: dict[str, Tensor] = {}
        for number, micro in enumerate(micros):
            self.parallel.reduce_gradients(last=number == len(micros) - 1)
            with self._autocast():
                output = self.parallel(micro, totals)
            output.loss.backward()
            for name, value in itertools.chain([("loss", output.loss.detach())], output.metrics.items()):
                sums[name] = sums[name] + value if name in sums else value
        self.task.after_backward()
        rate = settings.lr * settings.factor(step, run.steps)
        optim.set_rate(self.optimiser, rate)
        if run.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), run.clip)
            sums["gradient_norm"] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.task.after_step()
        sums["lr"] = torch.tensor(rate)
        return sums

    def _agree(self, micros: list[Batch]) -> tuple[Tensor, bool]:
        """Counts of the whole step over the number of ranks, and whether any rank was asked to stop."""
        counts = torch.stack([self.task.counts(micro) for micro in micros]).sum(0)
        broken = [line for micro in micros for line in micro.skipped]
        for line in broken:
            print(f"skipped: {line}", flush=True)
        extra = torch.tensor([float(len(broken)), float(bool(self.interrupt.asked))])
        total = comm.all_reduce_sum(torch.cat([counts, extra]).to(self.device)).cpu()
        self.counters["skipped"] += int(total[-2])
        self.counters["seen"] += self.recipe.run.batch
        share = self.counters["skipped"] / (self.counters["skipped"] + self.counters["seen"])
        if self.counters["skipped"] >= 5 and share > self.recipe.run.max_bad_share:
            raise DataError(
                "training data", "", f"{self.counters['skipped']} broken records so far, a share of {share:.1%}",
                "Mend them (wordregion data check lists them), or raise --max-bad-share.",
            )  # fmt: skip
        return total[:-2] / comm.world_size(), bool(total[-1])

    def _finite(self, step: int, values: dict[str, Tensor]) -> dict[str, float]:
        """Metrics averaged over ranks.

        Raises:
            WordregionError: naming the losses that are not finite.
        """
        names = list(values)
        packed = torch.stack([values[name].float().reshape(()).to(self.device) for name in names])
        packed = comm.all_reduce_sum(packed) / comm.world_size()
        metrics = dict(zip(names, packed.tolist(), strict=True))
        bad = [name for name, value in zip(names, packed, strict=True) if not bool(torch.isfinite(value))]
        if bad:
            raise WordregionError(
                f"step {step}: {', '.join(bad)} not finite. Lower --lr or set --clip 1, then --resume the run."
            )
        return metrics | {"skipped": float(self.counters["skipped"])}

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.recipe.run.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def export(model: nn.Module, path: Path) -> None:
    """Writes a whole model as safetensors, tied weights once; call it on all ranks."""
    state = full_state(model)
    if comm.main_process():
        names = [name for name, _ in itertools.chain(model.named_parameters(), model.named_buffers()) if name in state]
        draft = path.with_name(f"draft_{path.name}")
        save_file({name: state[name].contiguous() for name in names}, str(draft))
        draft.rename(path)
    comm.barrier()
