"""Statements about two images: as ALBEF and X-VLM train for NLVR2, in two stages, and small on the built-in scenes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from wordregion.data.blank import Blank
from wordregion.data.collate import Collator
from wordregion.data.datasets.nlvr2 import Nlvr2
from wordregion.data.scene_phrases import ScenePhrases
from wordregion.data.scenes import ScenePairs, Scenes
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.evaluate.nlvr import evaluate_nlvr
from wordregion.evaluate.retrieval import evaluate_retrieval
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_base, albef_tiny_conv, for_two_images, xvlm_base
from wordregion.nn.pair_fusion import one_image_name
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import (
    albef_adamw,
    check_data,
    epoch_steps,
    named_start,
    new_or_trained,
    opened,
    tuned,
    xvlm_adamw,
)
from wordregion.tasks.assign_text import AssignText
from wordregion.tasks.classify import Classify

CENTRED = (0.5, 0.5, 0.5)


def two_images(
    build: Callable[..., FusionModel], head: Literal["nlvr", "assign"], checkpoint: Path, image_size: int
) -> FusionModel:
    """A published model made one of two images, whose parts come from a trained one, of one image or two.

    Args:
        build: see `tuned`.
        head: see `for_two_images`.
        checkpoint: see `tuned`; of text assignment too.
        image_size: pixels.

    Raises:
        CheckpointError: if it doesn't fill the model, its new head aside.
    """
    heads = partial(for_two_images, head=head)
    return tuned(build, heads, checkpoint, image_size, new=("heads.",), seed=one_image_name)


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
    start = named_start("nlvr2_pretrain", checkpoint, "runs/albef_4m")
    check_data("nlvr2_pretrain", data)
    batch = 512
    steps = epoch_steps("nlvr2_pretrain", "records", records, batch)
    return Recipe(
        name="nlvr2_pretrain",
        model=partial(two_images, albef_base, "assign", start, 256),
        task=AssignText(),
        data=_pairs(data, images, text, pixels=256, tokens=25, words=30),
        optim=albef_adamw(2e-5, steps, final=0.5, start=0.5),
        run=Run(steps=steps, batch=batch, precision="bf16", parallel="ddp", workers=8, save_every=2000),
        evaluation=partial(evaluate_retrieval, k=0),  # the match head is gone, the contrast is not
    )


def xvlm_nlvr2_pretrain(
    checkpoint: Path | None = None,
    data: tuple[str, ...] = (),
    images: Path | None = None,
    records: int = 5_114_489,
    text: str = "bert-base-uncased",
) -> Recipe:
    """Text assignment before NLVR2 as in X-VLM: 2 epochs over the pre-training captions at 224 pixels, batch 1,024.

    Settings are those of its code: AdamW 3e-5, twice that for the new head, gradient norm 1. See docs/xvlm.md.

    Args:
        checkpoint: pre-trained xvlm_base: the folder of a run, a weight file of ours, or a released checkpoint.
        data: caption files of COCO, Visual Genome, SBU and CC3M (whatever `wordregion data check` reads).
        images: folder or tar of their images, if they are not beside the files.
        records: how many `data` holds; sets the number of steps. The default is the original's.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("xvlm_nlvr2_pretrain", checkpoint)
    check_data("xvlm_nlvr2_pretrain", data)
    batch = 1024
    steps = 2 * epoch_steps("xvlm_nlvr2_pretrain", "records", records, batch)
    return Recipe(
        name="xvlm_nlvr2_pretrain",
        model=partial(two_images, xvlm_base, "assign", start, 224),
        task=AssignText(),
        data=_pairs(data, images, text, pixels=224, tokens=40, words=40),
        optim=xvlm_adamw(3e-5, steps, twice=("heads.assign.",)),
        run=Run(steps=steps, batch=batch, clip=1.0, precision="bf16", parallel="ddp", workers=8, save_every=2000),
        evaluation=partial(evaluate_retrieval, k=0),
    )


def _pairs(data: tuple[str, ...], images: Path | None, text: str, pixels: int, tokens: int, words: int) -> Data:
    return Data(
        train=partial(opened, data, images),
        transform=TrainTransform(pixels),
        collator=lambda: Collator(Tokenizer(text, max_tokens=tokens, max_words=words, sep=False)),
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
    start = named_start("nlvr2", checkpoint, "runs/nlvr2_pretrain")
    batch = 128
    epoch = epoch_steps("nlvr2", "statements", statements, batch)
    return Recipe(
        name="nlvr2",
        model=partial(two_images, albef_base, "nlvr", start, 384),
        task=Classify("nlvr", ramp_steps=epoch),
        data=_statements(train, val, images, text),
        optim=albef_adamw(2e-5, epoch, final=0.05, start=0.5),
        run=Run(steps=10 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_nlvr,
    )


def xvlm_nlvr2(
    checkpoint: Path | None = None,
    train: Path = Path("data/nlvr2/train.json"),
    val: Path = Path("data/nlvr2/dev.json"),
    images: Path = Path("data/nlvr2/images"),
    statements: int = 86_373,
    text: str = "bert-base-uncased",
) -> Recipe:
    """NLVR2 as X-VLM fine-tunes: 10 epochs at 384 pixels, AdamW 3e-5 and twice that for the head, batch 80.

    Settings are those of its code, without the flip; see docs/xvlm.md.

    Args:
        checkpoint: the folder of a run of xvlm_nlvr2_pretrain (or xvlm_4m, without text assignment), a weight file of
            ours, or a released checkpoint.
        train: statements to train on, in NLVR2's format or ALBEF's.
        val: statements to evaluate on.
        images: folder or tar of the photos.
        statements: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("xvlm_nlvr2", checkpoint, "runs/xvlm_nlvr2_pretrain")
    batch = 80
    epoch = epoch_steps("xvlm_nlvr2", "statements", statements, batch)
    return Recipe(
        name="xvlm_nlvr2",
        model=partial(two_images, xvlm_base, "nlvr", start, 384),
        task=Classify("nlvr", distill=0.0),
        data=_statements(train, val, images, text),
        optim=xvlm_adamw(3e-5, 10 * epoch, twice=("heads.nlvr.",)),
        run=Run(steps=10 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_nlvr,
    )


def _statements(train: Path, val: Path, images: Path, text: str) -> Data:
    """Without a flip, which would make "the left image" the right one."""
    return Data(
        train=partial(Nlvr2, train, images),
        transform=TrainTransform(384, scale=(0.5, 1.0), flip=0.0),
        collator=lambda: SentenceCollator(Tokenizer(text, max_tokens=64, sep=False), needs=("label",), images=2),
        evaluate=partial(Nlvr2, val, images),
        eval_transform=EvalTransform(384),
    )


def nlvr_scenes_pretrain(checkpoint: Path | None = None, scenes: int = 200_000) -> Recipe:
    """Text assignment on the built-in scenes, before `nlvr_scenes`: to which of two pictures does a text belong?

    The texts are phrases of things ("a red circle"), of two things in a relation, and captions.

    Args:
        checkpoint: the folder of a run of xvlm_scenes or albef_demo to start from; None = from nothing.
        scenes: number of different training scenes.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes")
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    return Recipe(
        name="nlvr_scenes_pretrain",
        model=partial(_small, tokenizer.vocab_size, pixels, checkpoint, "assign"),
        task=AssignText(),
        data=Data(
            train=partial(ScenePhrases, "train", scenes, image_size=pixels),
            transform=plain,
            collator=partial(Collator, tokenizer, texts_per_image=4),
            evaluate=partial(Scenes, "val", 256, image_size=pixels, captions=1),
            eval_transform=plain,
        ),
        optim=AdamW(lr=5e-4, betas=(0.9, 0.98), warmup=50, final=0.1),
        run=Run(steps=500, batch=32, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=partial(evaluate_retrieval, k=0),  # the match head is gone, the contrast is not
    )


def nlvr_scenes(statements: int = 200_000, checkpoint: Path | None = None, text_only: bool = False) -> Recipe:
    """A small model learns to judge statements about two of the built-in scenes, in some minutes on two cores.

    Args:
        statements: number of different training statements.
        checkpoint: the folder of a run of nlvr_scenes_pretrain, nlvr_scenes, xvlm_scenes or albef_demo to start from;
            None = from nothing.
        text_only: hide the pictures: the baseline. Each statement is true of one pair of pictures and false of another.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes")
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    transform = Blank(plain) if text_only else plain
    return Recipe(
        name="nlvr_scenes",
        model=partial(_small, tokenizer.vocab_size, pixels, checkpoint, "nlvr"),
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


def _small(vocab_size: int, pixels: int, checkpoint: Path | None, head: Literal["nlvr", "assign"]) -> FusionModel:
    model = new_or_trained(partial(albef_tiny_conv, vocab_size, pixels), checkpoint)
    return model if head in model.heads else for_two_images(model, head)
