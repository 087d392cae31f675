"""Statements about two images: as ALBEF pre-trains and fine-tunes for NLVR2, and small on the built-in scenes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from wordregion.data.blank import Blank
from wordregion.data.collate import Collator
from wordregion.data.datasets.nlvr2 import Nlvr2
from wordregion.data.datasets.opening import open_source
from wordregion.data.mix import Mix
from wordregion.data.scenes import ScenePairs
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import UsageError
from wordregion.evaluate.nlvr import evaluate_nlvr
from wordregion.evaluate.retrieval import evaluate_retrieval
from wordregion.models.fusion import FusionModel
from wordregion.models.store import start_from
from wordregion.models.zoo import albef_base, albef_tiny_conv, for_two_images
from wordregion.nn.pair_fusion import one_image_name
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.schema import Dataset
from wordregion.tasks.assign_text import AssignText
from wordregion.tasks.classify import Classify

CENTRED = (0.5, 0.5, 0.5)


def two_images(
    build: Callable[[], FusionModel], head: Literal["nlvr", "assign"], checkpoint: Path | None = None
) -> FusionModel:
    """A model of two images whose parts come from a trained one, of one image or two.

    Args:
        build: makes a model of one image.
        head: see `for_two_images`.
        checkpoint: the folder of a run, or a weight file of ours; None = as built.

    Raises:
        CheckpointError: if it doesn't fill the model, its new head aside.
    """
    model = for_two_images(build(), head)
    if checkpoint is not None:
        start_from(model, checkpoint, new=("heads.",), seed=one_image_name)
    return model


def nlvr2_pretrain(
    checkpoint: Path | None = None,
    data: tuple[str, ...] = (),
    images: Path | None = None,
    records: int = 4_000_000,
    text: str = "bert-base-uncased",
) -> Recipe:
    """Text assignment before NLVR2, as published: one epoch over the pre-training images at 256 pixels, batch 512.

    AdamW with weight decay 0.02; 100 steps of warm-up from 1e-5, then 2e-5 throughout, as the original's schedule comes
    out for its single epoch.

    Args:
        checkpoint: pre-trained albef_base: the folder of a run, or a weight file of ours.
        data: caption files of COCO, Visual Genome, CC3M and SBU (whatever `wordregion data check` reads).
        images: folder or tar of their images, if they are not beside the files.
        records: images in `data`; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    if checkpoint is None:
        raise UsageError("nlvr2_pretrain: no checkpoint. Name a pre-trained model: --checkpoint runs/albef_4m")
    if not data:
        raise UsageError("nlvr2_pretrain: no data. Name the caption files: --data coco.json vg.json cc3m.json sbu.json")
    batch = 512
    if records < batch:
        raise UsageError(f"nlvr2_pretrain: records={records} is less than one batch of {batch}. Count the images.")

    def train() -> Dataset:
        parts = [open_source(spec, images) for spec in data]
        return parts[0] if len(parts) == 1 else Mix(*((part, len(part)) for part in parts))

    return Recipe(
        name="nlvr2_pretrain",
        model=partial(two_images, partial(albef_base, 256, False, False), "assign", checkpoint),
        task=AssignText(),
        data=Data(
            train=train,
            transform=TrainTransform(256),
            collator=lambda: Collator(Tokenizer(text, max_tokens=25, sep=False)),
        ),
        optim=AdamW(lr=2e-5, weight_decay=0.02, warmup=100, start=0.5, final=1.0),
        run=Run(steps=records // batch, batch=batch, precision="bf16", parallel="ddp", workers=8, save_every=2000),
        evaluation=partial(evaluate_retrieval, k=0),  # the match head is gone, the contrast is not
    )


def nlvr2(
    checkpoint: Path | None = None,
    train: Path = Path("data/nlvr2/train.json"),
    val: Path = Path("data/nlvr2/dev.json"),
    images: Path = Path("data/nlvr2/images"),
    statements: int = 86_373,
    text: str = "bert-base-uncased",
) -> Recipe:
    """NLVR2 as published: 10 epochs at 384 pixels, AdamW 2e-5, batch 128, distillation rising to 0.4 over the first.

    Only the flip is left out: it would make "the left image" the right one.

    Args:
        checkpoint: the folder of a run of nlvr2_pretrain (or albef_4m, without text assignment), or such a weight file.
        train: statements to train on, in NLVR2's format or ALBEF's.
        val: statements to evaluate on.
        images: folder or tar of the photos.
        statements: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    if checkpoint is None:
        raise UsageError("nlvr2: no checkpoint. Name a pre-trained model: --checkpoint runs/nlvr2_pretrain")
    batch = 128
    epoch = statements // batch
    if epoch < 1:
        raise UsageError(f"nlvr2: statements={statements} is less than one batch of {batch}. Count the examples.")
    return Recipe(
        name="nlvr2",
        model=partial(two_images, partial(albef_base, 384, False, False), "nlvr", checkpoint),
        task=Classify("nlvr", ramp_steps=epoch),
        data=Data(
            train=partial(Nlvr2, train, images),
            transform=TrainTransform(384, scale=(0.5, 1.0), flip=0.0),
            collator=lambda: SentenceCollator(Tokenizer(text, max_tokens=64, sep=False), needs=("label",), images=2),
            evaluate=partial(Nlvr2, val, images),
            eval_transform=EvalTransform(384),
        ),
        optim=AdamW(lr=2e-5, weight_decay=0.02, warmup=100, start=0.5, final=0.05),
        run=Run(steps=10 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_nlvr,
    )


def nlvr_scenes(statements: int = 200_000, checkpoint: Path | None = None, text_only: bool = False) -> Recipe:
    """A small model learns to judge statements about two of the built-in scenes, in some minutes on two cores.

    Args:
        statements: number of different training statements.
        checkpoint: the folder of a run of albef_demo to start from; None = from nothing.
        text_only: hide the pictures: the baseline. Each statement is true of one pair of pictures and false of another.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes")
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    transform = Blank(plain) if text_only else plain
    return Recipe(
        name="nlvr_scenes",
        model=partial(two_images, partial(albef_tiny_conv, tokenizer.vocab_size, pixels), "nlvr", checkpoint),
        task=Classify("nlvr", distill=0.0),  # a teacher that averages over a short run has little to say
        data=Data(
            train=partial(ScenePairs, "train", statements, image_size=pixels),
            transform=transform,
            collator=partial(SentenceCollator, tokenizer, needs=("label",), images=2),
            evaluate=partial(ScenePairs, "val", 1600, image_size=pixels),
            eval_transform=transform,
        ),
        optim=AdamW(lr=1e-3, betas=(0.9, 0.98), warmup=100, final=0.01),
        run=Run(steps=1500, batch=64, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=evaluate_nlvr,
    )
