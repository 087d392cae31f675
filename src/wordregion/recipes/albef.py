"""ALBEF's pre-training (Li et al., NeurIPS 2021): small on the built-in scenes, and as published."""

from functools import partial
from pathlib import Path

from wordregion.data.collate import Collator
from wordregion.data.datasets.opening import open_source
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import UsageError
from wordregion.models.zoo import albef_base, albef_tiny_conv
from wordregion.objectives import Contrast, MaskedWords, Match
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import albef_adamw, check_data, opened
from wordregion.tasks.align import Align

CENTRED = (0.5, 0.5, 0.5)


def albef_demo(scenes: int = 200_000) -> Recipe:
    """A small ALBEF on the built-in scenes: about five minutes on two cores.

    All three losses with momentum distillation, as published, but without the feature queue, and on a small CNN.

    Args:
        scenes: number of different training scenes.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes", max_tokens=25)
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    return Recipe(
        name="albef_demo",
        model=partial(albef_tiny_conv, tokenizer.vocab_size, pixels),
        task=Align(
            objectives=(Contrast(same_image_positives=True), Match(hardness=0.3), MaskedWords()),
            first_alone=660,  # matching has nothing to learn from an untrained contrast
            momentum=0.5,  # 0.995 averages over 200 steps, a large part of this run
            queue_size=0,  # features move too fast at first: old keys only teach to tell old from new
            distill=0.2,
            ramp_steps=700,
        ),
        data=Data(
            train=partial(Scenes, "train", scenes, image_size=pixels),
            transform=plain,
            collator=partial(Collator, tokenizer, Masking(), texts_per_image=3),
            evaluate=partial(Scenes, "val", 256, image_size=pixels, captions=1),
            eval_transform=plain,
        ),
        optim=AdamW(lr=2e-3, betas=(0.9, 0.98), warmup=50, final=0.01, lr_scale=(("temperature", 0.02),)),
        run=Run(steps=690, batch=64, clip=1.0, workers=1, log_every=5, save_every=500),
    )


def albef_4m(
    data: tuple[str, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    records: int = 4_000_000,
    text: str = "bert-base-uncased",
) -> Recipe:
    """ALBEF-base as published: 30 epochs over 4 million images, batch 512.

    Settings are the paper's and its code's: AdamW with weight decay 0.02, 1e-5 to 1e-4 in 2,000 steps, then a cosine
    back to 1e-5 (see `albef_adamw`), queue of 65,536, momentum 0.995, distillation rising to 0.4 over the first epoch.

    Args:
        data: caption files of COCO, Visual Genome, CC3M and SBU (whatever `wordregion data check` reads).
        images: folder or tar of their images, if they are not beside the files.
        val: data set to evaluate on.
        records: images in `data`; sets the number of steps.
        text: BERT weights and vocabulary: a hub name or a folder.
    """
    check_data("albef_4m", data)
    batch = 512
    if records < batch:
        raise UsageError(f"albef_4m: records={records} is less than one batch of {batch}. Give the number of images.")
    tokenizer = partial(Tokenizer, text, max_tokens=25, sep=False)
    epoch = records // batch
    return Recipe(
        name="albef_4m",
        model=partial(albef_base, 256, text=text),
        task=Align(ramp_steps=epoch),
        data=Data(
            train=partial(opened, data, images),
            transform=TrainTransform(256),
            collator=lambda: Collator(tokenizer(), Masking()),
            evaluate=None if val is None else partial(open_source, val, images),
            eval_transform=EvalTransform(256),
        ),
        optim=albef_adamw(1e-4, epoch, final=0.1, warmup=20, start=0.1),
        run=Run(steps=30 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=8, save_every=5000),
    )
