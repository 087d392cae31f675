"""What replaced words cost beside masked ones: seconds and operations of a training step, and the share of each pass.

    python benchmarks/words.py                          # a small model at 64 px, batch 32
    python benchmarks/words.py --base --batch 4         # ALBEF-base at 256 px

Arms: contrast + matching, with masked words (mlm), replaced words (rtd), and two generated negatives besides (rtd_fg).
Each lives in a process of its own; they take turns, step by step.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from common import Turns, counted_flops, peak_gigabytes, timed
from train_step import make_batch

from wordregion.engine.optim import build as build_optimiser
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_base, albef_tiny, for_replaced_words
from wordregion.objectives import Contrast, MaskedWords, Match, ReplacedWords
from wordregion.recipes.recipe import AdamW
from wordregion.schema import Batch
from wordregion.tasks.align import Align

ARMS = ("mlm", "rtd", "rtd_fg")
PASSES = ("encode_image", "encode_text", "fuse")


def batch_of(settings: argparse.Namespace, seed: int) -> Batch:
    """A batch of `train_step`, with words marked, and two false texts for each true one."""
    batch = make_batch(settings.batch, settings.tokens, settings.pixels, seed)
    batch.words = torch.arange(settings.tokens).repeat(settings.batch, 1) > 0
    batch.negative_text = torch.arange(settings.batch).repeat_interleave(2)
    batch.negative_ids = batch.token_ids[batch.negative_text].roll(1, 1)
    batch.negative_mask = torch.ones_like(batch.negative_ids, dtype=torch.bool)
    return batch


def build(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """The commands of one arm's process."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    if settings.base:
        model = albef_base(settings.pixels, vision_weights=False, text_weights=False)
    else:
        model = albef_tiny(30522, settings.pixels)
    words = MaskedWords() if name == "mlm" else ReplacedWords()
    if name != "mlm":
        model = for_replaced_words(model)
    match = Match(generated=2 if name == "rtd_fg" else 0)
    task = Align(objectives=(Contrast(), match, words), queue_size=0, distill=0.0).build(model).train()
    optimiser = build_optimiser(model, AdamW())
    batches = [batch_of(settings, seed) for seed in range(4)]
    count = iter(range(10**9))

    def backward(batch: Batch) -> None:
        task(batch, task.counts(batch)).loss.backward()
        task.after_backward()

    def step() -> dict[str, float]:
        batch = batches[next(count) % len(batches)]

        def work() -> None:
            backward(batch)
            optimiser.step()
            optimiser.zero_grad()
            task.after_step()

        return timed(work) | {"peak": peak_gigabytes()}

    def shares() -> dict[str, float]:
        """Seconds of the forward passes of the student, and of the whole forward."""
        spent = dict.fromkeys((*PASSES, "generate", "forward"), 0.0)
        with clocked(model, spent), torch.no_grad():
            start = time.perf_counter()
            task(batches[0], task.counts(batches[0]))
            spent["forward"] = time.perf_counter() - start
        task._features.clear()
        return spent

    return {"step": step, "flops": lambda: counted_flops(lambda: backward(batches[0])), "shares": shares}


@contextmanager
def clocked(model: FusionModel, spent: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds of the student's passes."""

    def clock(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    for name in PASSES:
        setattr(model, name, clock(getattr(model, name), name))
    head = dict(model.heads.items()).get("generate")
    if head is not None:
        head.forward = clock(head.forward, "generate")
    try:
        yield
    finally:
        for name in PASSES:
            delattr(model, name)
        if head is not None:
            del head.forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("steps", 10), ("batch", 32), ("tokens", 30), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--pixels", type=int, help="64, or 256 with --base")
    parser.add_argument("--base", action="store_true", help="ALBEF-base: 7 GB of memory an arm")
    settings = parser.parse_args()
    settings.pixels = settings.pixels or (256 if settings.base else 64)
    turns = Turns(build, list(ARMS), settings)
    for name in ARMS:
        turns(name, "step")
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    shares: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for _ in range(settings.steps):
        for name in ARMS:
            seen[name].append(turns(name, "step"))
            shares[name].append(turns(name, "shares"))
    first = 0.0
    for name in ARMS:
        wall = statistics.median(step["wall"] for step in seen[name])
        first = first or wall
        parts = {key: statistics.median(s[key] for s in shares[name]) for key in shares[name][0]}
        told = ", ".join(f"{key} {parts[key] / parts['forward']:.0%}" for key in (*PASSES, "generate") if parts[key])
        print(
            f"{name:7} {wall:.3f} s a step ({wall / first:.2f} x mlm), {settings.batch / wall:.1f} pairs/s, "
            f"{turns(name, 'flops') / 1e12:.3f} TFLOP, peak {seen[name][-1]['peak']:.2f} GB; of a forward: {told}"
        )
    turns.close()


if __name__ == "__main__":
    main()
