"""ALBEF on a few thousand real photos from pretrained encoders, for a machine with two cores."""

from functools import partial
from pathlib import Path

from wordregion.data.collate import Collator
from wordregion.data.datasets.flickr import Flickr30kEntities
from wordregion.data.tokens import Masking, Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.errors import UsageError
from wordregion.models.zoo import albef_cnn
from wordregion.objectives import Contrast, MaskedWords, Match
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.tasks.align import Align

FUSION_LAYERS = 2
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def flickr_small(data: Path = Path("data/flickr30k_entities"), weights: Path = Path("weights")) -> Recipe:
    """All three losses with distillation on Flickr30k photos: frozen MobileNetV2, BERT 6 x 384, two fusion layers.

    `examples/flickr_small/prepare.py` makes the weights folder. Three captions of a photo share one image encoding.

    Args:
        data: Flickr30k Entities: ``train.txt``, ``val.txt``, images and annotations.
        weights: holds ``mobilenetv2_100.safetensors`` and ``bert/``.

    Raises:
        UsageError: if the weights folder lacks a part.
    """
    vision, text = weights / "mobilenetv2_100.safetensors", weights / "bert"
    for part in (vision, text / "config.json", text / "model.safetensors", text / "vocab.txt"):
        if not part.is_file():
            raise UsageError(f"flickr_small: {part} is missing. Make it with examples/flickr_small/prepare.py.")
    cross = tuple((f"fusion.layers.{layer}.cross.", 3.0) for layer in range(FUSION_LAYERS))
    return Recipe(
        name="flickr_small",
        model=partial(albef_cnn, "mobilenetv2_100", vision, text, fusion_layers=FUSION_LAYERS),
        task=Align(
            objectives=(Contrast(same_image_positives=True), Match(), MaskedWords()),
            momentum=0.99,
            queue_size=4096,
            ramp_steps=236,
        ),
        data=Data(
            train=partial(Flickr30kEntities, data, "train"),
            transform=TrainTransform(224, (0.5, 1.0), randaugment=None, mean=IMAGENET_MEAN, std=IMAGENET_STD),
            collator=lambda: Collator(Tokenizer(text / "vocab.txt", max_tokens=20), Masking(), texts_per_image=3),
            evaluate=partial(Flickr30kEntities, data, "val"),
            eval_transform=EvalTransform(224, IMAGENET_MEAN, IMAGENET_STD),
        ),
        optim=AdamW(
            lr=2e-4,
            warmup=20,
            final=0.02,
            lr_scale=(
                *cross,
                ("heads.match.", 3.0),
                ("text.", 0.5),
                ("image_proj.", 10.0),
                ("text_proj.", 10.0),
                ("temperature", 10.0),
            ),
            freeze=("vision.",),
        ),
        run=Run(steps=600, batch=32, precision="bf16", clip=5.0, workers=1, log_every=10, save_every=200),
    )
