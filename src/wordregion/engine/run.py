"""Run-level settings of a training: what the command line can change."""

from dataclasses import dataclass
from typing import Literal

from wordregion.errors import UsageError


@dataclass(frozen=True)
class Run:
    """How long, how large, where.

    Attributes:
        steps: optimiser steps.
        batch: images a step over all processes and micro-batches.
        accumulate: micro-batches a step.
        precision: ``fp32``, or ``bf16`` = autocast to bfloat16 with float32 weights, where the device has it; a CPU
            without is told so and trains in float32.
        parallel: over several processes: ``none`` | ``ddp`` | ``fsdp`` (everything sharded).
        compile: torch.compile each block.
        checkpoint_activations: recompute the student's blocks in the backward pass to save memory.
        clip: largest gradient norm, or None.
        seed: of initialisation, order, augmentation, masking, dropout and negatives.
        workers: loader processes of each rank.
        log_every: steps between log lines.
        save_every: steps between checkpoints.
        keep: checkpoints to keep.
        max_bad_share: share of broken records in [0, 1] above which training stops.
        device: ``cpu``, ``cuda``, ...; a GPU where there is one if None.
    """

    steps: int
    batch: int
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    parallel: Literal["none", "ddp", "fsdp"] = "none"
    compile: bool = False
    checkpoint_activations: bool = False
    clip: float | None = None
    seed: int = 0
    workers: int = 2
    log_every: int = 10
    save_every: int = 500
    keep: int = 2
    max_bad_share: float = 0.01
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "save_every", "keep", "workers", "seed"):
            if type(getattr(self, name)) is not int:
                raise UsageError(f"run: {name}={getattr(self, name)!r} is no whole number. Give one.")
        for name in ("clip", "max_bad_share"):
            value = getattr(self, name)
            if type(value) not in (int, float) and not (name == "clip" and value is None):
                raise UsageError(f"run: {name}={value!r} is no number. Give one.")
        if self.device is not None and not isinstance(self.device, str):
            raise UsageError(f"run: device={self.device!r} is no name. Give one such as 'cpu' or 'cuda:1', or None.")
        for name in ("steps", "batch", "accumulate", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise UsageError(f"run: {name}={getattr(self, name)} is below 1. Give a positive number.")
        for name in ("workers", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"run: {name}={getattr(self, name)} is negative. Give 0 or more.")
        if self.seed >= 2**63:
            raise UsageError(f"run: seed={self.seed} is too large. Give one below 2**63.")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"run: precision={self.precision} is unknown. Use fp32 or bf16.")
        if self.parallel not in ("none", "ddp", "fsdp"):
            raise UsageError(f"run: parallel={self.parallel} is unknown. Use none, ddp or fsdp.")
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"run: clip={self.clip} is not above 0. Give a positive norm, or leave it out.")
        if not 0 <= self.max_bad_share <= 1:
            raise UsageError(f"run: max_bad_share={self.max_bad_share} is outside [0, 1]. Choose a share in it.")
