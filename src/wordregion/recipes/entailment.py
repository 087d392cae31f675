"""Visual entailment: as ALBEF fine-tunes for SNLI-VE, and small on the built-in scenes."""

from functools import partial
from pathlib import Path

from wordregion.data.blank import Blank
from wordregion.data.datasets.snli_ve import SnliVe
from wordregion.data.scenes import SceneEntailment
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.evaluate.entailment import evaluate_entailment
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_base, albef_tiny_conv, for_entailment
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import albef_adamw, epoch_steps, named_start, new_or_trained, tuned
from wordregion.tasks.classify import Classify

CENTRED = (0.5, 0.5, 0.5)


def entail_snli_ve(
    checkpoint: Path | None = None,
    train: Path = Path("data/snli_ve_train.jsonl"),
    val: Path = Path("data/snli_ve_dev.jsonl"),
    images: Path = Path("data/flickr30k-images"),
    pairs: int = 529_527,
    text: str = "bert-base-uncased",
) -> Recipe:
    """SNLI-VE as published: 5 epochs at 384 pixels, AdamW 2e-5, batch 256, distillation rising to 0.4 over the first.

    Args:
        checkpoint: pre-trained albef_base: the folder of a run, a weight file of ours, or a released checkpoint.
        train: pairs to train on, in SNLI-VE's format or ALBEF's.
        val: pairs to evaluate on.
        images: folder or tar of Flickr30k's photos, or a folder of such tars.
        pairs: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("entail_snli_ve", checkpoint, "runs/albef_4m")
    batch = 256
    epoch = epoch_steps("entail_snli_ve", "pairs", pairs, batch)
    return Recipe(
        name="entail_snli_ve",
        model=partial(tuned, albef_base, for_entailment, start, new=("heads.entail.",)),
        task=Classify("entail", ramp_steps=epoch),
        data=Data(
            train=partial(SnliVe, train, images),
            transform=TrainTransform(384, scale=(0.5, 1.0)),
            collator=lambda: SentenceCollator(Tokenizer(text, max_tokens=64, sep=False), needs=("label",)),
            evaluate=partial(SnliVe, val, images),
            eval_transform=EvalTransform(384),
        ),
        optim=albef_adamw(2e-5, epoch, final=0.05, start=0.5),
        run=Run(steps=5 * epoch, batch=batch, precision="bf16", parallel="ddp", workers=4, save_every=epoch),
        evaluation=evaluate_entailment,
    )


def entail_scenes(pairs: int = 200_000, checkpoint: Path | None = None, text_only: bool = False) -> Recipe:
    """A small model learns whether a built-in scene entails a sentence, in some minutes on two cores.

    Args:
        pairs: number of different training pairs.
        checkpoint: the folder of a run of albef_demo or xvlm_scenes to start from; None = from nothing.
        text_only: hide the pictures: the baseline. Each sentence stands beside three scenes, one of each class.
    """
    pixels = 64
    tokenizer = Tokenizer("scenes")
    plain = EvalTransform(pixels, CENTRED, CENTRED)  # drawn scenes vary without augmentation
    transform = Blank(plain) if text_only else plain
    return Recipe(
        name="entail_scenes",
        model=partial(_small, tokenizer.vocab_size, pixels, checkpoint),
        task=Classify("entail", distill=0.0),  # a teacher that averages over a short run from nothing has little to say
        data=Data(
            train=partial(SceneEntailment, "train", pairs, image_size=pixels),
            transform=transform,
            collator=partial(SentenceCollator, tokenizer, needs=("label",)),
            evaluate=partial(SceneEntailment, "val", 1500, image_size=pixels),
            eval_transform=transform,
        ),
        optim=AdamW(lr=1e-3, betas=(0.9, 0.98), warmup=100, final=0.01),
        run=Run(steps=1500, batch=64, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=evaluate_entailment,
    )


def _small(vocab_size: int, pixels: int, checkpoint: Path | None) -> FusionModel:
    return for_entailment(new_or_trained(partial(albef_tiny_conv, vocab_size, pixels, fusion_layers=2), checkpoint))
