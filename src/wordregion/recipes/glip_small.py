"""GLIP on a few thousand real photos from pretrained encoders, and its student in self-training: for two cores."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from wordregion.data.datasets.opening import open_source
from wordregion.data.ground_collate import GroundCollator
from wordregion.data.ground_transforms import GroundEvalTransform, GroundTransform
from wordregion.data.mix import mixed
from wordregion.data.prompts import DetectionPrompts, PromptSampling
from wordregion.data.pseudo_boxes import WithBoxes
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.evaluate.phrases import evaluate_phrases
from wordregion.models.zoo import glip_mini
from wordregion.recipes.flickr_small import KERAS_MEAN, KERAS_STD
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.schema import Dataset
from wordregion.tasks.ground import Ground

TOKENS = 96


def glip_flickr_small(
    train: tuple[str, ...] = ("data/flickr30k_entities#train",),
    val: str = "data/flickr30k_entities#val",
    weights: Path = Path("weights"),
) -> Recipe:
    """`glip_mini` on the phrases of Flickr30k Entities, and on whatever else with boxes is named: ResNet-50, BERT.

    Grounding and detection sets may be mixed; each comes as often as it has records. The settings are a first choice,
    not the result of a search.

    Args:
        train: sources with boxes, as in `wordregion data check`, for example COCO's instances beside Flickr30k's.
        val: source with phrases to evaluate on.
        weights: holds ``resnet50_keras.safetensors`` and ``bert/``; examples/flickr_small/prepare.py makes it.

    Raises:
        UsageError: if the weights folder lacks a part, or no source is named.
    """
    vision, text = weights / "resnet50_keras.safetensors", weights / "bert"
    for part in (vision, text / "config.json", text / "model.safetensors", text / "vocab.txt"):
        if not part.is_file():
            raise UsageError(f"glip_flickr_small: {part} is missing. Make it with examples/flickr_small/prepare.py.")
    if not train:
        raise UsageError("glip_flickr_small: no source to train on. Name one: --train data/flickr30k_entities#train")
    tokenizer = Tokenizer(text / "vocab.txt", max_tokens=TOKENS, clean=False)
    return Recipe(
        name="glip_flickr_small",
        model=partial(glip_mini, "resnet50", vision, text, subsample_first=True),
        task=Ground(),
        data=Data(
            train=partial(_mixed, train),
            transform=GroundTransform(
                DetectionPrompts(tokenizer, PromptSampling(budget=TOKENS - 2)),
                shorter=(192, 224, 256),
                longest=384,
                mean=KERAS_MEAN,
                std=KERAS_STD,
            ),
            collator=partial(GroundCollator, tokenizer),
            evaluate=partial(open_source, val),
            eval_transform=GroundEvalTransform(224, 384, KERAS_MEAN, KERAS_STD),
        ),
        optim=AdamW(
            lr=4e-4,
            weight_decay=1e-4,
            warmup=50,
            final=0.01,
            lr_scale=(("text.", 0.1),),
            freeze=("vision.",),
        ),
        run=Run(steps=1500, batch=8, precision="bf16", clip=1.0, workers=1, log_every=10, save_every=250),
        evaluation=evaluate_phrases,
    )


def glip_student_small(
    pseudo: Path = Path("pseudo/flickr"),
    gold: tuple[str, ...] = ("data/flickr30k_entities#train[0::2]",),
    captions: str = "data/flickr30k_entities#train[1::2]",
    least: float = 0.5,
    val: str = "data/flickr30k_entities#val",
    weights: Path = Path("weights"),
) -> Recipe:
    """The second half of self-training: `glip_flickr_small` on true boxes and on a teacher's, mixed.

    The first half is `wordregion data pseudo-label CAPTIONS --teacher RUN --out PSEUDO`.

    Args:
        pseudo: what `wordregion data pseudo-label` wrote for `captions`.
        gold: sources with true boxes, those of the teacher.
        captions: source of the captions; its own boxes are not used.
        least: smallest score of a teacher's box.
        val: as for `glip_flickr_small`.
        weights: as for `glip_flickr_small`.
    """
    recipe = glip_flickr_small(gold, val, weights)
    train = partial(_with_pseudo, gold, captions, pseudo, least)
    return replace(recipe, name="glip_student_small", data=replace(recipe.data, train=train))


def _mixed(sources: Sequence[str]) -> Dataset:
    opened = [open_source(source) for source in sources]
    return mixed(opened)


def _with_pseudo(gold: Sequence[str], captions: str, pseudo: Path, least: float) -> Dataset:
    parts = [*(open_source(source) for source in gold), WithBoxes(open_source(captions), pseudo, least)]
    return mixed(parts)
