"""The recipes of the built-in scenes, cut down and without chance, for tests of several processes."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from tests.distributed.fixed import Neighbour, without_dropout
from wordregion.data.collate import Collator
from wordregion.nn import pyramid
from wordregion.objectives import Contrast, Match, ReplacedWords
from wordregion.recipes.caption import caption_scenes
from wordregion.recipes.glip_scenes import glip_scenes
from wordregion.recipes.nlvr import nlvr_scenes
from wordregion.recipes.recipe import Recipe
from wordregion.recipes.vl_match import vl_match_regions_scenes
from wordregion.recipes.vqa import vqa_scenes
from wordregion.tasks.align import Align
from wordregion.tasks.answer import Answer
from wordregion.tasks.classify import Classify

RECIPES = {
    "two_images": nlvr_scenes,
    "answers": vqa_scenes,
    "captions": caption_scenes,
    "regions_and_replaced_words": vl_match_regions_scenes,
    "detection": glip_scenes,
}
TEXTS = 3
"""Texts of each image, its caption among them; every scene has so many, as processes need equal numbers."""


def best(weights_QC: Tensor) -> Tensor:
    """The likeliest word instead of a drawn one."""
    return weights_QC.argmax(1)


def other_recipe(kind: str, batch: int = 4, **run: Any) -> Recipe:
    """Three steps of one of `RECIPES`, the same on any number of processes.

    Args:
        kind: name in `RECIPES`.
        batch: samples a step.
        run: fields of `Run`.
    """
    recipe = RECIPES[kind]()
    task, data = recipe.task, recipe.data
    if isinstance(task, Align):
        block = batch // 2 * TEXTS
        apart = {"region_weight": 0.5}
        fixed = {Contrast: apart, Match: {"draw": Neighbour(block), **apart}, ReplacedWords: {"draw": best}}
        objectives = tuple(replace(objective, **fixed.get(type(objective), {})) for objective in task.objectives)  # type: ignore[type-var]
        task = replace(task, objectives=objectives, distill=0.4, ramp_steps=2, momentum=0.9)
        data = replace(data, collator=partial(_with_regions, data.collator))
    if isinstance(task, Answer | Classify):
        task = replace(task, distill=0.4, ramp_steps=2, momentum=0.9)
    if kind == "detection":
        pyramid.DROP_BLOCK = 0.0  # squares of the maps are dropped by chance; this process trains nothing else
    return replace(
        recipe,
        model=partial(without_dropout, recipe.model),
        task=task,
        data=data,
        optim=replace(recipe.optim, lr=5e-4, warmup=1),
        run=replace(recipe.run, steps=3, batch=batch, workers=0, log_every=1, save_every=100, **run),
    )


def _with_regions(collator: Any) -> Collator:
    return replace(collator(), regions=TEXTS)
