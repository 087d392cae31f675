"""Referring expressions: without boxes (ALBEF, section 6 and appendix A; X-VLM likewise), and with them (X-VLM's code).

Without: expressions are texts, boxes only test. With: a box is predicted, in a crop drawn around the true one.
"""

from functools import partial
from pathlib import Path

from wordregion.data.collate import Collator
from wordregion.data.datasets.opening import open_source
from wordregion.data.datasets.refer import Referring
from wordregion.data.region_transforms import RegionTransform
from wordregion.data.regions import RegionTexts
from wordregion.data.scene_phrases import ScenePhrases
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import UsageError
from wordregion.evaluate.boxes import evaluate_boxes
from wordregion.evaluate.grounding import evaluate_grounding
from wordregion.models.fusion import FusionModel
from wordregion.models.store import start_from
from wordregion.models.zoo import albef_base, albef_tiny_conv, for_locating, for_retrieval, xvlm_base, xvlm_tiny
from wordregion.objectives import Box, Contrast, Match
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import albef_adamw, epoch_steps, named_start, opened, tuned, without_teacher, xvlm_adamw
from wordregion.recipes.xvlm import scene_regions
from wordregion.schema import Dataset
from wordregion.tasks.align import Align

CENTRED = (0.5, 0.5, 0.5)
OBJECTIVES = (Contrast(same_image_positives=True), Match())
XVLM_LAYER = 3
"""Fusion layer of X-VLM's maps: BERT's layer 9 (its code); ALBEF's is one below."""
EXPRESSIONS = 120_191
"""Of RefCOCO+'s training set."""


def refer_refcoco_plus(
    checkpoint: Path | None = None,
    train: Path = Path("data/refcoco+_train.json"),
    val: tuple[Path, ...] = (Path("data/refcoco+_val.json"), Path("data/refcoco+_test.json")),
    images: Path = Path("data/coco"),
    refs: Path = Path("data/refcoco+/refs.json"),
    instances: Path = Path("data/refcoco+/instances.json"),
    proposals: Path = Path("data/refcoco+/dets.json"),
    expressions: int = EXPRESSIONS,
    text: str = "bert-base-uncased",
) -> Recipe:
    """RefCOCO+ without boxes, as published: 5 epochs at 384 pixels, AdamW 1e-5, batch 256, distillation 0.4.

    Args:
        checkpoint: pre-trained albef_base: the folder of a run, a weight file of ours, or a released checkpoint.
        train: expressions to train on, in ALBEF's JSON.
        val: expressions to evaluate on; the splits are named by `refs`.
        images: folder or tar of COCO's train2014 photos, where the image paths begin.
        refs: RefCOCO+'s references as JSON (docs/grounding.md).
        instances: RefCOCO+'s ``instances.json``.
        proposals: boxes to choose from by image id.
        expressions: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("refer_refcoco_plus", checkpoint, "runs/albef_4m")
    batch = 256
    epoch = epoch_steps("refer_refcoco_plus", "expressions", expressions, batch)
    return Recipe(
        name="refer_refcoco_plus",
        model=partial(tuned, albef_base, for_retrieval, start),
        task=Align(objectives=OBJECTIVES, ramp_steps=epoch),
        data=_weak(train, val, images, refs, instances, proposals, text, tokens=30),
        optim=albef_adamw(1e-5, epoch, final=0.1),
        run=Run(steps=5 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_grounding,
    )


def xvlm_refer_refcoco_plus(
    checkpoint: Path | None = None,
    train: Path = Path("data/refcoco+_train.json"),
    val: tuple[Path, ...] = (Path("data/refcoco+_val.json"), Path("data/refcoco+_test.json")),
    images: Path = Path("data/coco"),
    refs: Path = Path("data/refcoco+/refs.json"),
    instances: Path = Path("data/refcoco+/instances.json"),
    proposals: Path = Path("data/refcoco+/dets.json"),
    expressions: int = EXPRESSIONS,
    text: str = "bert-base-uncased",
) -> Recipe:
    """RefCOCO+ without boxes as in X-VLM: 5 epochs at 384 pixels, AdamW 2e-5, batch 160, maps of fusion layer 3.

    Settings are those of its code: see docs/xvlm.md, with what is ours.

    Args:
        checkpoint: pre-trained xvlm_base: the folder of a run, a weight file of ours, or a released checkpoint.
        train: expressions to train on, in ALBEF's JSON.
        val: expressions to evaluate on; the splits are named by `refs`.
        images: folder or tar of COCO's train2014 photos, where the image paths begin.
        refs: RefCOCO+'s references as JSON (docs/grounding.md).
        instances: RefCOCO+'s ``instances.json``.
        proposals: boxes to choose from by image id.
        expressions: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("xvlm_refer_refcoco_plus", checkpoint)
    batch = 160
    epoch = epoch_steps("xvlm_refer_refcoco_plus", "expressions", expressions, batch)
    return Recipe(
        name="xvlm_refer_refcoco_plus",
        model=partial(tuned, xvlm_base, for_retrieval, start),
        task=without_teacher(*OBJECTIVES),
        data=_weak(train, val, images, refs, instances, proposals, text, tokens=40),
        optim=xvlm_adamw(2e-5, 5 * epoch),
        run=Run(steps=5 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=partial(evaluate_grounding, layer=XVLM_LAYER),
    )


def _weak(
    train: Path,
    val: tuple[Path, ...],
    images: Path,
    refs: Path,
    instances: Path,
    proposals: Path,
    text: str,
    tokens: int,
) -> Data:
    return Data(
        train=partial(Referring, train, images),
        transform=TrainTransform(384, scale=(1.0, 1.0)),
        collator=lambda: Collator(Tokenizer(text, max_tokens=tokens, sep=False)),
        evaluate=partial(Referring, val, images, refs, instances, proposals),
        eval_transform=EvalTransform(384),
    )


def refer_boxes_pretrain(
    checkpoint: Path | None = None,
    regions: tuple[str, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    records: int = 318_547,
    processes: int = 8,
    text: str = "bert-base-uncased",
) -> Recipe:
    """Boxes alone before RefCOCO+, as in X-VLM: 2 epochs over its regions at 224 pixels, AdamW 3e-5, 192 pairs a step.

    Settings are those of its code: see docs/xvlm.md, with what is ours.

    Args:
        checkpoint: pre-trained xvlm_base: the folder of a run, a weight file of ours, or a released checkpoint.
        regions: files with boxes: COCO's objects, Visual Genome's objects and regions (as for xvlm_4m).
        images: folder or tar of their images, if they are not beside the files.
        val: data set with boxes to evaluate on.
        records: divided by the pairs of a step, the steps of an epoch. The default is the original's.
        processes: that will train: a process has 192 / processes pairs out of 72 / processes images.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("refer_boxes_pretrain", checkpoint)
    if not regions:
        raise UsageError("refer_boxes_pretrain: no data. Name files with boxes: --regions coco.json vg_regions.jsonl")
    images_a_step, pairs = 72, 192
    if processes < 1 or images_a_step % processes or pairs % processes:
        numbers = f"{images_a_step} images and {pairs} pairs"
        raise UsageError(f"refer_boxes_pretrain: processes={processes} does not divide {numbers}. Give 8, for example.")
    steps = 2 * epoch_steps("refer_boxes_pretrain", "records", records, pairs)
    return Recipe(
        name="refer_boxes_pretrain",
        model=partial(tuned, xvlm_base, for_locating, start, 224),
        task=without_teacher(Box()),
        data=Data(
            train=partial(_regions, regions, images),
            transform=RegionTransform(224),
            collator=lambda: Collator(
                Tokenizer(text, max_tokens=40, max_words=40, sep=False), regions=5, pairs=pairs // processes
            ),
            evaluate=None if val is None else partial(open_source, val, images),
            eval_transform=EvalTransform(224),
        ),
        optim=xvlm_adamw(3e-5, steps),
        run=Run(
            steps=steps, batch=images_a_step, clip=1.0, precision="bf16", parallel="ddp", workers=8, save_every=1000
        ),
        evaluation=evaluate_boxes,
    )


def _regions(specs: tuple[str, ...], images: Path | None) -> Dataset:
    return RegionTexts(opened(specs, images))


def refer_boxes_refcoco_plus(
    checkpoint: Path | None = None,
    train: Path = Path("data/refcoco+_train.json"),
    val: tuple[Path, ...] = (Path("data/refcoco+_val.json"), Path("data/refcoco+_test.json")),
    images: Path = Path("data/coco"),
    refs: Path = Path("data/refcoco+/refs.json"),
    instances: Path = Path("data/refcoco+/instances.json"),
    expressions: int = EXPRESSIONS,
    text: str = "bert-base-uncased",
) -> Recipe:
    """RefCOCO+ with boxes, as X-VLM fine-tunes: 10 epochs at 384 pixels, AdamW 3e-5, batch 160, crops around the box.

    Settings are those of its code: see docs/xvlm.md, with what is ours. Measured is the share of boxes with an IoU of
    0.5, for each split.

    Args:
        checkpoint: the folder of a run of refer_boxes_pretrain (or xvlm_4m, without that step), a weight file of ours,
            or a released checkpoint.
        train: expressions to train on, in ALBEF's JSON, each with its `ref_id`.
        val: expressions to evaluate on; the splits are named by `refs`.
        images: folder or tar of COCO's train2014 photos, where the image paths begin.
        refs: RefCOCO+'s references as JSON (docs/grounding.md).
        instances: RefCOCO+'s ``instances.json``: the boxes.
        expressions: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("refer_boxes_refcoco_plus", checkpoint, "runs/refer_boxes_pretrain")
    batch, epochs = 160, 10
    epoch = epoch_steps("refer_boxes_refcoco_plus", "expressions", expressions, batch)
    return Recipe(
        name="refer_boxes_refcoco_plus",
        model=partial(tuned, xvlm_base, for_locating, start),
        task=without_teacher(Box()),
        data=Data(
            train=partial(Referring, train, images, refs, instances, by_image=False),
            transform=RegionTransform(384),
            collator=lambda: Collator(Tokenizer(text, max_tokens=40, sep=False)),
            evaluate=partial(Referring, val, images, refs, instances),
            eval_transform=EvalTransform(384),
        ),
        optim=xvlm_adamw(3e-5, epochs * epoch),
        run=Run(steps=epochs * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_boxes,
    )


def refer_scenes(scenes: int = 100_000) -> Recipe:
    """A small model on captions and phrases of the built-in scenes, from nothing, without a box.

    In so short a run the contrast learns to locate and a match head hardly starts, so the maps are the contrast's.

    Args:
        scenes: number of different training scenes.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes", max_tokens=25)
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    return Recipe(
        name="refer_scenes",
        model=partial(albef_tiny_conv, tokenizer.vocab_size, pixels),
        task=Align(
            objectives=(Contrast(same_image_positives=True),),
            momentum=0.5,
            queue_size=0,
            distill=0.0,
        ),
        data=Data(
            train=partial(ScenePhrases, "train", scenes, image_size=pixels, captions=2),
            transform=plain,
            collator=partial(Collator, tokenizer, texts_per_image=3),
            evaluate=partial(ScenePhrases, "val", 256, image_size=pixels),
            eval_transform=plain,
        ),
        optim=AdamW(lr=2e-3, betas=(0.9, 0.98), warmup=50, final=0.01, lr_scale=(("temperature", 0.02),)),
        run=Run(steps=600, batch=64, clip=1.0, workers=1, log_every=10, save_every=1000),
        evaluation=partial(evaluate_grounding, mode="itc"),
    )


def refer_boxes_scenes(checkpoint: Path | None = None, scenes: int = 100_000) -> Recipe:
    """A small model learns the boxes of the built-in scenes' phrases, and nothing else; minutes on two cores.

    Args:
        checkpoint: the folder of a run of xvlm_scenes (or of this recipe) to start from; None = from nothing.
        scenes: number of different training scenes.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes", max_tokens=25)
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    return Recipe(
        name="refer_boxes_scenes",
        model=partial(_small, tokenizer.vocab_size, pixels, checkpoint),
        task=without_teacher(Box()),
        data=Data(
            train=partial(scene_regions, scenes, pixels),
            transform=plain,
            collator=partial(Collator, tokenizer, regions=5),
            evaluate=partial(Scenes, "val", 256, image_size=pixels, captions=1),
            eval_transform=plain,
        ),
        optim=AdamW(lr=1e-3, betas=(0.9, 0.98), warmup=50, final=0.01),
        run=Run(steps=600, batch=32, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=evaluate_boxes,
    )


def _small(vocab_size: int, pixels: int, checkpoint: Path | None) -> FusionModel:
    model = for_locating(xvlm_tiny(vocab_size, pixels))
    if checkpoint is not None:
        start_from(model, checkpoint)
    return model
