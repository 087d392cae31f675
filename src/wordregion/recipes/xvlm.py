"""X-VLM's pre-training (Zeng et al., ICML 2022): as published, and small on the built-in scenes."""

from functools import partial
from pathlib import Path

from wordregion.data.collate import Collator
from wordregion.data.datasets.opening import open_source
from wordregion.data.region_transforms import ByKind, RegionTransform
from wordregion.data.regions import RegionTexts
from wordregion.data.scenes import Scenes
from wordregion.data.tokens import Masking, Tokenizer, WordMasking
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.data.turns import Turns
from wordregion.errors import UsageError
from wordregion.evaluate.boxes import evaluate_boxes
from wordregion.models.zoo import xvlm_base, xvlm_tiny
from wordregion.objectives import Box, Contrast, MaskedWords, Match
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import opened, without_teacher

CENTRED = (0.5, 0.5, 0.5)
FUSION_LAYERS = 6
IMAGE_STEPS = 200_000
REGION_SHARE = 0.5
PROCESSES = 8


def xvlm_4m(
    data: tuple[str, ...] = (),
    regions: tuple[str, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    processes: int = PROCESSES,
    text: str = "bert-base-uncased",
) -> Recipe:
    """X-VLM-base as published: 200,000 steps of 1,024 captioned images, before half of them a step of regions.

    Settings are the paper's and its code's: AdamW 1e-4 with betas (0.9, 0.98) and weight decay 0.01, twice the rate for
    new parameters, 2,500 steps of warm-up, then linearly to 0, gradient norm 1; no teacher and no queue. A region step
    has 48 images for each 128 captioned ones and as many pairs, up to 5 an image.

    Args:
        data: caption files of COCO, Visual Genome, SBU and CC3M (whatever `wordregion data check` reads).
        regions: files with boxes of COCO and Visual Genome, objects and regions, likewise.
        images: folder or tar of their images, if they are not beside the files.
        val: captioned data set to evaluate retrieval on.
        processes: that will train: a process has 1,024 / processes pairs.
        text: BERT weights and vocabulary: a hub name or a folder.
    """
    if not data or not regions:
        raise UsageError("xvlm_4m: no data. Name files of captions and of regions: --data coco.json --regions vg.jsonl")
    batch = 1024
    if processes < 1 or batch % processes:
        raise UsageError(f"xvlm_4m: processes={processes} does not divide a batch of {batch}. Give a power of 2.")
    tokenizer = partial(Tokenizer, text, max_tokens=40, max_words=40, sep=False)
    twice = ("image_proj.", "text_proj.", "temperature", "heads.match.", "heads.box.")
    cross = tuple(f"fusion.layers.{layer}.cross." for layer in range(FUSION_LAYERS))
    return Recipe(
        name="xvlm_4m",
        model=partial(xvlm_base, 224, text=text),
        task=without_teacher(Contrast(), Match(), MaskedWords(), Box()),
        data=Data(
            train=lambda: Turns(opened(data, images), RegionTexts(opened(regions, images)), REGION_SHARE),
            transform=ByKind(RegionTransform(224), TrainTransform(224)),
            collator=lambda: Collator(tokenizer(), WordMasking(), regions=5, pairs=batch // processes),
            evaluate=None if val is None else partial(open_source, val, images),
            eval_transform=EvalTransform(224),
        ),
        optim=AdamW(
            lr=1e-4,
            weight_decay=0.01,
            betas=(0.9, 0.98),
            schedule="linear",
            warmup=2500,
            lr_scale=tuple((prefix, 2.0) for prefix in (*cross, *twice)),
            no_decay=("bias",),
        ),
        run=Run(
            steps=round(IMAGE_STEPS * (1 + REGION_SHARE)),
            batch=batch,
            clip=1.0,
            precision="bf16",
            parallel="ddp",
            workers=8,
            save_every=5000,
        ),
    )


def xvlm_scenes(scenes: int = 200_000) -> Recipe:
    """A small X-VLM on captions and region phrases of the built-in scenes, both in every step; minutes on two cores.

    Args:
        scenes: number of different training scenes.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes", max_tokens=25)
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    return Recipe(
        name="xvlm_scenes",
        model=partial(xvlm_tiny, tokenizer.vocab_size, pixels),
        task=without_teacher(Contrast(same_image_positives=True), Match(hardness=0.3), MaskedWords(), Box()),
        data=Data(
            train=partial(scene_regions, scenes, pixels),
            transform=plain,
            collator=partial(Collator, tokenizer, Masking(), regions=4),
            evaluate=partial(Scenes, "val", 256, image_size=pixels, captions=1),
            eval_transform=plain,
        ),
        optim=AdamW(lr=2e-3, betas=(0.9, 0.98), warmup=50, final=0.01, lr_scale=(("temperature", 0.02),)),
        run=Run(steps=700, batch=32, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=evaluate_boxes,
    )


def scene_regions(scenes: int, pixels: int, negatives: int = 0) -> RegionTexts:
    """Training scenes with a text for each phrase of their captions; arguments as for `Scenes`."""
    return RegionTexts(Scenes("train", scenes, image_size=pixels, negatives=negatives))
