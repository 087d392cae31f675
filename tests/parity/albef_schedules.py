"""``lr_schedule.json``: the learning rates of ALBEF's programs, computed by the published recipes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.parity.golden import Golden, Verdict
from wordregion.recipes.albef import albef_4m
from wordregion.recipes.entailment import entail_snli_ve
from wordregion.recipes.nlvr import nlvr2, nlvr2_pretrain
from wordregion.recipes.recipe import Recipe
from wordregion.recipes.refer import refer_refcoco_plus
from wordregion.recipes.retrieval import retrieval_coco, retrieval_flickr
from wordregion.recipes.vqa import vqa_v2

FILE = "lr_schedule.json"
NONE = Path("none")
"""Stands for a checkpoint and data, which no recipe opens before it trains."""
RECIPES = {
    "Pretrain": lambda: albef_4m(data=(str(NONE),)),
    "NLVR_pretrain": lambda: nlvr2_pretrain(checkpoint=NONE, data=(str(NONE),)),
    "Retrieval_flickr": lambda: retrieval_flickr(checkpoint=NONE),
    "Retrieval_coco": lambda: retrieval_coco(checkpoint=NONE),
    "VQA": lambda: vqa_v2(checkpoint=NONE),
    "VE": lambda: entail_snli_ve(checkpoint=NONE),
    "NLVR": lambda: nlvr2(checkpoint=NONE),
    "Grounding": lambda: refer_refcoco_plus(checkpoint=NONE),
}


def rate(recipe: Recipe, t: int) -> float:
    """The rate after the original's ``scheduler.step(t)``, which counts the stairs of the warm-up, then epochs."""
    stair, epoch = recipe.optim.stairs
    stairs = recipe.optim.warmup // stair
    # it is called after the step whose number is a multiple of a stair: the next step is the first with that rate
    step = (t - stairs) * epoch if t > stairs else t * stair + (t > 0)
    return recipe.optim.lr * recipe.optim.factor(step, recipe.run.steps)


def verdicts(_: str, golden: Golden) -> Iterator[Verdict]:
    """Largest relative difference for each configuration, and the difference of its number of epochs."""
    for name, told in json.loads((golden.folder / FILE).read_text()).items():
        if name in RECIPES:
            yield from _compare(f"lr_schedule/{name}", RECIPES[name](), told)
        else:
            yield Verdict(f"lr_schedule/{name} (not computed here)", float("inf"), 0.0)


def _compare(name: str, recipe: Recipe, told: dict[str, Any]) -> Iterator[Verdict]:
    wanted = {0: told["lr_right_after_construction"]}, {int(t): lr for t, lr in told["lr_after_step_t"].items()}
    differences = [abs(rate(recipe, t) / lr - 1) for part in wanted for t, lr in part.items()]
    yield Verdict(name, max(differences), 1e-9)
    epochs = recipe.run.steps / recipe.optim.stairs[1]
    yield Verdict(f"{name}/num_epochs", abs(epochs - told["num_epochs_returned"]), 0.0)
