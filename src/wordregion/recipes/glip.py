"""GLIP's pre-training, and its fine-tuning on COCO, as published (Li et al., CVPR 2022)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from wordregion.data.datasets.opening import open_source
from wordregion.data.ground_collate import GroundCollator
from wordregion.data.ground_transforms import GroundEvalTransform, GroundTransform, Prompter
from wordregion.data.mix import Mix
from wordregion.data.prompts import DetectionPrompts, FixedPrompts
from wordregion.data.pseudo_boxes import WithBoxes
from wordregion.data.tokens import Tokenizer
from wordregion.errors import UsageError
from wordregion.evaluate.detection import evaluate_detection
from wordregion.models import zoo
from wordregion.models.grounder import Grounder
from wordregion.models.official_glip import GLIP
from wordregion.models.store import start_from
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.recipes.tuning import epoch_steps, named_start
from wordregion.schema import Dataset
from wordregion.tasks.ground import Ground

OPTIMISER = AdamW(
    lr=1e-4,
    weight_decay=1e-4,
    schedule="step",
    warmup=2000,
    start=1e-3,
    milestones=(0.67, 0.89),
    drop=0.1,
    lr_scale=(("text.", 0.1),),
    no_decay=("bias",),
    decay_vectors=True,
    bias_scale=2.0,
)
"""Pre-training as published: the text encoder at a tenth of the rate, biases at twice, not decayed."""
BATCH, EPOCHS = 64, 30
OBJECTS365, GOLDG = 660_000, 800_000
"""Images of Objects365 and captions of GoldG, as the paper counts them."""
COCO_IMAGES = 118_287
COCO_CLASSES = tuple(
    name for name in FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"] if name not in ("__background__", "N/A")
)
"""Names of the 80 classes in the order of their ids."""


def glip_tiny_a(
    data: tuple[str, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    epoch: int = OBJECTS365,
    text: str = "bert-base-uncased",
) -> Recipe:
    """GLIP-T (A) as published: Swin-T without fusion on Objects365, 30 epochs, batch 64, AdamW 1e-4 (BERT 1e-5).

    Args:
        data: Objects365's annotations (whatever `wordregion data check` reads).
        images: folder or tar of their images, if they are not beside the files.
        val: detection set to evaluate on, COCO's instances for example.
        epoch: samples of an epoch; sets the number of steps.
        text: BERT weights and vocabulary: a hub name or a folder.
    """
    steps = EPOCHS * epoch_steps("glip_tiny_a", "epoch", epoch, BATCH)
    mixture = partial(_sources, data, (), images)
    return _pretraining("glip_tiny_a", zoo.glip_tiny_a, data, mixture, images, val, steps, text)


def glip_tiny(
    data: tuple[str, ...] = (),
    pseudo: tuple[str, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    epoch: int = OBJECTS365 + GOLDG,
    least: float = 0.5,
    text: str = "bert-base-uncased",
) -> Recipe:
    """GLIP-T as published: Swin-T with deep fusion, 30 epochs, batch 64, AdamW 1e-4 (BERT 1e-5).

    The data make its variants: (B) is Objects365 alone (``--epoch 660000``), (C) adds GoldG, T adds captions with the
    boxes that (C) put on them (`wordregion data pseudo-label`).

    Args:
        data: annotations of Objects365 and of GoldG (Flickr30k Entities, MDETR's mixed set).
        pseudo: captions with a teacher's boxes: CAPTIONS::FOLDER, where `wordregion data pseudo-label` wrote FOLDER.
        images: folder or tar of their images, if they are not beside the files.
        val: detection set to evaluate on, COCO's instances for example.
        epoch: samples of an epoch; sets the number of steps.
        least: smallest score of a teacher's box.
        text: BERT weights and vocabulary: a hub name or a folder.
    """
    steps = EPOCHS * epoch_steps("glip_tiny", "epoch", epoch, BATCH)
    mixture = partial(_sources, data, pseudo, images, least=least)
    return _pretraining("glip_tiny", zoo.glip_tiny, data, mixture, images, val, steps, text)


def glip_large(
    data: tuple[str, ...] = (),
    pseudo: tuple[str, ...] = (),
    copies: tuple[int, ...] = (),
    images: Path | None = None,
    val: str | None = None,
    least: float = 0.5,
    text: str = "bert-base-uncased",
) -> Recipe:
    """GLIP-L as published: Swin-L with deep fusion, a million steps of 64, AdamW 1e-4 (BERT 1e-5), weight decay 0.01.

    Args:
        data: annotations of Objects365, OpenImages, Visual Genome, ImageNet boxes, and of GoldG.
        pseudo: captions with a teacher's boxes: CAPTIONS::FOLDER, see `glip_tiny`.
        copies: how often each source of `data` comes; published: Objects365 2, OpenImages 1, Visual Genome 3, ImageNet
            2, Flickr30k 8, MDETR's mixed set 4. Once each if empty.
        images: folder or tar of their images, if they are not beside the files.
        val: detection set to evaluate on, COCO's instances for example.
        least: smallest score of a teacher's box.
        text: BERT weights and vocabulary: a hub name or a folder.
    """
    if copies and (len(copies) != len(data) or min(copies) < 1):
        raise UsageError(f"glip_large: {len(copies)} copies for {len(data)} sources. Give one for each, 1 or more.")
    mixture = partial(_sources, data, pseudo, images, copies, least)
    recipe = _pretraining("glip_large", zoo.glip_large, data, mixture, images, val, 1_000_000, text)
    return replace(recipe, optim=replace(OPTIMISER, weight_decay=0.01))


def glip_coco(
    checkpoint: Path | None = None,
    model: str = "tiny",
    train: str = "data/coco/annotations/instances_train2017.json",
    val: str = "data/coco/annotations/instances_val2017.json",
    images: Path | None = None,
    pictures: int = COCO_IMAGES,
    text: str = "bert-base-uncased",
) -> Recipe:
    """COCO as published for GLIP-T: all of the model, 24 epochs, batch 32, AdamW 1e-5 (BERT too), one prompt of all
    classes in their order.

    Args:
        checkpoint: pre-trained GLIP: the folder of a run, a weight file of ours, or a released checkpoint.
        model: tiny_a, tiny or large.
        train: COCO's training instances.
        val: COCO's validation instances.
        images: folder that holds train2017 and val2017 (or their tars), if they are not near the files.
        pictures: how many `train` holds; sets the number of steps.
        text: BERT vocabulary: a hub name, a folder or a vocab.txt.
    """
    start = named_start("glip_coco", checkpoint, "glip_tiny_model_o365_goldg.pth")
    if f"glip/{model}" not in GLIP:
        raise UsageError(f"glip_coco: unknown model '{model}'. There is: tiny_a, tiny, large.")
    batch, tokenizer = 32, _tokenizer(text)
    epoch = epoch_steps("glip_coco", "pictures", pictures, batch)
    return Recipe(
        name="glip_coco",
        model=partial(_started, model, start),
        task=Ground(),
        data=_data(
            partial(_of_split, train, images),
            partial(_of_split, val, images),
            FixedPrompts(COCO_CLASSES, tokenizer),
            tokenizer,
        ),
        optim=replace(OPTIMISER, lr=1e-5, lr_scale=()),
        run=_run(24 * epoch, batch),
        evaluation=partial(evaluate_detection, per_prompt=len(COCO_CLASSES)),
    )


def _pretraining(
    name: str,
    model: Callable[..., Grounder],
    sources: tuple[str, ...],
    train: Callable[[], Dataset],
    images: Path | None,
    val: str | None,
    steps: int,
    text: str,
) -> Recipe:
    if not sources:
        raise UsageError(f"{name}: no data. Name annotations with boxes: --data zhiyuan_objv2_train.json")
    tokenizer = _tokenizer(text)
    return Recipe(
        name=name,
        model=partial(model, text=text),
        task=Ground(),
        data=_data(
            train,
            None if val is None else partial(open_source, val, images),
            DetectionPrompts(tokenizer),
            tokenizer,
        ),
        optim=OPTIMISER,
        run=_run(steps, BATCH),
        evaluation=evaluate_detection,
    )


def _data(
    train: Callable[[], Dataset], evaluate: Callable[[], Dataset] | None, prompter: Prompter, tokenizer: Tokenizer
) -> Data:
    return Data(
        train=train,
        transform=GroundTransform(prompter),
        collator=partial(GroundCollator, tokenizer),
        evaluate=evaluate,
        eval_transform=GroundEvalTransform(),
    )


def _run(steps: int, batch: int) -> Run:
    return Run(
        steps=steps,
        batch=batch,
        precision="bf16",
        parallel="ddp",
        checkpoint_activations=True,
        clip=1.0,
        workers=8,
        log_every=50,
        save_every=5000,
    )


def _tokenizer(text: str) -> Tokenizer:
    return Tokenizer(text, max_tokens=256, clean=False)


def _sources(
    data: tuple[str, ...],
    pseudo: tuple[str, ...],
    images: Path | None,
    copies: tuple[int, ...] = (),
    least: float = 0.5,
) -> Dataset:
    """Sources with boxes, each as often as `copies` says, and captions with a teacher's boxes, once each."""
    parts = [(open_source(spec, images), count) for spec, count in zip(data, copies or (1,) * len(data), strict=True)]
    for spec in pseudo:
        captions, mark, folder = spec.rpartition("::")
        if not mark:
            raise UsageError(f"pseudo: '{spec}' names no folder of boxes. Write CAPTIONS::FOLDER.")
        parts.append((WithBoxes(open_source(captions, images), Path(folder), least), 1))
    if len(parts) == 1:
        return parts[0][0]
    return Mix(*((part, float(count * len(part))) for part, count in parts))


def _of_split(file: str, images: Path | None) -> Dataset:
    """Instances of COCO, whose photos are in a folder of the split's name."""
    return open_source(file, None if images is None else images / Path(file).stem.rpartition("_")[2])


def _started(model: str, checkpoint: Path) -> Grounder:
    grounder = GLIP[f"glip/{model}"]()
    start_from(grounder, checkpoint)
    return grounder
