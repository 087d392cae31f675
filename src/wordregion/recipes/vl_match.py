"""VL-Match (ICCV 2023), and its ablation: contrast + {masked | replaced words} x {ITM | FG-ITM}."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from wordregion.data.collate import Collates, Collator
from wordregion.data.datasets.opening import open_source
from wordregion.data.mix import mixed
from wordregion.data.negatives import WithNegatives
from wordregion.data.scene_views import SceneNegatives
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.evaluate.compositional import evaluate_compositional
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_tiny_conv, for_replaced_words
from wordregion.objectives import Contrast, MaskedWords, Match, ReplacedWords
from wordregion.recipes.albef import albef_4m
from wordregion.recipes.flickr_small import flickr_small
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import new_or_trained
from wordregion.recipes.xvlm import xvlm_scenes
from wordregion.schema import Dataset
from wordregion.tasks.align import Align

Words = Literal["mlm", "rtd"]
Matching = Literal["itm", "fg_itm"]
CENTRED = (0.5, 0.5, 0.5)


def vl_match(
    recipe: Recipe, words: Words, match: Matching, negatives: int, detect: float, cache: Path | None = None
) -> Recipe:
    """One of the four pre-trainings out of ALBEF's, or any other that matches and masks words.

    ``rtd`` puts `ReplacedWords` in the place of `MaskedWords`, its generator with that one's weight, and gives
    the model the two heads; every chosen word is masked then, as the generator's guesses replace the 80/10/10 rule.
    ``fg_itm`` adds generated false captions to `Match`. Images, captions, order and chosen words stay the same.

    Args:
        recipe: pre-training with `Match` and `MaskedWords`.
        words: what is learned of words.
        match: what is learned of pairs.
        negatives: generated false captions a text, for ``fg_itm``.
        detect: weight of the detection of replaced words over that of the generator's guesses.
        cache: false captions of the training data, as `wordregion data neggen` writes; None = the data set has its own.
    """
    task, data, model = recipe.task, recipe.data, recipe.model
    if not isinstance(task, Align) or not {Match, MaskedWords} <= {type(o) for o in task.objectives}:
        raise UsageError(f"{recipe.name}: needs Match and MaskedWords to be turned into VL-Match. Add them.")
    objectives = tuple(
        ReplacedWords(weight=detect * o.weight, generator_weight=o.weight)
        if isinstance(o, MaskedWords) and words == "rtd"
        else replace(o, generated=negatives)
        if isinstance(o, Match) and match == "fg_itm"
        else o
        for o in task.objectives
    )
    if match == "fg_itm":
        if cache is not None:
            data = replace(data, train=partial(_with_cache, data.train, cache))
        data = replace(data, collator=partial(_with_negatives, data.collator, negatives))
    if words == "rtd":
        data = replace(data, collator=partial(_masking_all, data.collator))
        model = partial(_with_heads, model)
    return replace(recipe, model=model, task=replace(task, objectives=objectives), data=data)


def vl_match_4m(
    data: tuple[str, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    records: int = 4_000_000,
    text: str = "bert-base-uncased",
    cache: tuple[Path, ...] = (),
    words: Words = "rtd",
    match: Matching = "fg_itm",
    negatives: int = 1,
    detect: float = 10.0,
) -> Recipe:
    """VL-Match on 4 million images: ALBEF-base with replaced words for masked ones, and generated false captions.

    Where the paper is silent, the settings are those of `albef_4m`.

    Args:
        data: caption files of COCO, Visual Genome, CC3M and SBU (whatever `wordregion data check` reads).
        images: folder or tar of their images, if they are not beside the files.
        val: data set to evaluate on.
        records: images in `data`; sets the number of steps.
        text: BERT weights and vocabulary: a hub name or a folder.
        cache: false captions, as `wordregion data neggen` writes: a folder for each of `data`, in their order.
        words: rtd = replaced words, mlm = masked words.
        match: fg_itm = with generated false captions, itm = without.
        negatives: generated false captions a text.
        detect: weight of the detection of replaced words over that of the generator's guesses.
    """
    base = replace(albef_4m(data, images, val, records, text), name="vl_match_4m")
    if match == "fg_itm":
        if len(cache) != len(data):
            raise UsageError(
                f"vl_match_4m: {len(cache)} folders of false captions for {len(data)} data sets. Make one for each "
                "(wordregion data neggen), and name them in their order: --cache A B"
            )
        base = replace(base, data=replace(base.data, train=partial(_mixed, data, images, cache)))
    return vl_match(base, words, match, negatives, detect)


def vl_match_flickr_small(
    start: Path = Path("runs/flickr_frozen"),
    data: Path = Path("data/flickr30k_entities"),
    weights: Path = Path("weights"),
    tokens: Path | None = None,
    cache: Path = Path("negatives/flickr"),
    words: Words = "rtd",
    match: Matching = "fg_itm",
    negatives: int = 1,
    detect: float = 10.0,
) -> Recipe:
    """`flickr_small` with VL-Match's objectives, all from the first step on: a few thousand photos on two cores.

    Args:
        start: see `flickr_small`.
        data: see `flickr_small`.
        weights: see `flickr_small`.
        tokens: see `flickr_small`.
        cache: false captions of the training photos: wordregion data neggen DATA#train --out CACHE
        words: rtd = replaced words, mlm = masked words.
        match: fg_itm = with generated false captions, itm = without.
        negatives: generated false captions a text.
        detect: weight of the detection of replaced words over that of the generator's guesses.
    """
    base = flickr_small(start, data, weights, tokens)
    assert isinstance(base.task, Align)
    learned = (Contrast(same_image_positives=True), Match(hardness=0.5, ramp_steps=300), MaskedWords(weight=0.1))
    task = replace(base.task, objectives=learned, first_alone=0, ramp_steps=300)
    tokenizer = partial(Tokenizer, weights / "bert" / "vocab.txt", max_tokens=20)
    base = replace(
        base,
        name="vl_match_flickr_small",
        task=task,
        data=replace(base.data, collator=lambda: Collator(tokenizer(), Masking(), texts_per_image=2)),
        run=replace(base.run, steps=500, batch=24),
    )
    return vl_match(base, words, match, negatives, detect, cache)


def vl_match_scenes(
    scenes: int = 200_000,
    words: Words = "rtd",
    match: Matching = "fg_itm",
    negatives: int = 2,
    detect: float = 10.0,
    checkpoint: Path | None = None,
) -> Recipe:
    """VL-Match on the built-in scenes on two cores; measured on captions with exchanged words.

    The false captions are the scenes' own: two things have exchanged an attribute, or their places.

    Args:
        scenes: number of different training scenes.
        words: rtd = replaced words, mlm = masked words.
        match: fg_itm = with generated false captions, itm = without.
        negatives: generated false captions a text.
        detect: weight of the detection of replaced words over that of the generator's guesses.
        checkpoint: the folder of a run of albef_demo or xvlm_scenes to start from; None = from nothing.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes", max_tokens=25)
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    own = {"negatives": negatives} if match == "fg_itm" else {}
    base = Recipe(
        name="vl_match_scenes",
        model=partial(
            new_or_trained, partial(albef_tiny_conv, tokenizer.vocab_size, pixels, fusion_layers=2), checkpoint
        ),
        task=Align(
            objectives=(Contrast(same_image_positives=True), Match(hardness=0.3), MaskedWords()),
            first_alone=300 if checkpoint is None else 0,  # matching has nothing to learn from an untrained contrast
            momentum=0.5,  # 0.995 averages over 200 steps, a large part of this run
            queue_size=0,
            distill=0.0,  # a teacher that averages over a short run from nothing has little to say
        ),
        data=Data(
            train=partial(Scenes, "train", scenes, image_size=pixels, **own),
            transform=plain,
            collator=partial(Collator, tokenizer, Masking()),
            evaluate=partial(SceneNegatives, "val", 2000, image_size=pixels),
            eval_transform=plain,
        ),
        optim=AdamW(lr=1e-3, betas=(0.9, 0.98), warmup=100, final=0.01, lr_scale=(("temperature", 0.02),)),
        run=Run(steps=1500, batch=64, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=evaluate_compositional,
    )
    return vl_match(base, words, match, negatives, detect)


def vl_match_regions_scenes(
    scenes: int = 200_000,
    words: Words = "rtd",
    match: Matching = "fg_itm",
    negatives: int = 2,
    detect: float = 10.0,
    distill: float = 0.2,
) -> Recipe:
    """What no paper has together: X-VLM's regions and boxes, replaced words, generated negatives, a teacher's opinion.

    `xvlm_scenes` with VL-Match's objectives and ALBEF's momentum distillation; measured as `vl_match_scenes` is.

    Args:
        scenes: number of different training scenes.
        words: rtd = replaced words, mlm = masked words.
        match: fg_itm = with generated false captions, itm = without. Texts of regions have none.
        negatives: generated false captions a text.
        detect: weight of the detection of replaced words over that of the generator's guesses.
        distill: final weight of the teacher's opinion, 0 to 1.
    """
    base = xvlm_scenes(scenes)
    assert isinstance(base.task, Align)
    own = {"negatives": negatives} if match == "fg_itm" else {}
    data = replace(
        base.data,
        train=partial(base.data.train, **own),
        evaluate=partial(SceneNegatives, "val", 2000, image_size=64),
    )
    task = replace(base.task, momentum=0.5, distill=distill, ramp_steps=300)
    base = replace(base, name="vl_match_regions_scenes", task=task, data=data, evaluation=evaluate_compositional)
    return vl_match(base, words, match, negatives, detect)


def _mixed(data: tuple[str, ...], images: Path | None, cache: tuple[Path, ...]) -> Dataset:
    parts = [WithNegatives(open_source(spec, images), folder) for spec, folder in zip(data, cache, strict=True)]
    return mixed(parts)


def _with_cache(train: Callable[[], Dataset], cache: Path) -> WithNegatives:
    return WithNegatives(train(), cache)


def _with_negatives(collator: Callable[[], Collates], count: int) -> Collator:
    return replace(_plain(collator), negatives=count)


def _masking_all(collator: Callable[[], Collates]) -> Collator:
    plain = _plain(collator)
    assert plain.masking is not None
    return replace(plain, masking=replace(plain.masking, mask=1.0, random=0.0))


def _plain(collator: Callable[[], Collates]) -> Collator:
    made = collator()
    if not isinstance(made, Collator) or made.masking is None:
        raise UsageError("VL-Match needs a Collator with a Masking. Give the recipe one.")
    return made


def _with_heads(build: Callable[[], nn.Module]) -> FusionModel:
    model = build()
    assert isinstance(model, FusionModel)
    return for_replaced_words(model)
