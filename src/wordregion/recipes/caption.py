"""Captioning: as X-VLM adapts to it and fine-tunes on COCO, by words, then CIDEr; and small on the built-in scenes."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from wordregion.data.captions import CaptionCollator
from wordregion.data.datasets.albef import AlbefJson, captions_by_image
from wordregion.data.datasets.opening import open_source
from wordregion.data.scene_text import say
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import UsageError
from wordregion.evaluate.caption import evaluate_captions
from wordregion.evaluate.cider import CaptionReward
from wordregion.models.fusion import FusionModel
from wordregion.models.store import start_from
from wordregion.models.zoo import for_captioning, xvlm_base, xvlm_tiny
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import check_data, epoch_steps, named_start, opened, tuned, xvlm_adamw
from wordregion.schema import Dataset
from wordregion.tasks.caption import Caption, SelfCritical

CENTRED = (0.5, 0.5, 0.5)


def caption_pretrain(
    checkpoint: Path | None = None,
    data: tuple[str, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    captions: int = 5_114_489,
    text: str = "bert-base-uncased",
) -> Recipe:
    """Adaptation to writing before COCO, as in X-VLM: 2 epochs of its captions at 224 pixels, AdamW 3e-5, batch 1,024.

    Settings are those of X-VLM's code: gradient norm 1, linear schedule, a tenth of the steps as warm-up, weight decay
    0.01, captions of at most 40 tokens without a prompt, labels not smoothed.

    Args:
        checkpoint: pre-trained xvlm_base: the folder of a run, a weight file of ours, or a released checkpoint.
        data: caption files of COCO, Visual Genome, SBU and CC3M (whatever `wordregion data check` reads).
        images: folder or tar of their images, if they are not beside the files.
        val: captioned photos to evaluate on.
        captions: how many `data` holds; sets the number of steps. The default is the original's.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("caption_pretrain", checkpoint)
    check_data("caption_pretrain", data)
    batch = 1024
    steps = 2 * epoch_steps("caption_pretrain", "captions", captions, batch)
    return Recipe(
        name="caption_pretrain",
        model=partial(tuned, xvlm_base, for_captioning, start, 224),
        task=Caption(smoothing=0.0),
        data=Data(
            train=partial(opened, data, images),
            transform=TrainTransform(224),
            collator=lambda: CaptionCollator(_tokenizer(text), prompt=""),
            evaluate=None if val is None else partial(open_source, val, images),
            eval_transform=EvalTransform(224),
        ),
        optim=xvlm_adamw(3e-5, steps),
        run=Run(steps=steps, batch=batch, clip=1.0, precision="bf16", parallel="ddp", workers=8, save_every=2000),
        evaluation=evaluate_captions,
    )


def caption_coco(
    checkpoint: Path | None = None,
    train: Path = Path("data/coco_karpathy_train.json"),
    val: str = "data/coco_karpathy_test.json",
    images: Path | None = None,
    captions: int = 566_747,
    text: str = "bert-base-uncased",
) -> Recipe:
    """COCO captions as published: 5 epochs at 384 pixels, AdamW 1e-5, batch 256, labels smoothed by 0.1.

    Settings are those of X-VLM's code: linear schedule, a tenth of the steps as warm-up, weight decay 0.01, captions
    of at most 40 tokens behind "a picture of", crops of at least half the picture; 3 beams, 5 to 20 tokens.

    Args:
        checkpoint: the folder of a run of caption_pretrain (or xvlm_4m, without that step), a weight file of ours, or a
            released checkpoint.
        train: Karpathy's training captions as a JSON list: {"image", "caption"}.
        val: captioned photos to evaluate on (whatever `wordregion data check` reads).
        images: folder or tar of the photos, if they are not beside the files.
        captions: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("caption_coco", checkpoint)
    batch = 256
    epoch = epoch_steps("caption_coco", "captions", captions, batch)
    return Recipe(
        name="caption_coco",
        model=partial(tuned, xvlm_base, for_captioning, start),
        task=Caption(smoothing=0.1),
        data=_coco(partial(open_source, str(train), images), val, images, text),
        optim=xvlm_adamw(1e-5, 5 * epoch),
        run=Run(steps=5 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_captions,
    )


def caption_coco_cider(
    checkpoint: Path | None = None,
    train: Path = Path("data/coco_karpathy_train.json"),
    val: str = "data/coco_karpathy_test.json",
    images: Path | None = None,
    text: str = "bert-base-uncased",
) -> Recipe:
    """CIDEr self-critical training as published: 44,275 steps of 64 photos, 5 sampled captions each, AdamW 1e-5.

    Args:
        checkpoint: a model that writes captions already: the folder of a run of caption_coco, or a weight file.
        train: see `caption_coco`.
        val: see `caption_coco`.
        images: see `caption_coco`.
        text: see `caption_coco`.
    """
    start = named_start("caption_coco_cider", checkpoint, "runs/caption_coco")
    steps = 44_275
    return Recipe(
        name="caption_coco_cider",
        model=partial(tuned, xvlm_base, for_captioning, start),
        task=SelfCritical(reward=CaptionReward(partial(_tokenizer, text), partial(captions_by_image, train))),
        data=_coco(partial(AlbefJson, train, images, by_image=True), val, images, text),
        optim=xvlm_adamw(1e-5, steps),
        run=Run(steps=steps, batch=64, precision="bf16", parallel="ddp", workers=4, save_every=500),
        evaluation=evaluate_captions,
    )


def _coco(train: Callable[[], Dataset], val: str, images: Path | None, text: str) -> Data:
    return Data(
        train=train,
        transform=TrainTransform(384, scale=(0.5, 1.0)),
        collator=lambda: CaptionCollator(_tokenizer(text)),
        evaluate=partial(open_source, val, images),
        eval_transform=EvalTransform(384),
    )


def _tokenizer(text: str) -> Tokenizer:
    return Tokenizer(text, max_tokens=40, max_words=40)


def caption_scenes(checkpoint: Path | None = None, scenes: int = 200_000) -> Recipe:
    """A small model learns to describe the built-in scenes, in some minutes on two cores.

    Args:
        checkpoint: the folder of a run of xvlm_scenes to start from; None = from nothing.
        scenes: number of different training scenes.
    """
    return _scenes("caption_scenes", checkpoint, scenes, Caption(), lr=1e-3, steps=900, batch=64)


def caption_scenes_cider(checkpoint: Path | None = None, scenes: int = 200_000) -> Recipe:
    """CIDEr self-critical training on the built-in scenes.

    Args:
        checkpoint: the folder of a run of caption_scenes.
        scenes: number of different training scenes.
    """
    if checkpoint is None:
        raise UsageError("caption_scenes_cider: no checkpoint. Train one: wordregion train caption_scenes")
    reward = CaptionReward(partial(Tokenizer, "scenes"), partial(_scene_captions, min(scenes, 5000)))
    return _scenes("caption_scenes_cider", checkpoint, scenes, SelfCritical(reward), lr=1e-4, steps=150, batch=32)


def _scenes(
    name: str, checkpoint: Path | None, scenes: int, task: Caption | SelfCritical, lr: float, steps: int, batch: int
) -> Recipe:
    pixels = 64
    tokenizer = Tokenizer("scenes", max_tokens=40)
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    return Recipe(
        name=name,
        model=partial(_small, tokenizer.vocab_size, pixels, checkpoint),
        task=task,
        data=Data(
            train=partial(Scenes, "train", scenes, image_size=pixels, captions=5),
            transform=plain,
            collator=partial(CaptionCollator, tokenizer),
            evaluate=partial(Scenes, "val", 256, image_size=pixels, captions=5),
            eval_transform=plain,
        ),
        optim=AdamW(lr=lr, betas=(0.9, 0.98), warmup=steps // 20, final=0.01),
        run=Run(steps=steps, batch=batch, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=partial(
            evaluate_captions,
            max_tokens=40,
            neighbours=partial(Scenes, "train", min(scenes, 2000), image_size=pixels, captions=5),
        ),
    )


def _scene_captions(scenes: int) -> Iterable[Sequence[str]]:
    drawn = Scenes("train", scenes, captions=5)
    return ([say(claim).text for claim in drawn.record(index).captions] for index in range(scenes))


def _small(vocab_size: int, pixels: int, checkpoint: Path | None) -> FusionModel:
    model = for_captioning(xvlm_tiny(vocab_size, pixels))
    if checkpoint is not None:
        start_from(model, checkpoint)
    return model
