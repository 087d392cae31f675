"""Weakly supervised grounding (ALBEF, section 6 and appendix A): expressions are texts, boxes only test."""

from functools import partial
from pathlib import Path

from wordregion.data.collate import Collator
from wordregion.data.datasets.refer import Referring
from wordregion.data.scene_phrases import ScenePhrases
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import UsageError
from wordregion.evaluate.grounding import evaluate_grounding
from wordregion.models.fusion import FusionModel
from wordregion.models.store import start_from
from wordregion.models.zoo import albef_base, albef_tiny_conv, for_retrieval
from wordregion.objectives import Contrast, Match
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.tasks.align import Align

CENTRED = (0.5, 0.5, 0.5)


def refer_refcoco_plus(
    checkpoint: Path | None = None,
    train: Path = Path("data/refcoco+_train.json"),
    val: tuple[Path, ...] = (Path("data/refcoco+_val.json"), Path("data/refcoco+_test.json")),
    images: Path = Path("data/coco"),
    refs: Path = Path("data/refcoco+/refs.json"),
    instances: Path = Path("data/refcoco+/instances.json"),
    proposals: Path = Path("data/refcoco+/dets.json"),
    expressions: int = 120_191,
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
    if checkpoint is None:
        raise UsageError("refer_refcoco_plus: no checkpoint. Name a pre-trained model: --checkpoint runs/albef_4m")
    batch = 256
    epoch = expressions // batch
    if epoch < 1:
        raise UsageError(f"refer_refcoco_plus: expressions={expressions} is less than one batch of {batch}.")
    truth = {"images": images, "refs": refs, "instances": instances, "proposals": proposals}
    return Recipe(
        name="refer_refcoco_plus",
        model=partial(_pretrained, checkpoint),
        task=Align(objectives=(Contrast(same_image_positives=True), Match()), ramp_steps=epoch),
        data=Data(
            train=partial(Referring, train, images),
            transform=TrainTransform(384, scale=(1.0, 1.0)),
            collator=lambda: Collator(Tokenizer(text, max_tokens=30, sep=False)),
            evaluate=partial(Referring, val, **truth),
            eval_transform=EvalTransform(384),
        ),
        optim=AdamW(lr=1e-5, weight_decay=0.02, final=0.1),
        run=Run(steps=5 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_grounding,
    )


def _pretrained(checkpoint: Path) -> FusionModel:
    model = for_retrieval(albef_base(384, vision_weights=False, text_weights=False))
    start_from(model, checkpoint)
    return model


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
