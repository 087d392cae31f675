"""The command line: demo, train, eval, predict, convert, data, bench.

Every command is a typed function or dataclass that tyro turns into flags. What a user can mend is raised as a
`WordregionError` and leaves as one line on stderr with exit status 2.
"""

import contextlib
import copy
import dataclasses
import difflib
import errno
import functools
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.conf import Positional, arg

from wordregion import __version__
from wordregion.drafts import draft_of
from wordregion.engine.malloc import keep_freed_memory
from wordregion.errors import UsageError, WordregionError

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from wordregion.recipes.recipe import Recipe
    from wordregion.schema import Dataset

HELP = f"""wordregion {__version__}: vision-language pre-training at the level of words and regions

usage: wordregion COMMAND ...

  demo               train a small ALBEF on built-in scenes, write a report (about 5 minutes on 2 cores)
  train RECIPE       train a recipe: a built-in name, or my_file.py:my_function
  eval RUN           measure a trained run on its task
  eval compositional RUN  does it tell a caption from one that says almost the same?
  eval odinw RUN     a detector on the sets of Object Detection in the Wild, as it is and adapted
  predict heatmap    draw where a trained run looks for each word of a text
  predict caption    describe a picture
  predict locate     draw the box of what a text describes
  predict detect     boxes of classes in a picture or a folder of pictures
  predict ground     boxes of each phrase of a caption
  convert IN OUT     a released checkpoint to a model folder of ours, or back
  ablate RECIPE...   several recipes at equal steps, several seeds, one table
  data check SOURCE  read a data set, count what is in it, list what is broken
  data neggen SOURCE make false captions for training with FG-ITM
  data pseudo-label SOURCE  a teacher's boxes for the phrases of captions: self-training
  bench [NAME]       the benchmarks of a checkout

Every command explains itself:  wordregion train --help

examples:
  wordregion demo
  wordregion data check captions.jsonl --images photos/ --picture check.png
  wordregion train albef_demo --steps 200 --out runs/first
  wordregion train my_recipes.py:small --data captions.jsonl --lr 3e-4
  wordregion train albef_demo --out runs/first --resume
  wordregion eval runs/first --k 64
"""

TRAIN_HELP = """usage: wordregion train RECIPE [flags]

RECIPE is a built-in name or FILE.py:FUNCTION, where the function returns a Recipe:
{recipes}

`wordregion train RECIPE --help` lists the flags of that recipe. Without a flag, the recipe's own value counts.
On several processes: torchrun --nproc-per-node 8 -m wordregion.cli train RECIPE --parallel ddp

examples:
  wordregion train albef_demo --steps 200 --out runs/first
  wordregion train albef_demo --out runs/first --resume
  wordregion train my_recipes.py:small --data captions.jsonl --lr 3e-4 --precision bf16
"""

DATA_HELP = """usage: wordregion data ACTION SOURCE [flags]

  check SOURCE    read a data set, count what is in it, list what is broken
  neggen SOURCE   make false captions of a data set's captions, for training with FG-ITM
  pseudo-label SOURCE  put a teacher's boxes on the noun phrases of a data set's captions, for self-training

Every action explains itself:  wordregion data check --help
"""

BOX = re.compile(r"[╭╮╰╯│┃]|\x1b\[[0-9;]*m")
RULE = re.compile(r"^\s*[─━]{3,}\s*$")


@dataclass(frozen=True)
class RunFlags:
    """Flags of every recipe; one that is left out keeps the recipe's value."""

    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """folder of the run: checkpoints, logs, weights (default: runs/NAME)"""
    resume: bool = False
    """go on from the last checkpoint in --out"""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """optimiser steps"""
    batch: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """images a step, over all processes and micro-batches"""
    accumulate: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """micro-batches a step"""
    lr: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """peak learning rate"""
    seed: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """of weights, order, augmentation and masking"""
    precision: Annotated[Literal["fp32", "bf16"] | None, arg(metavar="fp32|bf16", help_behavior_hint="")] = None
    """of the forward pass; weights stay fp32"""
    parallel: Annotated[Literal["none", "ddp", "fsdp"] | None, arg(metavar="none|ddp|fsdp", help_behavior_hint="")] = (
        None
    )
    """how processes started by torchrun share the work"""
    compile: Annotated[bool | None, arg(metavar="True|False", help_behavior_hint="")] = None
    """torch.compile of each transformer block"""
    checkpoint_activations: Annotated[bool | None, arg(metavar="True|False", help_behavior_hint="")] = None
    """recompute activations in backward: less memory, more time"""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """loader processes"""
    clip: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """largest gradient norm"""
    save_every: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """steps between checkpoints"""
    log_every: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """steps between log lines"""
    max_bad_share: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """share of broken records at which training stops, 0 to 1"""
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""


@dataclass(frozen=True)
class EvalFlags:
    """Measures a trained run on its own task: retrieval, entailment, questions ..., as its recipe says.

    Rebuilds the recipe from RUN/recipe.json and loads RUN/model.safetensors, or else the last checkpoint. Prints a
    table and writes the metrics as JSON.
    """

    run: Positional[Path]
    """folder of a run (what `wordregion train --out` wrote)"""
    data: str | None = None
    """data set to evaluate on, as in `wordregion data check` (default: the recipe's own)"""
    images: Path | None = None
    """folder or tar of the images of --data, if they are not beside it"""
    k: int | None = None
    """candidates that the fusion encoder re-ranks, for a query of retrieval or a question (default: the recipe's)"""
    protocol: str = "raw"
    """first part of every metric's name: raw, or what the model was fine-tuned on"""
    batch: int = 32
    """images encoded at a time"""
    workers: int = 0
    """loader processes"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""
    out: Path | None = None
    """JSON file to write (default: RUN/eval.json)"""


@dataclass(frozen=True)
class CompositionalFlags:
    """Asks a trained model whether each picture fits its caption better than a false one that says almost the same.

    The contrast and the match head are judged apart, and beside them what the texts alone give away.

    Examples: `wordregion eval compositional runs/mine`,
    `wordregion eval compositional runs/mine --data sugar_crepe/ --images val2017/ --lm bert-base-uncased`,
    `wordregion eval compositional runs/mine --data flickr30k#val --negatives negatives/val`
    """

    run: Positional[Path]
    """folder of a run, or of a model that `wordregion convert` wrote"""
    data: str = "scenes"
    """scenes, or a file or folder of SugarCrepe, Winoground, ARO, VALSE or VL-CheckList; with --negatives, any source
    of captions, as in `wordregion data check`"""
    negatives: Path | None = None
    """folder of false captions of --data, as `wordregion data neggen` wrote them"""
    images: Path | None = None
    """folder or tar of the pictures, if they are not beside --data"""
    available: bool = False
    """leave out the cases whose pictures are not there"""
    lm: str | None = None
    """masked language model for the text-only baseline 'likelier': a hub name or a folder"""
    vocab: str = "bert-base-uncased"
    """vocabulary of a converted model, which has no recipe to name it"""
    protocol: str = "raw"
    """first part of every metric's name: raw, or finetuned_on_X"""
    batch: int = 32
    """pictures at a time"""
    workers: int = 0
    """loader processes"""
    device: str | None = None
    """cpu, cuda, cuda:1 ... (default: a GPU where there is one)"""
    out: Path | None = None
    """JSON file to write (default: RUN/compositional.json)"""


@dataclass(frozen=True)
class CheckFlags:
    """Reads a data set, prints counts and one line for each problem. Exit status 1 if there are problems.

    SOURCE is scenes, a .jsonl (captions, regions), .json (ALBEF captions, COCO captions or instances), .parquet or .tar
    file or pattern, or a folder of Flickr30k Entities, Visual Genome, OpenImages or of a saved Hugging Face data set;
    SOURCE#SPLIT picks a split.

    Examples: `wordregion data check scenes#val --limit 100 --picture scenes.png`,
    `wordregion data check captions.jsonl --images photos/`
    """

    source: Positional[str]
    """what to check"""
    images: Path | None = None
    """folder or tar of the images, if they are not beside the source"""
    limit: int | None = None
    """check that many records, spread evenly (default: all)"""
    picture: Path | None = None
    """PNG of some samples with their captions and boxes"""


@dataclass(frozen=True)
class ConvertFlags:
    """Turns a released checkpoint into a model folder of ours (model.safetensors, model.json), or such a folder back.

    A pre-training checkpoint becomes any of the models: position embeddings are resized, new heads start fresh. Prints
    what was loaded, resized, left new and ignored.

    Examples: `wordregion convert ALBEF.pth --as albef/retrieval models/retrieval`,
    `wordregion convert runs/retrieval --to-official retrieval.pth`
    """

    source: Positional[Path]
    """the checkpoint file; with --to-official: the folder of a model or run"""
    out: Positional[Path]
    """folder to write; with --to-official: the checkpoint file"""
    layout: Annotated[str | None, arg(name="as", metavar="KIND", help_behavior_hint="")] = None
    """albef/pretrain, albef/retrieval, xvlm/pretrain_swin, xvlm/bbox ...: all of them stand in docs/checkpoints.md"""
    to_official: bool = False
    """write the released layout, which the model's parts decide"""
    momentum: bool = False
    """take the checkpoint's momentum copy, the teacher"""
    image_size: int | None = None
    """pixels of the model (default: 384, pre-trainings 256)"""


@dataclass(frozen=True)
class BenchFlags:
    """Runs the programs of benchmarks/ in the current folder. Without a NAME, lists them."""

    name: Positional[str | None] = None
    """which one: benchmarks/NAME.py"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        exit status: 0 done, 1 problems found in the data, 2 wrong use, broken input or a file that the system refuses,
        130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):  # what a terminal can't show is shown as \\u..., not a reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(args)
        sys.stdout.flush()
        return status
    except WordregionError as error:
        print("wordregion:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wordregion: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `wordregion ... | head`
        sys.stderr.close()
        return 141
    except OSError as error:
        print("wordregion:", " ".join(_refused(error).split()), file=sys.stderr)
        _leave_stdout()
        return 2


def _refused(error: OSError) -> str:
    """What the operating system, or a server, would not do, in a line."""
    if error.strerror is None:
        return f"{type(error).__name__}: {str(error)[:300]}. Mend that, then try again."
    where = error.filename2 or error.filename
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Free space on its disk." if full else "Mend that, or give another path."
    return f"{'the output' if where is None else os.fsdecode(where)}: {error.strerror}. {remedy}"


def _leave_stdout() -> None:
    """Writes to nowhere what stdout still holds, where it takes no more; Python would fail on it again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if args[0] in ("-V", "--version"):
        print(__version__)
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "demo": _demo, "train": _train, "eval": _eval, "predict": _predict, "convert": _convert,
        "ablate": _ablate, "data": _data, "bench": _bench,
    }  # fmt: skip
    if args[0] not in commands:
        raise UsageError(_unknown("command", args[0], commands))
    keep_freed_memory()
    return commands[args[0]](args[1:])


def _demo(args: list[str]) -> int:
    from wordregion.demo import DemoFlags, run_demo

    flags = _parse(DemoFlags, "wordregion demo", args)
    if flags is None:
        return 0
    _device(flags.device)
    _folder(flags.out)
    return run_demo(flags)


def _train(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(TRAIN_HELP.format(recipes=_list_recipes()), end="")
        return 0
    if args[0].startswith("-"):
        raise UsageError(f"train: '{args[0]}' stands where the recipe belongs. Use: wordregion train RECIPE [flags]")
    made = _recipe_with_flags(args[0], args[1:])
    if made is None:
        return 0
    recipe, flags = made
    _device(recipe.run.device)
    out = flags.out or Path("runs") / recipe.name
    _folder(out)

    from wordregion.engine.trainer import train

    result = train(recipe, out, resume=flags.resume)
    return 0 if result.signal is None else 128 + result.signal


def _recipe_with_flags(spec: str, args: list[str]) -> tuple["Recipe", Any] | None:
    """A recipe called and overridden by flags, and the flags; None if help was asked for and printed."""
    function = find_recipe(spec)
    own = _own_parameters(function, spec)
    described = _summary(function) + "\n\nFlags that are left out keep the recipe's value."
    flags_type = dataclasses.make_dataclass("TrainFlags", own, bases=(RunFlags,), frozen=True, kw_only=True)
    flags = _parse(flags_type, f"wordregion train {spec}", args, described)
    if flags is None:
        return None
    given = {name: getattr(flags, name) for name, _, _ in own}
    recipe = override(call_recipe(function, spec, given), flags)
    return dataclasses.replace(recipe, source=_lasting(spec), arguments=given), flags


def _eval_compositional(args: list[str]) -> int:
    flags = _parse(CompositionalFlags, "wordregion eval compositional", args)
    if flags is None:
        return 0
    if flags.batch < 1 or flags.workers < 0:
        raise UsageError(
            f"eval compositional: batch={flags.batch}, workers={flags.workers}: batch >= 1 and workers >= 0 must hold."
        )
    out = flags.out or flags.run / "compositional.json"
    _file(out)
    from wordregion.data.datasets.compositional import Contests, open_contests
    from wordregion.data.datasets.opening import open_source
    from wordregion.data.masked_lm import open_lm
    from wordregion.data.negatives import GeneratedContests
    from wordregion.data.sentences import SentenceCollator
    from wordregion.distributed import comm
    from wordregion.evaluate.compositional import evaluate_compositional

    comm.init_from_env()
    device = _device(flags.device)
    model, tokenizer, transform = _trained(flags.run, flags.vocab, device)
    dataset: Dataset
    if flags.negatives is None:
        dataset = open_contests(flags.data, flags.images, flags.available, model.image_size)
    else:
        dataset = GeneratedContests(open_source(flags.data, flags.images), flags.negatives)
    found = evaluate_compositional(
        model,
        dataset,
        SentenceCollator(tokenizer),
        transform,
        batch=flags.batch,
        protocol=flags.protocol,
        workers=flags.workers,
        device=device,
        lm=None if flags.lm is None else open_lm(flags.lm, device),
    )
    left_out = dataset.left_out if isinstance(dataset, Contests) else 0
    if not comm.main_process():
        return 0
    print(f"{flags.run} on {found.items}" + (f" ({left_out:,} left out: no picture)" if left_out else ""))
    print_metrics(found.metrics)
    content = {"run": str(flags.run), "data": flags.data, "items": found.items, "left_out": left_out}
    if flags.negatives is not None:
        content["negatives"] = str(flags.negatives)
    write_json(out, content | {"metrics": found.metrics})
    print(f"written: {out}")
    return 0


def _eval_odinw(args: list[str]) -> int:
    from wordregion.odinw import Detecting, OdinwFlags, as_markdown, check_odinw, run_odinw

    flags = _parse(OdinwFlags, "wordregion eval odinw", args)
    if flags is None:
        return 0
    from wordregion.data.ground_transforms import GroundEvalTransform
    from wordregion.distributed import comm

    comm.init_from_env()
    out = flags.out or flags.run / "odinw"
    homes, prompts = check_odinw(flags)
    _folder(out)
    device = _device(flags.device)
    detector, tokenizer, look = _detector(flags.run, flags.vocab, device)
    if not isinstance(look, GroundEvalTransform):
        raise UsageError(f"{flags.run}: its recipe looks through a {type(look).__name__}. Use a GroundEvalTransform.")
    content = run_odinw(flags, homes, prompts, Detecting(detector.model, tokenizer, look), device)
    if content is None:
        return 130
    if comm.main_process():
        print(f"{as_markdown(content)}written: {out / 'odinw.md'}, odinw.json")
    return 0


def _eval(args: list[str]) -> int:
    if args[:1] == ["compositional"]:
        return _eval_compositional(args[1:])
    if args[:1] == ["odinw"]:
        return _eval_odinw(args[1:])
    flags = _parse(EvalFlags, "wordregion eval", args)
    if flags is None:
        return 0
    if (flags.k or 0) < 0 or flags.batch < 1 or flags.workers < 0:
        raise UsageError(
            f"eval: k={flags.k}, batch={flags.batch}, workers={flags.workers}: k >= 0, batch >= 1 and "
            "workers >= 0 must hold."
        )
    from wordregion.distributed import comm
    from wordregion.runs import load_student, read_record

    comm.init_from_env()
    record = read_record(flags.run)
    out = flags.out or flags.run / "eval.json"
    _file(out)
    spec = record["source"]
    recipe = call_recipe(find_recipe(spec), spec, _typed(find_recipe(spec), spec, record["arguments"]))
    opened = recipe.data.evaluate
    if flags.data is None and opened is None:
        raise UsageError(f"eval: recipe {spec} names no evaluation data. Give it with --data SOURCE.")
    transform = recipe.data.eval_transform
    if transform is None:
        raise UsageError(f"eval: recipe {spec} has no eval_transform. Give its Data one.")
    device = _device(flags.device)
    if flags.data is not None or opened is None:
        from wordregion.data.datasets.opening import open_source

        dataset = open_source(str(flags.data), flags.images)
    else:
        dataset = opened()
    model, weights = load_student(recipe, flags.run, device)
    more = {} if flags.k is None else {"k": flags.k}
    if more and "k" not in inspect.signature(recipe.evaluation).parameters:
        raise UsageError(f"eval: the evaluation of recipe {spec} re-ranks nothing. Leave out --k.")
    found = recipe.evaluation(
        model,
        dataset,
        recipe.data.collator(),
        transform,
        batch=flags.batch,
        protocol=flags.protocol,
        workers=flags.workers,
        device=device,
        **more,
    )
    if not comm.main_process():
        return 0
    print(f"{recipe.name} ({weights}) on {found.items}")
    print_metrics(found.metrics)
    write_json(
        out,
        {
            "run": str(flags.run),
            "weights": weights,
            "data": flags.data or dataset.name,
            "items": found.items,
            "metrics": found.metrics,
        },
    )
    print(f"written: {out}")
    return 0


def _ablate(args: list[str]) -> int:
    from wordregion.ablate import AblateFlags, as_markdown, run_ablation

    flags = _parse(AblateFlags, "wordregion ablate", args)
    if flags is None:
        return 0
    recipes = []
    for spec in flags.recipes:
        try:
            name, *own = shlex.split(spec)
        except ValueError as error:
            problem = f"unreadable ({error})" if spec.strip() else "empty"
            raise UsageError(
                f"ablate: the recipe '{spec}' is {problem}. Write it as: \"NAME --flag value\"."
            ) from error
        made = _recipe_with_flags(name, own)
        if made is None:
            return 0
        recipes.append(made[0])
    _folder(flags.out)
    table = run_ablation(flags, recipes)
    print(as_markdown(table, "mean ± standard deviation over the seeds"))
    print(f"written: {flags.out / 'ablation.md'}, ablation.html, ablation.json")
    return 0


def _predict(args: list[str]) -> int:
    actions = {
        "heatmap": _predict_heatmap, "caption": _predict_caption, "detect": _predict_detect, "ground": _predict_ground,
        "locate": _predict_locate,
    }  # fmt: skip
    if not args or args[0] in ("-h", "--help"):
        listed = "\n".join(f"  wordregion predict {name} --help" for name in actions)
        print(f"usage: wordregion predict ACTION IMAGE ...\n\nEvery action explains itself:\n{listed}")
        return 0
    if args[0] not in actions:
        raise UsageError(_unknown("action", args[0], actions) + " Use: wordregion predict ACTION IMAGE")
    return actions[args[0]](args[1:])


def _predict_caption(args: list[str]) -> int:
    from wordregion.predict import CaptionFlags, check_caption, describe

    flags = _parse(CaptionFlags, "wordregion predict caption", args)
    if flags is None:
        return 0
    picture = check_caption(flags)
    print(describe(*_trained(flags.run, flags.vocab, _device(flags.device)), picture, flags))
    return 0


def _predict_locate(args: list[str]) -> int:
    from wordregion.predict_locate import LocateFlags, check_locate, draw_place, locate

    flags = _parse(LocateFlags, "wordregion predict locate", args)
    if flags is None:
        return 0
    picture = check_locate(flags)
    model, tokenizer, transform = _trained(flags.run, flags.vocab, _device(flags.device))
    if not hasattr(model, "encode_views"):
        raise UsageError(f"{flags.run}: a {type(model).__name__} locates no text. Give a run or model of X-VLM's kind.")
    place = locate(model, tokenizer, transform, picture, flags.text)
    draw_place(picture, place, flags.text).save(flags.out)
    print(f"{place.caption(flags.text)}  {' '.join(f'{v:.3f}' for v in place.box)}")
    print(f"written: {flags.out}")
    return 0


def _predict_heatmap(args: list[str]) -> int:
    from wordregion.predict import HeatmapFlags, check_heatmap, draw_heatmap, word_maps

    flags = _parse(HeatmapFlags, "wordregion predict heatmap", args)
    if flags is None:
        return 0
    picture = check_heatmap(flags)
    device = _device(flags.device)
    model, tokenizer, transform = _trained(flags.run, flags.vocab, device)
    maps = word_maps(
        model, tokenizer, transform, picture, flags.text, mode=flags.mode, layer=flags.layer, phrase=flags.phrase
    )
    draw_heatmap(picture, maps).save(flags.out)
    print(f"written: {flags.out}")
    return 0


def _predict_detect(args: list[str]) -> int:
    from wordregion.predict_boxes import DetectFlags, check_flags, class_prompts, parse_classes, run_boxes

    flags = _parse(DetectFlags, "wordregion predict detect", args)
    if flags is None:
        return 0
    names = check_flags(flags)
    parse_classes(flags.classes)
    device = _device(flags.device)
    detector, tokenizer, transform = _detector(flags.run, flags.vocab, device)
    phrases, prompts = class_prompts(flags, tokenizer)
    return _told_boxes(flags, *run_boxes(flags, names, detector, tokenizer, transform, phrases, prompts, device))


def _predict_ground(args: list[str]) -> int:
    from wordregion.data.tagging import SpacyTagger
    from wordregion.predict_boxes import GroundFlags, caption_prompts, check_flags, run_boxes

    flags = _parse(GroundFlags, "wordregion predict ground", args)
    if flags is None:
        return 0
    names = check_flags(flags)
    tagger, device = SpacyTagger(flags.tagger), _device(flags.device)
    detector, tokenizer, transform = _detector(flags.run, flags.vocab, device)
    phrases, prompts = caption_prompts(flags.caption, tagger, tokenizer)
    return _told_boxes(flags, *run_boxes(flags, names, detector, tokenizer, transform, phrases, prompts, device))


def _told_boxes(flags: Any, answers: list[Any], broken: list[str]) -> int:
    """Prints what was found, and what could not be read; exit status 1 if there is such."""
    for answer in answers if len(answers) == 1 else ():
        for row in answer.rows():
            print(f"{row['score']:.2f}  {row['phrase']}  {' '.join(f'{v:g}' for v in row['box'])}")
    print(f"{sum(len(answer.found) for answer in answers):,} boxes in {len(answers):,} pictures")
    for line in broken:
        print(f"passed over: {line}", file=sys.stderr)
    for path in (flags.out, flags.json, flags.coco):
        if path is not None:
            print(f"written: {path}")
    return 1 if broken else 0


def _detector(run: Path, vocab: str, device: "torch.device", overlap: float | None = None) -> tuple[Any, Any, Any]:
    """What finds boxes, with tokenizer and transform, of a run or of a folder that holds a model alone.

    Raises:
        UsageError: if its model finds no boxes.
    """
    from wordregion.detector import Detector
    from wordregion.models.detect import Thresholds
    from wordregion.models.grounder import Grounder

    model, tokenizer, transform = _trained(run, vocab, device)
    if not isinstance(model, Grounder):
        raise UsageError(f"{run}: a {type(model).__name__} finds no boxes. Give a run or model of GLIP's kind.")
    keep = Thresholds() if overlap is None else Thresholds(overlap=overlap)
    return Detector(model.eval(), tokenizer, keep), tokenizer, transform


def _trained(run: Path, vocab: str, device: "torch.device") -> tuple[Any, Any, Any]:
    """Model, tokenizer and transform of a run, or of a folder that holds a model alone."""
    from wordregion.data.ground_transforms import GroundEvalTransform
    from wordregion.data.tokens import Tokenizer
    from wordregion.data.transforms import EvalTransform
    from wordregion.models.grounder import Grounder
    from wordregion.models.store import STRUCTURE, load_model
    from wordregion.runs import load_student, read_record

    if not (run / "recipe.json").is_file() and (run / STRUCTURE).is_file():
        model: Any = load_model(run, None).to(device)
        if isinstance(model, Grounder):
            tokenizer = Tokenizer(vocab, max_tokens=256, clean=False)
        else:
            tokenizer = Tokenizer(vocab, sep=False)
        if tokenizer.vocab_size > (known := model.text.body.config.vocab_size):
            raise UsageError(
                f"{run}: knows {known:,} words, the vocabulary {vocab} has {tokenizer.vocab_size:,}. Give its own "
                "with --vocab."
            )
        return (
            model,
            tokenizer,
            GroundEvalTransform() if isinstance(model, Grounder) else EvalTransform(model.image_size),
        )
    spec = (record := read_record(run))["source"]
    recipe = call_recipe(find_recipe(spec), spec, _typed(find_recipe(spec), spec, record["arguments"]))
    if recipe.data.eval_transform is None:
        raise UsageError(f"predict: recipe {spec} has no eval_transform. Give its Data one.")
    return load_student(recipe, run, device)[0], recipe.data.collator().tokenizer, recipe.data.eval_transform


def _data(args: list[str]) -> int:
    actions = {"check": _data_check, "neggen": _data_neggen, "pseudo-label": _data_pseudo_label}
    if not args or args[0] in ("-h", "--help"):
        print(DATA_HELP, end="")
        return 0
    if args[0] not in actions:
        raise UsageError(_unknown("action of data", args[0], actions))
    return actions[args[0]](args[1:])


def _data_neggen(args: list[str]) -> int:
    from wordregion.neggen import MatchJudge, NegGenFlags, caption_lm, run_neggen

    flags = _parse(NegGenFlags, "wordregion data neggen", args)
    if flags is None:
        return 0
    from wordregion.data.datasets.opening import open_source
    from wordregion.data.masked_lm import open_lm
    from wordregion.data.negatives import NegGen
    from wordregion.data.tagging import SpacyTagger
    from wordregion.fingerprint import fingerprint

    settings = NegGen(flags.count, flags.share, flags.top, flags.threshold, flags.seed)
    _folder(flags.out)
    device = _device(flags.device)
    tagger = SpacyTagger(flags.tagger)
    dataset = open_source(flags.source, flags.images)
    judge = name = None
    if flags.filter is not None:
        model, tokenizer, transform = _trained(flags.filter, flags.vocab, device)
        judge, name = MatchJudge(model, tokenizer, transform), fingerprint(model)
    own = flags.lm == "captions"
    lm = caption_lm(dataset, flags.out / "lm", flags.lm_steps, flags.seed, device) if own else open_lm(flags.lm, device)
    summary = run_neggen(dataset, flags.out, settings, tagger, tagger.name, lm, judge, name)
    if summary is not None:
        print(
            f"{summary.captions:,} captions, {summary.kept:,} false ones kept, {summary.dropped:,} dropped "
            f"({100 * summary.share_dropped:.1f} %), {summary.broken:,} broken records\n"
            f"written: {flags.out} (version {summary.version}); read {flags.out / 'report.html'}"
        )
    return 0


def _data_pseudo_label(args: list[str]) -> int:
    from wordregion.pseudo_label import BoxTeacher, PseudoLabelFlags, run_pseudo_label

    flags = _parse(PseudoLabelFlags, "wordregion data pseudo-label", args)
    if flags is None:
        return 0
    if flags.batch < 1 or not 0 < flags.overlap <= 1:
        raise UsageError(f"pseudo-label: batch={flags.batch}, overlap={flags.overlap}: batch >= 1, 0 < overlap <= 1.")
    from wordregion.data.datasets.opening import open_source
    from wordregion.data.pseudo_boxes import PseudoSettings
    from wordregion.data.tagging import SpacyTagger
    from wordregion.fingerprint import fingerprint

    settings = PseudoSettings(flags.least, flags.most, flags.overlap)
    _folder(flags.out)
    device = _device(flags.device)
    tagger = SpacyTagger(flags.tagger)
    dataset = open_source(flags.source, flags.images)
    detector, tokenizer, transform = _detector(flags.teacher, flags.vocab, device, flags.overlap)
    teacher = BoxTeacher(detector, tokenizer, transform, flags.batch, device)
    name = fingerprint(detector.model)
    summary = run_pseudo_label(dataset, flags.out, settings, tagger, tagger.name, tokenizer, teacher, name)
    if summary is not None:
        print(f"{summary.line()}\nwritten: {flags.out} (version {summary.version}); read {flags.out / 'report.html'}")
    return 0


def _data_check(args: list[str]) -> int:
    flags = _parse(CheckFlags, "wordregion data check", args)
    if flags is None:
        return 0
    from wordregion.data.check import check, contact_sheet
    from wordregion.data.datasets.opening import open_source

    dataset = open_source(flags.source, flags.images)
    report = check(dataset, flags.limit)
    print("\n".join(report.lines()))
    if flags.picture is not None:
        contact_sheet(dataset, flags.picture)
        print(f"picture: {flags.picture}")
    return 0 if report.ok else 1


def _convert(args: list[str]) -> int:
    flags = _parse(ConvertFlags, "wordregion convert", args)
    if flags is None:
        return 0
    if flags.to_official == (flags.layout is not None):
        raise UsageError("convert: give either --as KIND (to ours) or --to-official. See: wordregion convert --help")
    patch = 32 if (flags.layout or "").startswith("xvlm/") and flags.layout != "xvlm/pretrain_clip" else 16
    if flags.image_size is not None and (flags.image_size < 1 or flags.image_size % patch):
        raise UsageError(f"convert: image_size={flags.image_size} is no positive multiple of {patch}. Try 384.")
    from wordregion.models.official import layout_of, load_official, official_checkpoint
    from wordregion.models.store import load_model, save_model

    if flags.to_official:
        import torch

        _file(flags.out)
        model = load_model(flags.source, None)
        layout = layout_of(model)
        content = {"model": official_checkpoint(model, layout)}
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft_of(flags.out) as draft:
                torch.save(content, draft)
        except RuntimeError as error:  # of a full disk
            raise UsageError(f"{flags.out}: can't be written ({_told(error)}). Free space on its disk.") from error
        print(f"written: {flags.out} ({layout})")
        return 0
    _folder(flags.out)
    converted, report = load_official(flags.source, flags.layout, flags.image_size, flags.momentum)
    save_model(converted, flags.out)
    print(f"{report}\nwritten: {flags.out}")
    return 0


def _bench(args: list[str]) -> int:
    flags = _parse(BenchFlags, "wordregion bench", args[:1])
    if flags is None:
        return 0
    folder = Path("benchmarks")
    programs = {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if not path.stem.startswith("_") and path.stem != "common"
    }
    if not programs:
        raise UsageError("bench: no folder benchmarks/ here. Run it in a checkout of wordregion.")
    if flags.name is None:
        print("benchmarks (wordregion bench NAME [its flags]):\n" + "\n".join(f"  {name}" for name in programs))
        return 0
    if flags.name not in programs:
        raise UsageError(_unknown("benchmark", flags.name, programs))
    return subprocess.call([sys.executable, str(programs[flags.name]), *args[1:]])


def find_recipe(spec: str) -> Callable[..., "Recipe"]:
    """The recipe function that a user names.

    Args:
        spec: a built-in name, or ``path/file.py:function``.

    Raises:
        UsageError: if there is no such recipe, or its file can't be loaded.
    """
    if ":" in spec or spec.endswith(".py"):
        return _recipe_of_file(spec)
    from wordregion.recipes import BUILTIN

    if spec not in BUILTIN:
        raise UsageError(_unknown("recipe", spec, BUILTIN) + " An own recipe is FILE.py:FUNCTION.")
    return BUILTIN[spec]


def _recipe_of_file(spec: str) -> Callable[..., "Recipe"]:
    file, _, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"recipe {spec}: no such file '{file}'. Give the path of a Python file: FILE.py:FUNCTION.")
    module_spec = importlib.util.spec_from_file_location(f"wordregion_recipe_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"recipe {spec}: '{file}' is no Python file. Name it FILE.py.")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # so that its functions survive pickling by loader processes
    try:
        module_spec.loader.exec_module(module)
    except WordregionError:
        raise
    except SyntaxError as error:
        raise UsageError(f"recipe {spec}: {file}, line {error.lineno}: {error.msg}. Correct the file.") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"recipe {spec}: {file} failed while loading: {_told(error)}. Correct the file.") from error
    functions = {
        n: f
        for n, f in vars(module).items()
        if inspect.isfunction(f) and f.__module__ == module.__name__ and n[0] != "_"
    }
    if not name:
        listed = ", ".join(functions) or "none"
        raise UsageError(f"recipe {spec}: name the function too: {file}:FUNCTION (functions there: {listed}).")
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"recipe {spec}: {_unknown('function', name, functions)}")
    return function


def call_recipe(function: Callable[..., "Recipe"], spec: str, given: dict[str, Any]) -> "Recipe":
    """The recipe that a function returns.

    Raises:
        UsageError: if the function fails or returns something else.
    """
    from wordregion.recipes.recipe import Recipe

    try:
        recipe = function(**given)
    except WordregionError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"recipe {spec}: the function failed: {_told(error)}. Correct the recipe.") from error
    if not isinstance(recipe, Recipe):
        raise UsageError(f"recipe {spec}: the function returned {type(recipe).__name__}, no Recipe. Return a Recipe.")
    return recipe


def override(recipe: "Recipe", flags: Any) -> "Recipe":
    """A copy of a recipe with the run-level flags that were given.

    Raises:
        UsageError: if a value is out of range.
    """
    fields = {field.name for field in dataclasses.fields(recipe.run)}
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(RunFlags)}
    run = {name: value for name, value in given.items() if value is not None and name in fields}
    optim = recipe.optim if flags.lr is None else dataclasses.replace(recipe.optim, lr=flags.lr)
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, **run), optim=optim)


WIDEST = 10_000
"""Characters of a line that goes to a file: names are never cut there."""


def print_metrics(metrics: Mapping[str, float]) -> None:
    """A table in percent: a row for each way of scoring; turned round where that has more than 100 columns."""
    from rich.console import Console

    cells = {(way, measure): f"{metrics[name]:.1f}" for name in metrics for way, _, measure in [name.rpartition("/")]}
    tables = (_table(cells), _table({(measure, way): value for (way, measure), value in cells.items()}))
    console = Console() if sys.stdout.isatty() else Console(width=WIDEST)
    room = console.options.update(max_width=WIDEST)
    widths = [console.measure(table, options=room).maximum for table in tables]
    fits = widths[0] <= min(console.width, 100)
    console.print(tables[0] if fits else tables[widths.index(min(widths))])


def _table(cells: Mapping[tuple[str, str], str]) -> "Table":
    """Of values by row and column."""
    from rich import box
    from rich.table import Column, Table

    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    table = Table("in %", *(Column(column, justify="right") for column in columns), box=box.SIMPLE)
    for row in rows:
        table.add_row(row, *(cells.get((row, column), "") for column in columns))
    return table


def _device(name: str | None) -> "torch.device":
    """The device that a user names, or the best there is.

    Raises:
        UsageError: if it is unknown or not there.
    """
    import torch

    from wordregion.distributed import comm

    if name is None:
        return comm.device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"device '{name}' can't be used ({reason}). Use --device cpu, or leave it out.") from error
    if device.type == "meta":
        raise UsageError("device 'meta' computes nothing. Use --device cpu, or leave it out.")
    return device


def _lasting(spec: str) -> str:
    """The name of a recipe with the full path of its file, valid from every folder."""
    file, colon, name = spec.rpartition(":")
    return f"{Path(file).resolve()}:{name}" if colon else spec


def _typed(function: Callable[..., Any], spec: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded arguments of a recipe, from JSON back to the types of its parameters.

    Raises:
        UsageError: if the recipe has changed and takes them no longer, or one is of another type.
    """
    own = {name: kind for name, kind, _ in _own_parameters(function, spec)}
    if gone := sorted(set(arguments) - set(own)):
        raise UsageError(f"recipe {spec}: takes no '{gone[0]}' any more, which the run was trained with. Restore it.")
    given: dict[str, Any] = {}
    for name, value in arguments.items():
        kinds = str(own[name])
        if not _fits(value, own[name]):
            raise UsageError(
                f"recipe {spec}: the run's recipe.json gives {name}={value!r:.60}, which is of another kind. Restore "
                "it, or train again."
            )
        if isinstance(value, list) and "list" not in kinds:
            value = tuple(value)
        given[name] = Path(value) if isinstance(value, str) and "Path" in kinds else value
    return given


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value can be one of a type; of types that are not plain ones, anything can."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (tuple, list):
        return isinstance(value, list) and all(any(_fits(item, one) for one in inner) for item in value)
    plain: dict[Any, tuple[type, ...]] = {
        int: (int,), float: (int, float), str: (str,), bool: (bool,), Path: (str,), type(None): (type(None),),
    }  # fmt: skip
    return kind not in plain or (isinstance(value, plain[kind]) and (kind is bool or not isinstance(value, bool)))


def _own_parameters(function: Callable[..., Any], spec: str) -> list[tuple[str, Any, Any]]:
    """A recipe function's own parameters as dataclass fields with help from its docstring."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:
        raise UsageError(f"recipe {spec}: its type hints can't be read: {_told(error)}. Correct them.") from error
    told = {p.arg_name: p.description for p in docstring_parser.parse(inspect.getdoc(function) or "").params}
    taken = {field.name for field in dataclasses.fields(RunFlags)}
    own: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UsageError(f"recipe {spec}: parameter '{parameter}' can't be a flag. Use plain keyword parameters.")
        if name in taken:
            raise UsageError(f"recipe {spec}: parameter '{name}' is a flag of every recipe already. Rename it.")
        kind = Annotated[hints.get(name, str), arg(help=told.get(name) or "(parameter of the recipe)")]  # type: ignore[valid-type]
        if parameter.default is parameter.empty:
            default = dataclasses.field()
        elif type(parameter.default).__hash__ is None:  # a list, say, of which each call gets its own
            default = dataclasses.field(default_factory=functools.partial(copy.deepcopy, parameter.default))
        else:
            default = dataclasses.field(default=parameter.default)
        own.append((name, kind, default))
    return own


def _summary(function: Callable[..., Any]) -> str:
    """First paragraphs of a docstring, without its Args."""
    parsed = docstring_parser.parse(inspect.getdoc(function) or "")
    return "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)


def _list_recipes() -> str:
    from wordregion.recipes import BUILTIN

    return "\n".join(f"  {name:14} {_summary(function).splitlines()[0]}" for name, function in BUILTIN.items())


def _parse(kind: type[Any], prog: str, args: list[str], description: str | None = None) -> Any:
    """Flags as an instance of `kind`, or None if help was asked for and printed.

    tyro explains a mistake in a box of several lines; here it becomes one.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=prog, args=args, description=description)
    except SystemExit as stop:
        if not stop.code:
            return None
        lines: list[str] = []
        for line in said.getvalue().splitlines()[1:]:
            text = BOX.sub("", line).strip()
            if RULE.match(text):
                break
            lines.append(text)
        problem = " ".join(line for line in lines if line).rstrip(".:")
        raise UsageError(f"{problem}. See: {prog} --help") from stop


def _unknown(what: str, name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"unknown {what} '{name}'.{guess} There is: {', '.join(known) or 'none'}."


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")


def _folder(path: Path) -> None:
    """Makes sure that a folder can be made there, without making it."""
    if blocked := _in_the_way(path):
        raise UsageError(f"{path}: no folder can be written there ({blocked} is in the way). Give another --out.")


def _file(path: Path) -> None:
    """Makes sure that a file can be written there, without making it."""
    there = path.exists()
    if path.is_dir() or (there and not os.access(path, os.W_OK)):
        raise UsageError(f"{path}: {'is a folder' if path.is_dir() else 'must not be changed'}. Give another path.")
    if not there and (blocked := _in_the_way(path.absolute().parent)):
        raise UsageError(f"{path}: can't be written ({blocked} is in the way). Give another path.")


def _in_the_way(folder: Path) -> Path | None:
    """What is there of a folder's path already, if nothing can be made in it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return None if existing.is_dir() and os.access(existing, os.W_OK) else existing


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON.

    Raises:
        UsageError: if the path can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror}). Give another path.") from error


if __name__ == "__main__":
    sys.exit(main())
