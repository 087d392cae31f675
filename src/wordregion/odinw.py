"""`wordregion eval odinw`: a detector on all sets of Object Detection in the Wild, as it is and adapted, one table.

Each result is a file of its own, so a stopped command goes on where it was.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import Positional

from wordregion.data.datasets.coco import CocoInstances
from wordregion.data.datasets.odinw import (
    Prompts,
    Split,
    few_shot_file,
    find_sets,
    open_part,
    read_prompts,
    split_file,
)
from wordregion.data.few_shot import Subset, few_shot
from wordregion.data.ground_collate import GroundCollator
from wordregion.data.ground_transforms import GroundEvalTransform
from wordregion.data.tokens import Tokenizer
from wordregion.distributed import comm
from wordregion.drafts import draft_of
from wordregion.engine.checkpoint import checkpoints
from wordregion.engine.trainer import train
from wordregion.errors import CheckpointError, UsageError
from wordregion.evaluate.detection import DetectionResult, evaluate_detection
from wordregion.evaluate.odinw import COPIES, ODINW13, ODINW35, odinw_average
from wordregion.fingerprint import fingerprint
from wordregion.models.adapt import Mode, save_prompt
from wordregion.models.grounder import Grounder
from wordregion.models.store import WEIGHTS, save_model
from wordregion.recipes.odinw import CLASSES_A_PROMPT, Tuning, odinw_tuning
from wordregion.runs import load_student
from wordregion.schema import Dataset

Shots = Literal["0", "1", "3", "5", "10", "full"]


@dataclass(frozen=True)
class OdinwFlags:
    """Measures a detector on the data sets of Object Detection in the Wild: as it is, and adapted to a few photos or
    to all of them. Writes odinw.md and odinw.json in --out, with the means over 13 and 35 sets where all are there.

    What is done is not done again: give the same command after a stop. Several processes share the work:
    torchrun --nproc-per-node 4 -m wordregion.cli eval odinw ...

    Examples: `wordregion eval odinw models/glip_tiny --data odinw/`,
    `wordregion eval odinw models/glip_tiny --data odinw/ --sets 13 --shots 0 1 3 5 10 full --mode prompt`
    """

    run: Positional[Path]
    """folder of a run, or of a model that `wordregion convert` wrote"""
    data: Path
    """folder of the sets, in the published layout"""
    sets: tuple[str, ...] = ()
    """names of sets, or 13, or 35 (default: all that are in --data)"""
    shots: tuple[Shots, ...] = ("0",)
    """0 = as it is (zero-shot); photos of each class to adapt to; full = all"""
    seeds: tuple[int, ...] = (3, 30, 300)
    """of the few photos that are drawn; the published few-shot files are taken where they lie beside the others"""
    mode: Mode = "full"
    """what is adapted: the whole model, its last maps (linear probe), or a prompt"""
    split: Literal["test", "valid"] = "test"
    """photos to measure on"""
    prompts: Path | None = None
    """JSON of wordings by set: {"Aquarium": [{"name": "penguin", "prefix": "", "suffix": ", black and white"}, ...]}"""
    epochs: int = 200
    """at most; an AP on the validation photos that stays below its best ends training before"""
    batch: int = 4
    """photos a step, and at a time when measuring"""
    lr: float | None = None
    """peak learning rate (default: 1e-4, for prompts 0.05)"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of training"""
    keep: bool = False
    """keep the adapted models; tuned prompts are kept always"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model, which has no recipe to name it"""
    workers: int = 0
    """loader processes"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""
    out: Path | None = None
    """folder of results (default: RUN/odinw)"""


@dataclass(frozen=True)
class Job:
    """One number of the table.

    Attributes:
        name: of the set.
        shots: see `OdinwFlags`.
        seed: of the draw; None where nothing is drawn.
        mode: what is adapted.
    """

    name: str
    shots: Shots
    seed: int | None
    mode: Mode

    @property
    def protocol(self) -> str:
        """First part of the metrics' names: zero-shot apart from fine-tuned, the ways of tuning apart."""
        if self.shots == "0":
            return "raw"
        return f"finetuned_on_{self.shots if self.shots == 'full' else f'{self.shots}shot'}" + (
            "" if self.mode == "full" else f"_{self.mode}"
        )

    def folder(self, out: Path) -> Path:
        """Where its files lie."""
        return out / self.name / self.protocol / ("all" if self.seed is None else f"seed_{self.seed}")


@dataclass(frozen=True)
class Detecting:
    """A detector with what it needs to look at photos: model, tokenizer, transform of the evaluation."""

    model: Grounder
    tokenizer: Tokenizer
    look: GroundEvalTransform


def check_odinw(flags: OdinwFlags) -> tuple[dict[str, Path], Prompts | None]:
    """Folders of the sets and the wordings that flags name; looks for every file before the first is used.

    Raises:
        UsageError: for a bad flag, or a set or split that is not there.
        DataError: for a broken file of prompts.
    """
    if not flags.shots or min(flags.batch, flags.epochs) < 1 or flags.workers < 0 or min(flags.seeds, default=-1) < 0:
        raise UsageError(
            "odinw: give at least one of --shots, one seed >= 0, batch >= 1, epochs >= 1 and workers >= 0."
        )
    groups: dict[str, tuple[str, ...]] = {"13": ODINW13, "35": ODINW35}
    names = [name for given in flags.sets for name in groups.get(given, (given,))]
    homes = find_sets(flags.data, tuple(dict.fromkeys(names)))
    splits: list[Split] = [flags.split] if set(flags.shots) == {"0"} else [flags.split, "train", "valid"]
    for name, home in homes.items():
        for split in splits:
            split_file(name, home, split)
    return homes, None if flags.prompts is None else read_prompts(flags.prompts)


def run_odinw(
    flags: OdinwFlags, homes: Mapping[str, Path], prompts: Prompts | None, detecting: Detecting, device: torch.device
) -> dict[str, Any] | None:
    """Does what is not done yet, and writes the table.

    Args:
        flags: what to do.
        homes: of `check_odinw`.
        prompts: of `check_odinw`.
        detecting: the detector.
        device: where to compute.

    Returns:
        the content of odinw.json; None if a signal stopped the work.

    Raises:
        UsageError: if the folder holds results of another model or other settings, or a set is unusable.
    """
    out = flags.out or flags.run / "odinw"
    jobs = list(every_job(homes, flags))
    model = fingerprint(detecting.model)
    made_with = {job: _made_with(job, flags, prompts, model) for job in jobs}
    results = {job: found for job in jobs if (found := read_result(job, out, made_with[job])) is not None}
    comm.barrier()  # nobody writes before all have looked
    for number, job in enumerate(jobs, 1):
        if job in results:
            continue
        _say(f"[{number}/{len(jobs)}] {job.name}, {job.protocol}" + ("" if job.seed is None else f", seed {job.seed}"))
        began = time.monotonic()
        measured = _measured(job, flags, homes[job.name], prompts, detecting, device, out)
        if measured is None:
            _say("stopped; give the same command to go on")
            return None
        results[job] = _result(job, measured, made_with[job])
        if comm.main_process():
            _write(job.folder(out) / "result.json", results[job])
        comm.barrier()
        _say(f"    AP {results[job]['AP']:.1f} on {measured.items} ({(time.monotonic() - began) / 60:.1f} min)")
    content = table(jobs, results) | {"run": str(flags.run), "model": model, "split": flags.split}
    if comm.main_process():
        _write(out / "odinw.json", content)
        (out / "odinw.md").write_text(as_markdown(content), encoding="utf-8")
    return content


def every_job(names: Iterable[str], flags: OdinwFlags) -> Iterator[Job]:
    """All that is asked for, zero-shot first."""
    for shots in dict.fromkeys(flags.shots):
        seeds: list[int | None] = [None] if shots in ("0", "full") else [*dict.fromkeys(flags.seeds)]
        for name in names:
            for seed in seeds:
                yield Job(name, shots, seed, flags.mode)


def read_result(job: Job, out: Path, made_with: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier command found, or None.

    Raises:
        CheckpointError: if the file is damaged.
        UsageError: if it was made with another model or other settings.
    """
    path = job.folder(out) / "result.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        before = found["made_with"]
        float(found["AP"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}). Delete it to measure again.") from error
    if differing := [name for name in made_with if before.get(name) != made_with[name]]:
        raise UsageError(f"{path}: was made with another {', '.join(differing)}. Give another --out, or delete it.")
    return found


def train_photos(name: str, home: Path, shots: Shots, seed: int | None, prompts: Prompts | None) -> Dataset:
    """The photos with boxes to adapt to, as often as an epoch has them.

    Args:
        name: of the set.
        home: its folder.
        shots: of each class, or "full".
        seed: of the draw.
        prompts: see `open_part`.
    """
    path = split_file(name, home, "train")
    if shots == "full" or seed is None:
        dataset = open_part(name, path, prompts).dataset
        return Subset(dataset, _with_boxes(dataset))
    count = int(shots)
    published = few_shot_file(path, count, seed)
    if published.is_file():
        dataset = open_part(name, published, prompts).dataset
        return Subset(dataset, _with_boxes(dataset), COPIES[count])
    dataset = open_part(name, path, prompts).dataset
    drawn = few_shot([dataset.shown(i) for i in range(len(dataset))], count, seed)
    return Subset(dataset, drawn, COPIES[count])


def table(jobs: Sequence[Job], results: Mapping[Job, Mapping[str, Any]]) -> dict[str, Any]:
    """AP of each set over its runs, and the means over 13 and 35 sets of each protocol that has them all."""
    sets: dict[str, dict[str, Any]] = {}
    runs: dict[str, dict[str, list[float]]] = {}
    for job in jobs:
        runs.setdefault(job.protocol, {}).setdefault(job.name, []).append(float(results[job]["AP"]))
    for protocol, found in runs.items():
        for name, values in found.items():
            cell: dict[str, Any] = {"AP": statistics.fmean(values), "runs": values}
            if len(values) > 1:
                cell["AP_std"] = statistics.stdev(values)
            sets.setdefault(name, {})[protocol] = cell
    means: dict[str, float] = {}
    for protocol, found in runs.items():
        for group in (ODINW13, ODINW35):
            if set(group) <= set(found):
                means |= odinw_average({name: found[name] for name in group}, protocol)
    return {"protocols": list(runs), "sets": sets, "means": means}


def as_markdown(content: Mapping[str, Any]) -> str:
    """The table in Markdown: a row a set, a column a protocol; means where all sets of a group are there."""
    protocols, sets, means = content["protocols"], content["sets"], content["means"]
    lines = [
        f"AP in percent on the {content['split']} photos, mean ± standard deviation over the draws. raw = zero-shot.",
        "",
        "| |" + "".join(f" {protocol} |" for protocol in protocols),
        "|---|" + "---|" * len(protocols),
    ]
    for name, cells in sets.items():
        lines.append(f"| {name} |" + "".join(f" {_text(cells.get(protocol))} |" for protocol in protocols))
    for group, members in (("odinw13", ODINW13), ("odinw35", ODINW35)):
        lacking = len(set(members) - set(sets))
        cells = [
            {key: means[f"{p}/{group}/{key}"] for key in ("AP", "AP_std") if f"{p}/{group}/{key}" in means}
            for p in protocols
        ]
        row = "".join(f" **{_text(cell)}** |" if cell else f" {lacking} sets lack |" for cell in cells)
        lines.append(f"| mean of {len(members)} |{row}")
    return "\n".join(lines) + "\n"


def _text(cell: Mapping[str, Any] | None) -> str:
    if not cell:
        return ""
    return f"{cell['AP']:.1f}" + (f" ± {cell['AP_std']:.1f}" if "AP_std" in cell else "")


def _measured(
    job: Job,
    flags: OdinwFlags,
    home: Path,
    prompts: Prompts | None,
    detecting: Detecting,
    device: torch.device,
    out: Path,
) -> DetectionResult | None:
    """A detector, adapted if the job says so, on the photos to measure on; None if a signal stopped it."""
    part = open_part(job.name, split_file(job.name, home, flags.split), prompts)

    def measure(model: Grounder) -> DetectionResult:
        return evaluate_detection(
            model,
            part.dataset,
            GroundCollator(detecting.tokenizer),
            detecting.look,
            classes=part.wordings,
            per_prompt=CLASSES_A_PROMPT,
            batch=flags.batch,
            protocol=job.protocol,
            workers=flags.workers,
            device=device,
        )

    return measure(detecting.model) if job.shots == "0" else _tuned(job, flags, home, prompts, detecting, out, measure)


def _tuned(
    job: Job,
    flags: OdinwFlags,
    home: Path,
    prompts: Prompts | None,
    detecting: Detecting,
    out: Path,
    measure: Callable[[Grounder], DetectionResult],
) -> DetectionResult | None:
    """Adapts the detector, or goes on with it, and measures it at its best; its run is deleted then."""
    photos = train_photos(job.name, home, job.shots, job.seed, prompts)
    valid = open_part(job.name, split_file(job.name, home, "valid"), prompts)
    tuning = Tuning(flags.mode, flags.epochs, flags.batch, flags.lr, flags.precision, flags.workers, flags.device)
    few = job.shots != "full"
    recipe = odinw_tuning(detecting.model, photos, valid, detecting.tokenizer, detecting.look, tuning, few)
    folder = job.folder(out)
    run = folder / "run"
    if not (run / WEIGHTS).is_file() and not train(recipe, run, resume=bool(checkpoints(run))).finished:
        return None
    model, _ = load_student(recipe, run, next(detecting.model.parameters()).device)
    assert isinstance(model, Grounder)
    measured = measure(model)
    if comm.main_process():
        if flags.mode == "prompt":
            save_prompt(model, folder / "prompt.safetensors")
        if flags.keep:
            save_model(model, folder / "model")
        shutil.copy(run / "validation.json", folder / "validation.json")
        shutil.rmtree(run)
    comm.barrier()
    return measured


def _result(job: Job, measured: DetectionResult, made_with: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **asdict(job),
        "protocol": job.protocol,
        "AP": measured.metrics[f"{job.protocol}/coco/AP"],
        "metrics": measured.metrics,
        "images": measured.images,
        "classes": measured.classes,
        "made_with": made_with,
    }


def _made_with(job: Job, flags: OdinwFlags, prompts: Prompts | None, model: str) -> dict[str, Any]:
    """What must be the same for a result to count."""
    made: dict[str, Any] = {"model": model, "split": flags.split, "prompts": (prompts or {}).get(job.name)}
    if job.shots != "0":
        made |= {"epochs": flags.epochs, "batch": flags.batch, "lr": flags.lr, "precision": flags.precision}
    return made


def _with_boxes(dataset: CocoInstances) -> list[int]:
    return [index for index in range(len(dataset)) if dataset.shown(index)]


def _say(line: str) -> None:
    if comm.main_process():
        print(line, flush=True)


def _write(path: Path, content: Any) -> None:
    """Writes JSON that appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
