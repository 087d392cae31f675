"""What a run tells: a progress bar or plain lines, ``metrics.jsonl``, TensorBoard."""

import json
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from wordregion.drafts import draft_of


class Log:
    """Writes on the main process only.

    Args:
        out: folder of the run; ``metrics.jsonl`` gets one JSON line a logged step, ``tensorboard/`` the same values.
        start: step at which this process begins; later lines of an earlier attempt are dropped.
        steps: of the whole run.
        active: whether this process writes at all.
    """

    def __init__(self, out: Path, start: int, steps: int, active: bool) -> None:
        self.active, self.steps = active, steps
        self._began, self._first = time.monotonic(), start
        if not active:
            return
        self._file = out / "metrics.jsonl"
        lines = self._file.read_bytes().split(b"\n") if start and self._file.is_file() else []
        steps_of = [_step_of(line) for line in lines]
        kept = [line + b"\n" for line, at in zip(lines, steps_of, strict=True) if at is not None and at <= start]
        with draft_of(self._file) as draft:
            draft.write_bytes(b"".join(kept))
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start or None)
        self._bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(), disable=not sys.stderr.isatty(), transient=False,
        )  # fmt: skip
        self._row = self._bar.add_task("training", total=steps, completed=start, told="")
        self._bar.start()
        if broken := sum(at is None and bool(line.strip()) for line, at in zip(lines, steps_of, strict=True)):
            self.say(f"{self._file}: {broken} unreadable lines, of an attempt that was cut off perhaps, were dropped")

    def say(self, line: str) -> None:
        """One line for the user."""
        if self.active:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """One line from any process."""
        if self.active:
            self.say(line)
        else:
            print(line, flush=True)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self.active:
            self._bar.update(self._row, completed=step)

    def step(self, step: int, values: dict[str, float], pairs_per_second: float) -> None:
        """Records a logged step; `step` counts the optimiser steps done."""
        if not self.active:
            return
        record = {"step": step, **values, "pairs_per_second": pairs_per_second}
        with self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, step)
        left = (time.monotonic() - self._began) / max(1, step - self._first) * (self.steps - step)
        told = f"loss {values['loss']:.3f}  lr {values['lr']:.2e}  {pairs_per_second:.1f} pairs/s"
        self._bar.update(self._row, completed=step, told=told)
        if self._bar.disable:
            self.say(f"step {step}/{self.steps}  {told}  {left / 60:.1f} min left")

    def close(self) -> None:
        """Ends the bar and the files."""
        if self.active:
            self._bar.stop()
            self._board.close()


def _step_of(line: bytes) -> int | None:
    """The step of a logged line, or None if it can't be read."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
