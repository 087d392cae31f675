"""ALBEF on a few thousand real photos from pretrained encoders, for a machine with two cores."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from wordregion.data.collate import Collator
from wordregion.data.datasets.flickr import Flickr30kEntities
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.models.store import start_from
from wordregion.models.zoo import albef_cnn, for_word_regions
from wordregion.objectives import Contrast, MaskedWords, Match, WordRegion
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import without_teacher
from wordregion.tasks.align import Align

FUSION_LAYERS = 2
KERAS_MEAN, KERAS_STD = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1.0, 1.0, 1.0)
WIDE_DROPOUT = 0.3
"""With ``wide``, so many channels of a photo's summary are dropped for the contrast in training."""


def flickr_frozen(
    data: Path = Path("data/flickr30k_entities"),
    weights: Path = Path("weights"),
    tokens: Path | None = None,
    wide: bool = False,
) -> Recipe:
    """The plain baseline on Flickr30k photos: frozen ResNet-50 and BERT features, two projection heads, contrast alone.

    `examples/flickr_small/prepare.py` makes the weights folder. `flickr_small` starts from this run.

    Args:
        data: Flickr30k Entities: ``train.txt``, ``val.txt``, images and annotations.
        weights: holds ``resnet50_keras.safetensors`` and ``bert/``.
        tokens: folder for the photos' tokens, which further runs share; None = encode them in each run.
        wide: ResNet-50 and MobileNetV2 side by side at 320 pixels instead of 224, four times the width of the
            contrast, and dropout before it.

    Raises:
        UsageError: if the weights folder lacks a part.
    """
    vision, text = vision_weights(weights, wide), weights / "bert"
    for part in (*vision, text / "config.json", text / "model.safetensors", text / "vocab.txt"):
        if not part.is_file():
            raise UsageError(f"flickr_small: {part} is missing. Make it with examples/flickr_small/prepare.py.")
    # each photo is encoded once, so none is augmented
    plain = EvalTransform(image_size(wide), KERAS_MEAN, KERAS_STD)
    task = Align(
        objectives=(Contrast(),),
        momentum=0.0,  # no history: the keys are the batch's own
        queue_size=0,
        distill=0.0,
        keep_image_tokens=tokens or True,
        keep_text_states=True,
    )
    recipe = Recipe(
        name="flickr_frozen",
        model=partial(small_model, weights, wide),
        task=task,
        data=Data(
            train=partial(Flickr30kEntities, data, "train"),
            transform=plain,
            collator=lambda: Collator(Tokenizer(text / "vocab.txt", max_tokens=30)),
            evaluate=partial(Flickr30kEntities, data, "val"),
            eval_transform=plain,
        ),
        optim=AdamW(
            lr=1e-3,
            weight_decay=0.1,
            warmup=20,
            lr_scale=(("temperature", 0.1),),
            freeze=("vision.", "text.", "fusion.", "heads."),
        ),
        run=Run(steps=300, batch=256, precision="bf16", workers=1, log_every=10, save_every=100),
    )
    if not wide:
        return recipe
    return replace(
        recipe,
        task=replace(
            task,
            objectives=(Contrast(same_image_positives=True),),
            momentum=None,
            summary_dropout=WIDE_DROPOUT,
        ),
        data=replace(
            recipe.data,
            collator=lambda: Collator(Tokenizer(text / "vocab.txt", max_tokens=30), texts_per_image=5),
        ),
        optim=replace(recipe.optim, weight_decay=1.0),
        run=replace(recipe.run, steps=200),
    )


def flickr_tuned(
    data: Path = Path("data/flickr30k_entities"), weights: Path = Path("weights"), tokens: Path | None = None
) -> Recipe:
    """As `flickr_frozen`, but ResNet-50's last stage learns along: the contrast alone, all five captions of a photo.

    `flickr_small` can start from this run too. What the stages below make of a photo is kept (0.8 MB a photo in fp32).

    Args:
        data: as for `flickr_frozen`.
        weights: as for `flickr_frozen`.
        tokens: as for `flickr_frozen`; takes the maps.

    Raises:
        UsageError: if the weights folder lacks a part.
    """
    frozen = flickr_frozen(data, weights)
    below = tuple(f"vision.body.{part}" for part in ("conv1", "bn1", "layer1", "layer2", "layer3"))
    return replace(
        frozen,
        name="flickr_tuned",
        task=replace(
            without_teacher(Contrast(same_image_positives=True)),
            keep_image_tokens=tokens or True,
            keep_text_states=True,
        ),
        data=replace(
            frozen.data,
            collator=lambda: Collator(Tokenizer(weights / "bert" / "vocab.txt", max_tokens=30), texts_per_image=5),
        ),
        optim=replace(
            frozen.optim,
            warmup=40,
            lr_scale=(("vision.", 0.1), *frozen.optim.lr_scale),
            freeze=(*below, "text.", "fusion.", "heads."),
        ),
        run=replace(frozen.run, steps=150, batch=128, clip=5.0, save_every=50),
    )


def flickr_small(
    start: Path = Path("runs/flickr_frozen"),
    data: Path = Path("data/flickr30k_entities"),
    weights: Path = Path("weights"),
    tokens: Path | None = None,
    wide: bool = False,
) -> Recipe:
    """All three losses with distillation on Flickr30k photos: frozen ResNet-50, BERT 6 x 384, two fusion layers.

    The contrast is trained when this begins (`flickr_frozen`), so matching comes first and alone: three quarters of the
    steps go to the fusion layers, with easy negatives before hard ones. Then contrast and masked words join. With
    ``wide``, words are compared with places of the photos from the first step on, taught by the boxes of phrases, and
    the fusion layers learn in every second step.

    Args:
        start: run of `flickr_frozen`: its projections are where this one begins.
        data: Flickr30k Entities: ``train.txt``, ``val.txt``, images and annotations.
        weights: as for `flickr_frozen`.
        tokens: as for `flickr_frozen`.
        wide: as for `flickr_frozen`, which has to be `start`'s too.

    Raises:
        UsageError: if the weights folder lacks a part.
    """
    frozen = flickr_frozen(data, weights, wide=wide)
    tokenizer = partial(Tokenizer, weights / "bert" / "vocab.txt", max_tokens=30 if wide else 20)
    new = (("fusion.layers.", 2.0), ("heads.", 4.0))
    cross = tuple((f"fusion.layers.{layer}.cross.", 4.0) for layer in range(FUSION_LAYERS))
    then = (Contrast(same_image_positives=True), MaskedWords(weight=0.1))
    task = Align(
        objectives=(Match(hardness=0.5, ramp_steps=1000), *then),
        first_alone=750,
        momentum=0.99,
        queue_size=4096,
        ramp_steps=900,
        keep_image_tokens=tokens or True,
        keep_text_states=True,
    )
    recipe = replace(
        frozen,
        name="flickr_small",
        model=partial(_started, weights, start, wide),
        task=task,
        data=replace(frozen.data, collator=lambda: Collator(tokenizer(), Masking(), texts_per_image=3)),
        optim=AdamW(
            lr=2e-4,
            warmup=40,
            final=0.02,
            lr_scale=(*cross, *new, ("image_proj.", 0.5), ("text_proj.", 0.5), ("temperature", 0.1)),
            freeze=("vision.", "text."),
        ),
        run=Run(steps=1000, batch=32, precision="bf16", clip=5.0, workers=1, log_every=10, save_every=200),
    )
    if not wide:
        return recipe
    return replace(
        recipe,
        task=replace(
            task,
            objectives=(WordRegion(), Match(hardness=0.5, ramp_steps=300), *then),
            first=2,
            first_alone=230,
            fuse_every=2,
            ramp_steps=270,
            summary_dropout=WIDE_DROPOUT,
        ),
        data=replace(frozen.data, collator=lambda: Collator(tokenizer(), Masking(), texts_per_image=2)),
        optim=replace(recipe.optim, weight_decay=0.3, lr_scale=(("heads.word_region.", 20.0), *recipe.optim.lr_scale)),
        run=replace(recipe.run, steps=300, batch=96, save_every=75),
    )


def vision_weights(weights: Path, wide: bool) -> tuple[Path, ...]:
    """Files of the image encoder's weights; `weights` and `wide` as for `flickr_frozen`."""
    first = weights / "resnet50_keras.safetensors"
    return (first, weights / "mobilenetv2.safetensors") if wide else (first,)


def image_size(wide: bool) -> int:
    """Side of the photos in pixels; `wide` as for `flickr_frozen`."""
    return 320 if wide else 224


def small_model(weights: Path, wide: bool = False) -> FusionModel:
    """Keras' ResNet-50, with MobileNetV2 if `wide`, and BERT 6 x 384 with two fusion layers, without dropout.

    Args:
        weights: as for `flickr_frozen`.
        wide: as for `flickr_frozen`.
    """
    return albef_cnn(
        "resnet50+mobilenetv2_100" if wide else "resnet50",
        vision_weights(weights, wide),
        weights / "bert",
        image_size=image_size(wide),
        fusion_layers=FUSION_LAYERS,
        embed=1024 if wide else 256,
        dropout=0.0,
        subsample_first=True,
        fold_norms=wide,  # `flickr_tuned`, which is never wide, trains the last stage
    )


def _started(weights: Path, start: Path, wide: bool) -> FusionModel:
    model = small_model(weights, wide)
    if wide:
        for_word_regions(model, dropout=0.2)
    start_from(model, start, new=("heads.word_region.",))
    return model
