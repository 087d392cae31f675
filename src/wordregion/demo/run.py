"""Train, evaluate, report."""

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wordregion.data.loader import Transform
from wordregion.data.scene_views import SceneNegatives
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Tokenizer
from wordregion.demo.report import Facts, read_curves, write_report
from wordregion.drafts import remove
from wordregion.engine.trainer import train
from wordregion.errors import UsageError
from wordregion.evaluate.retrieval import evaluate_retrieval
from wordregion.models.fusion import FusionModel
from wordregion.recipes.albef import albef_demo
from wordregion.recipes.recipe import Recipe
from wordregion.runs import load_student
from wordregion.schema import Sample
from wordregion.tasks.align import Align

UNUSED = np.random.default_rng(0)
"""Evaluation transforms draw nothing."""
LEFT = (
    "checkpoints", "tensorboard", "metrics.jsonl", "recipe.json", "model.safetensors", "model.json", "report.html",
    "eval.json", "compositional.json",
)  # fmt: skip
"""What a demo leaves, and commands that look at it: all that a new demo in the same folder may remove."""


@dataclass(frozen=True)
class DemoFlags:
    """Trains a small ALBEF on built-in scenes, evaluates it on unseen ones and writes one HTML page about it.

    Nothing is downloaded. A demo that was interrupted goes on where it stopped; a finished one starts afresh.

    Examples: `wordregion demo`, `wordregion demo --minutes 1 --out runs/quick`
    """

    minutes: float = 5.0
    """rough length of training on two quiet cores; scales the recipe's steps"""
    steps: int | None = None
    """optimiser steps, instead of --minutes"""
    out: Path = Path("runs/demo")
    """folder of the run and of report.html"""
    held_out: int = 256
    """scenes to evaluate on"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


def run_demo(flags: DemoFlags) -> int:
    """Runs the demo; returns the exit status.

    Raises:
        UsageError: for settings out of range, or an `out` that holds another run.
    """
    recipe = demo_recipe(flags)  # before anything is removed
    resume = _prepare(flags.out)
    print(f"Training {recipe.name}: {recipe.run.steps} steps of {recipe.run.batch} scenes, all built in.", flush=True)
    began = time.monotonic()
    result = train(recipe, flags.out, resume=resume)
    if not result.finished:
        print("Stopped. The same command goes on from here.")
        return 130
    minutes = (time.monotonic() - began) / 60
    model, _ = load_student(recipe, flags.out, flags.device or "cpu")
    assert isinstance(model, FusionModel)
    facts = examine(recipe, model, flags, minutes)
    report = write_report(facts, flags.out / "report.html")
    for name, value in facts.retrieval.metrics.items():
        if name.endswith("@1"):
            print(f"{name:24} {value:5.1f} %   (chance {100 / flags.held_out:.1f} %)")
    print(f"\nReport: {report}")
    return 0


def demo_recipe(flags: DemoFlags) -> Recipe:
    """`albef_demo` at the length and on the device asked for.

    Raises:
        UsageError: for settings out of range.
    """
    if not 0 < flags.minutes <= 600:
        raise UsageError(f"demo: minutes={flags.minutes} is outside 0 to 600. Try --minutes 5.")
    if flags.held_out < 12:
        raise UsageError(f"demo: held_out={flags.held_out} is too few scenes for a report. Give at least 12.")
    recipe = albef_demo()
    steps = max(1, round(recipe.run.steps * flags.minutes / 5)) if flags.steps is None else flags.steps
    run = dataclasses.replace(recipe.run, steps=steps, device=flags.device)
    optim = dataclasses.replace(recipe.optim, warmup=min(recipe.optim.warmup, steps // 4))
    assert isinstance(recipe.task, Align)
    task = dataclasses.replace(recipe.task, first_alone=round(recipe.task.first_alone * steps / recipe.run.steps))
    return dataclasses.replace(
        recipe, task=task, run=run, optim=optim, source="albef_demo", arguments={"scenes": 200_000}
    )


def _prepare(out: Path) -> bool:
    """Whether to resume. Removes a finished demo; refuses a folder with anything else in it."""
    if (out / "report.html").is_file() and (out / "recipe.json").is_file():
        own = [path for path in out.iterdir() if path.name in LEFT or path.match("*.draft") or path.match("draft_*")]
        if other := sorted({path.name for path in out.iterdir()} - {path.name for path in own}):
            raise UsageError(
                f"demo: {out} holds more than a finished demo ('{other[0]}'). Move that away, or give another --out."
            )
        for path in own:
            remove(path)
    if not out.exists():
        return False
    if (out / "checkpoints").is_dir() and (out / "recipe.json").is_file():
        return not (out / "model.safetensors").is_file() and any((out / "checkpoints").iterdir())
    if not out.is_dir() or any(out.iterdir()):
        raise UsageError(f"demo: {out} holds something else. Give another folder with --out.")
    return False


@torch.inference_mode()
def examine(recipe: Recipe, model: FusionModel, flags: DemoFlags, minutes: float) -> Facts:
    """Everything that the report shows, measured on scenes of the validation split."""
    transform = recipe.data.eval_transform
    assert transform is not None
    tokenizer = recipe.data.collator().tokenizer
    scenes = Scenes("val", flags.held_out, image_size=model.image_size, captions=1)
    retrieval = evaluate_retrieval(
        model, scenes, recipe.data.collator(), transform, k=min(64, flags.held_out), device=flags.device
    )
    shown = Scenes("val", flags.held_out, image_size=160, captions=1)  # the same scenes, sharper
    return Facts(
        recipe=recipe,
        parameters=sum(p.numel() for p in model.parameters()),
        minutes=minutes,
        cores=os.cpu_count() or 1,
        curves=read_curves(flags.out / "metrics.jsonl"),
        retrieval=retrieval,
        pictures=tuple(shown[index].images[0] for index in range(flags.held_out)),  # type: ignore[misc]
        negatives=judge_negatives(model, tokenizer, transform, flags.held_out),
        attention=tuple(attend(model, tokenizer, transform, shown[index]) for index in range(0, 12, 3)),
    )


def judge_negatives(
    model: FusionModel, tokenizer: Tokenizer, transform: Transform, size: int
) -> dict[str, tuple[int, int]]:
    """How often the match head prefers a true caption to a false one in the same words: (right, asked) by kind."""
    pairs = SceneNegatives("val", size, image_size=model.image_size)
    right: dict[str, int] = {}
    asked: dict[str, int] = {}
    device = next(model.parameters()).device
    for first in range(0, size, 32):
        samples = [transform(pairs[index], UNUSED) for index in range(first, min(first + 32, size))]
        image = model.encode_image(torch.stack([_pixels(s) for s in samples]).to(device))
        encoded = tokenizer([text for s in samples for text in s.texts])
        mask = encoded.mask.to(device)
        hidden = model.encode_text(encoded.ids.to(device), mask)
        owner = torch.arange(len(samples), device=device).repeat_interleave(2)
        logits = model.heads["match"](model.fuse(hidden, mask, image, owner).cls)
        score = (logits[:, 1] - logits[:, 0]).view(-1, 2)
        for sample, won in zip(samples, (score[:, 0] > score[:, 1]).tolist(), strict=True):
            kind = str(sample.target["kind"])
            asked[kind] = asked.get(kind, 0) + 1
            right[kind] = right.get(kind, 0) + won
    return {kind: (right[kind], asked[kind]) for kind in sorted(asked)}


def attend(
    model: FusionModel, tokenizer: Tokenizer, transform: Transform, sample: Sample
) -> tuple[Sample, list[tuple[str, torch.Tensor]]]:
    """For one scene: its sample, and for each noun phrase of its caption where the words look in the image.

    Cross-attention of the last fusion layer, mean over heads and over the tokens of the phrase, on the patch grid.
    """
    device = next(model.parameters()).device
    picture = _pixels(transform(sample, UNUSED))
    caption = sample.captions()[0]
    encoded = tokenizer([sample.texts[caption]])
    mask = encoded.mask.to(device)
    image = model.encode_image(picture[None].to(device))
    layer = len(model.fusion.layers) - 1
    fused = model.fuse(model.encode_text(encoded.ids.to(device), mask), mask, image, attention_layer=layer)
    assert fused.attention is not None
    attention_LN = fused.attention[0].mean(0)[:, 1:].cpu()  # without the image's summary token
    side = round(attention_LN.shape[1] ** 0.5)
    found = []
    for grounding in sample.groundings:
        if grounding.text == caption and grounding.span is not None:
            tokens = encoded.tokens_of_span(0, grounding.span)
            begin, end = grounding.span
            found.append((sample.texts[caption][begin:end], attention_LN[tokens].mean(0).view(side, side)))
    return sample, found


def _pixels(sample: Sample) -> torch.Tensor:
    """The first image of a transformed sample."""
    picture = sample.images[0]
    assert isinstance(picture, torch.Tensor)
    return picture
