"""`wordregion ablate`: several recipes at equal steps on equal data, several seeds, one table.

Each run is a process of its own (`wordregion train`, `wordregion eval`), so that its memory is its own. A stopped
ablation goes on where it was.
"""

import json
import math
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor
from tyro.conf import Positional

from wordregion.data.loader import StepLoader
from wordregion.errors import UsageError, WordregionError
from wordregion.recipes.recipe import Recipe

COST = {"pairs_per_second": "pairs/s", "memory_gb": "GB"}
WARM = 1
"""Logged lines at the start that do not count as speed: loader and caches are cold."""


@dataclass(frozen=True)
class AblateFlags:
    """Trains several recipes at equal steps and on equal data, with several seeds each, and writes one table of means,
    spreads and costs: ablation.md, ablation.html and ablation.json in --out.

    A RECIPE is what `wordregion train` takes, with flags of its own in quotes. Runs that are finished are kept.

    Examples: `wordregion ablate "vl_match_scenes --words mlm --match itm" "vl_match_scenes --words rtd --match itm"`,
    `wordregion ablate "vl_match_scenes --match itm" vl_match_scenes --steps 3000 --seeds 0 1 2 --out runs/ablation`
    """

    recipes: Positional[tuple[str, ...]]
    """two or more: a built-in name or FILE.py:FUNCTION, with its own flags in quotes"""
    out: Path = Path("runs/ablation")
    """folder of the runs and the table"""
    seeds: tuple[int, ...] = (0, 1)
    """of weights, order and draws; every recipe is trained with each"""
    steps: int | None = None
    """optimiser steps (default: the recipes', which must agree)"""
    batch: int | None = None
    """images a step (default: the recipes', which must agree)"""
    precision: str | None = None
    """fp32 or bf16 (default: the recipes')"""
    compositional: tuple[str, ...] = ()
    """further sets for `wordregion eval compositional`: scenes, or PATH or PATH::IMAGES"""
    metrics: tuple[str, ...] = ()
    """only metrics whose name holds one of these (default: all)"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


@dataclass(frozen=True)
class Measure:
    """One number over the seeds.

    Attributes:
        mean: of the seeds.
        spread: standard deviation of a sample, nan of a single seed.
        values: one a seed.
    """

    mean: float
    spread: float
    values: tuple[float, ...]


Table = dict[str, dict[str, Measure]]
"""Recipe -> name of a metric or cost -> over the seeds."""
Run = Callable[[Sequence[str]], None]


def run_ablation(flags: AblateFlags, recipes: Sequence[Recipe], run: Run | None = None) -> Table:
    """Trains and measures what is missing, and writes the table.

    Args:
        flags: what to do.
        recipes: those that `flags.recipes` name.
        run: runs ``wordregion`` with some arguments; exchangeable for tests.

    Raises:
        UsageError: if the recipes do not agree in steps, batch or data, or there are fewer than two.
        WordregionError: if a run failed.
    """
    run = run or _wordregion
    check_equal(flags, recipes)
    table: Table = {}
    for spec in flags.recipes:
        results = []
        for seed in flags.seeds:
            out = flags.out / label(spec) / f"seed-{seed}"
            _train(spec, seed, out, flags, run)
            results.append(_measured(out, flags, run))
        table[spec] = {name: over_seeds([r[name] for r in results]) for name in results[0]}
    steps, batch = (flags.steps or recipes[0].run.steps), (flags.batch or recipes[0].run.batch)
    told = f"{steps:,} steps of {batch} images, seeds {', '.join(map(str, flags.seeds))}: mean ± standard deviation"
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "ablation.md").write_text(as_markdown(table, told), encoding="utf-8")
    (flags.out / "ablation.html").write_text(as_html(table, told), encoding="utf-8")
    content = {"steps": steps, "batch": batch, "seeds": flags.seeds, "table": _plain(table)}
    (flags.out / "ablation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return table


def check_equal(flags: AblateFlags, recipes: Sequence[Recipe]) -> None:
    """Raises UsageError unless the recipes train equally long on equal data: the first step's pictures and words."""
    if len(recipes) < 2 or len(set(flags.recipes)) < len(flags.recipes) or not flags.seeds:
        raise UsageError("ablate: give two different recipes or more, and a seed.")
    for name in ("steps", "batch"):
        values = {getattr(recipe.run, name) for recipe in recipes}
        if getattr(flags, name) is None and len(values) > 1:
            raise UsageError(f"ablate: the recipes have {name} {sorted(values)}. Give one with --{name} N.")
    first = _first_batch(recipes[0], flags)
    for spec, recipe in zip(flags.recipes[1:], recipes[1:], strict=True):
        if _first_batch(recipe, flags) != first:
            raise UsageError(
                f"ablate: '{spec}' and '{flags.recipes[0]}' do not train on the same images and captions in the same "
                "order. Give them the same data, transform and batch."
            )


def over_seeds(values: Sequence[float]) -> Measure:
    """Mean and standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return Measure(statistics.fmean(values), spread, tuple(values))


def label(spec: str) -> str:
    """A folder name for a recipe with its flags."""
    file, _, function = spec.rpartition(":")
    name = f"{Path(file).stem}_{function}" if file else spec
    return "".join(c if c.isalnum() or c in "_-." else "_" for c in name.replace("--", "")).strip("_")


def read_cost(run: Path) -> dict[str, float]:
    """Pairs a second (median of the logged steps) and peak memory in GB of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["pairs_per_second"] for line in lines[WARM:] or lines]
    return {"pairs_per_second": statistics.median(speeds), "memory_gb": max(line["memory_gb"] for line in lines)}


def as_markdown(table: Table, told: str) -> str:
    """The table in Markdown: a row a metric, a column a recipe; the best mean of a row is bold."""
    specs = list(table)
    lines = [f"{told}.", "", "| |" + "".join(f" {spec} |" for spec in specs), "|---|" + "---|" * len(specs)]
    for name, cells in _rows(table):
        lines.append(f"| {name} |" + "".join(f" **{text}** |" if best else f" {text} |" for text, best in cells))
    return "\n".join(lines) + "\n"


def as_html(table: Table, told: str) -> str:
    """The table as a page of its own."""
    heads = "".join(f"<th>{escape(spec)}</th>" for spec in table)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td{' class=best' if best else ''}>{escape(text)}</td>" for text, best in cells)
        + "</tr>"
        for name, cells in _rows(table)
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Ablation</title><style>body{font:15px sans-serif;"
        "margin:2em}table{border-collapse:collapse}td,th{padding:4px 12px;border-bottom:1px solid #ddd;"
        "text-align:right}td:first-child{text-align:left}.best{font-weight:bold}</style><h1>Ablation</h1>"
        f"<p>{escape(told)}.</p><table><tr><th></th>{heads}</tr>{rows}</table></html>\n"
    )


def _rows(table: Table) -> list[tuple[str, list[tuple[str, bool]]]]:
    """(name, [(text, whether the best of its row)]) of every measure that all recipes have, the costs last."""
    names = [n for n in next(iter(table.values())) if all(n in row for row in table.values())]
    rows = []
    for name in sorted(names, key=lambda n: n in COST):
        cells = [row[name] for row in table.values()]
        best = min(c.mean for c in cells) if name == "memory_gb" else max(c.mean for c in cells)
        alike = all(c.mean == best for c in cells)
        rows.append((COST.get(name, name), [(_text(c), c.mean == best and not alike) for c in cells]))
    return rows


def _text(measure: Measure) -> str:
    return f"{measure.mean:.1f}" if math.isnan(measure.spread) else f"{measure.mean:.1f} ± {measure.spread:.1f}"


def _train(spec: str, seed: int, out: Path, flags: AblateFlags, run: Run) -> None:
    name, *own = shlex.split(spec)
    if (out / "model.safetensors").is_file():
        return
    arguments = ["train", name, *own, "--out", str(out), "--seed", str(seed)]
    for field in ("steps", "batch", "precision", "device"):
        if (value := getattr(flags, field)) is not None:
            arguments += [f"--{field}", str(value)]
    if (out / "checkpoints").is_dir() and any((out / "checkpoints").iterdir()):
        arguments.append("--resume")
    run(arguments)
    if not (out / "model.safetensors").is_file():
        raise WordregionError(f"{out}: the training was stopped. Give the same command again to go on.")


def _measured(out: Path, flags: AblateFlags, run: Run) -> dict[str, float]:
    """Metrics and costs of a finished run."""
    device = [] if flags.device is None else ["--device", flags.device]
    asked = [("eval.json", "", ["eval", str(out)])]
    for number, target in enumerate(flags.compositional):
        data, _, images = target.partition("::")
        name = Path(data).stem
        more = ["--data", data, *(["--images", images, "--available"] if images else [])]
        asked.append((f"compositional_{number}_{name}.json", f"{name}: ", ["eval", "compositional", str(out), *more]))
    found: dict[str, float] = {}
    for file, prefix, arguments in asked:
        path = out / file
        if not path.is_file():
            run([*arguments, *device, "--out", str(path)])
        metrics: Mapping[str, float] = json.loads(path.read_text())["metrics"]
        found |= {f"{prefix}{name.partition('/')[2]}": value for name, value in metrics.items()}
    if flags.metrics:
        found = {name: value for name, value in found.items() if any(part in name for part in flags.metrics)}
    return found | read_cost(out)


def _first_batch(recipe: Recipe, flags: AblateFlags) -> list[Any]:
    """Pictures and words of the first step, without padding."""
    seed = flags.seeds[0]
    batch = flags.batch or recipe.run.batch
    loader = StepLoader(recipe.data.train(), recipe.data.transform, recipe.data.collator(), batch=batch, seed=seed)
    try:
        [found] = next(iter(loader))
    finally:
        loader.close()
    words: list[Tensor] = [ids[mask] for ids, mask in zip(found.token_ids, found.token_mask, strict=True)]
    return [found.image_key.tolist(), [ids.tolist() for ids in words], found.image.double().sum().item()]


def _plain(table: Table) -> dict[str, Any]:
    """The table as JSON values; a spread that is not there becomes null."""
    return {
        spec: {n: {**asdict(m), "spread": None if math.isnan(m.spread) else m.spread} for n, m in row.items()}
        for spec, row in table.items()
    }


def _wordregion(arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "wordregion.cli", *arguments]
    status = subprocess.call(command)
    if status:
        raise WordregionError(f"failed with status {status}: wordregion {shlex.join(arguments)}. Its message is above.")
