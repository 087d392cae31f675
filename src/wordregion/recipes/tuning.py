"""What the published recipes share: a start, data of several files, the steps of an epoch, X-VLM's optimiser."""

from collections.abc import Callable
from pathlib import Path

from wordregion.data.datasets.opening import open_source
from wordregion.data.mix import mixed
from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.models.store import load_model, start_from
from wordregion.objectives import Objective
from wordregion.recipes.recipe import AdamW
from wordregion.schema import Dataset
from wordregion.tasks.align import Align


def named_start(recipe: str, checkpoint: Path | None, example: str = "runs/xvlm_4m") -> Path:
    """The checkpoint.

    Args:
        recipe: its name, for the error.
        checkpoint: what the user gave.
        example: shown in the error.

    Raises:
        UsageError: if there is none.
    """
    if checkpoint is None:
        raise UsageError(f"{recipe}: no checkpoint. Name a pre-trained model: --checkpoint {example}")
    return checkpoint


def check_data(recipe: str, data: tuple[str, ...]) -> None:
    """Raises UsageError if a pre-training names no caption file."""
    if not data:
        raise UsageError(f"{recipe}: no data. Name the caption files: --data coco.json vg.json cc3m.json sbu.json")


def epoch_steps(recipe: str, what: str, count: int, batch: int) -> int:
    """Steps of an epoch; samples that fill no batch are left out.

    Args:
        recipe: its name, for the error.
        what: the argument that counts the samples, for the error.
        count: samples of an epoch.
        batch: samples a step.

    Raises:
        UsageError: if the samples fill no batch.
    """
    if count < batch:
        raise UsageError(f"{recipe}: {what}={count} is less than one batch of {batch}. Count the {what}.")
    return count // batch


def opened(specs: tuple[str, ...], images: Path | None) -> Dataset:
    """Several sources (see `open_source`) as one data set, in proportion to their sizes."""
    return mixed([open_source(spec, images) for spec in specs])


def tuned(
    build: Callable[..., FusionModel],
    heads: Callable[[FusionModel], FusionModel],
    checkpoint: Path,
    image_size: int = 384,
    new: tuple[str, ...] = (),
    seed: Callable[[str], str] = lambda name: name,
) -> FusionModel:
    """A published architecture with the heads of a task, filled from a trained model of another image size perhaps.

    Args:
        build: `zoo.albef_base` or `zoo.xvlm_base`.
        heads: gives a model the heads of the task, `zoo.for_retrieval` for example.
        checkpoint: of pre-training or the task: the folder of a run, a weight file of ours, or a released checkpoint.
        image_size: pixels.
        new: see `store.start_from`.
        seed: see `store.start_from`.

    Raises:
        CheckpointError: if it doesn't fill the model.
    """
    model = heads(build(image_size, vision_weights=False, text_weights=False))
    start_from(model, checkpoint, new, seed)
    return model


def new_or_trained(build: Callable[[], FusionModel], checkpoint: Path | None) -> FusionModel:
    """A run's own model, whatever its size; a new one without a run."""
    return build() if checkpoint is None else load_model(checkpoint)


def without_teacher(*objectives: Objective) -> Align:
    """Objectives as X-VLM trains them: no teacher and no queue."""
    return Align(objectives=objectives, momentum=None, queue_size=0, distill=0.0)


def albef_adamw(lr: float, epoch: int, final: float, warmup: int = 1, start: float = 1.0) -> AdamW:
    """The optimiser of ALBEF's programs: the rate falls by half a cosine, after each epoch, never within one.

    Args:
        lr: peak learning rate.
        epoch: steps of an epoch.
        final: share of `lr` that the cosine ends at, reached after the last epoch.
        warmup: stairs of 100 steps at the beginning of the first epoch (the configurations' ``warmup_epochs``).
        start: share of `lr` from which they rise.
    """
    stair = 100
    return AdamW(lr=lr, weight_decay=0.02, warmup=warmup * stair, start=start, final=final, stairs=(stair, epoch))


def xvlm_adamw(lr: float, steps: int, twice: tuple[str, ...] = ()) -> AdamW:
    """X-VLM's optimiser for every task (its code): betas 0.9 and 0.98, weight decay 0.01 and none on names with "bias",
    a tenth of the steps as warm-up, then linearly to 0.

    Args:
        lr: peak learning rate.
        steps: of the run.
        twice: beginnings of the names of new parameters, which have twice the rate.
    """
    return AdamW(
        lr=lr,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        schedule="linear",
        warmup=steps // 10,
        lr_scale=tuple((prefix, 2.0) for prefix in twice),
        no_decay=("bias",),
    )
