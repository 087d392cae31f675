"""Adapting a detector to a small data set as GLIP does on ODinW: until its AP on other photos stays below its best."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from wordregion.data.datasets.odinw import Part
from wordregion.data.ground_collate import GroundCollator
from wordregion.data.ground_transforms import GroundEvalTransform, GroundTransform, Prompter
from wordregion.data.prompts import DetectionPrompts, FixedPrompts, PromptSampling, class_chunks, prompt_room
from wordregion.data.tokens import Tokenizer
from wordregion.engine.run import Run
from wordregion.errors import UsageError
from wordregion.evaluate.detection import evaluate_detection
from wordregion.models.adapt import Mode, adapt
from wordregion.models.grounder import Grounder
from wordregion.recipes.glip import OPTIMISER
from wordregion.recipes.recipe import AdamW, Data, Plateau, Recipe
from wordregion.schema import Dataset
from wordregion.tasks.ground import Ground

CLASSES_A_PROMPT = 1_000
"""All classes are asked for at once, as far as the tokenizer's limit goes."""
SHORTER = (0.6, 0.7, 0.8, 0.9, 1.0)
"""Shorter sides that training draws from, over that of the evaluation: 480 to 800 pixels."""
LEAST_RATE = 1e-6
TUNING: dict[Mode, AdamW] = {
    "full": replace(OPTIMISER, weight_decay=0.05, warmup=0, milestones=()),
    "linear": replace(OPTIMISER, weight_decay=0.05, warmup=0, milestones=()),
    "prompt": replace(OPTIMISER, lr=0.05, weight_decay=0.25, warmup=0, milestones=()),
}
"""As published: no warm-up, and a rate that only a plateau lowers."""


@dataclass(frozen=True)
class Tuning:
    """How a detector is adapted; the numbers are GLIP's.

    Attributes:
        mode: what is trained, see `models.adapt`.
        epochs: at most.
        batch: images a step, over all processes.
        lr: peak learning rate; the published one of the mode if None.
        precision: fp32 or bf16.
        workers: loader processes.
        device: where to compute.
    """

    mode: Mode = "full"
    epochs: int = 200
    batch: int = 4
    lr: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1:
            raise UsageError(f"{self}: epochs and batch are at least 1.")

    def optim(self) -> AdamW:
        """The optimiser."""
        return TUNING[self.mode] if self.lr is None else replace(TUNING[self.mode], lr=self.lr)


def odinw_tuning(
    base: Grounder,
    train: Dataset,
    valid: Part,
    tokenizer: Tokenizer,
    look: GroundEvalTransform,
    tuning: Tuning,
    few: bool,
) -> Recipe:
    """Adapts a copy of a detector; evaluated after each epoch of `train`.

    All classes are asked for in one prompt, always the same. Where they do not fit in one, prompts are drawn as in
    pre-training, and a prompt can't be tuned.

    Args:
        base: trained; it is not changed.
        train: photos with boxes, repeated as often as an epoch has them.
        valid: photos that decide on the rate and on the end; its wordings are asked for.
        tokenizer: of the prompts.
        look: transform of the evaluation; training draws sizes from 60 % of its size on.
        tuning: how.
        few: whether these are few shots: they bear 3 evaluations without a better AP, and 8 below the best (else 2, 4).

    Raises:
        UsageError: if a prompt shall be tuned and the classes do not fit in one.
    """
    epoch = max(1, len(train) // tuning.batch)
    wordings = valid.wordings
    prompter: Prompter
    if tuning.mode != "prompt" and len(class_chunks(wordings, tokenizer, CLASSES_A_PROMPT)) > 1:
        prompter = DetectionPrompts(tokenizer, PromptSampling(budget=prompt_room(tokenizer)))
    else:
        prompter = FixedPrompts(tuple(valid.dataset.categories.values()), tokenizer, wordings)
    shorter = tuple(round(share * look.shorter) for share in SHORTER)
    return Recipe(
        name=f"odinw_{tuning.mode}",
        model=partial(_copy, base, tuning.mode),
        task=Ground(),
        data=Data(
            train=lambda: train,
            transform=GroundTransform(prompter, shorter, look.longest, mean=look.mean, std=look.std),
            collator=partial(GroundCollator, tokenizer),
            evaluate=lambda: valid.dataset,
            eval_transform=look,
        ),
        optim=tuning.optim(),
        run=Run(
            steps=tuning.epochs * epoch,
            batch=tuning.batch,
            precision=tuning.precision,
            parallel="ddp",
            clip=1.0,
            seed=10,
            workers=tuning.workers,
            log_every=50,
            save_every=500,
            keep=1,
            device=tuning.device,
        ),
        evaluation=partial(evaluate_detection, classes=wordings, per_prompt=CLASSES_A_PROMPT),
        plateau=Plateau(
            epoch,
            "coco/AP",
            patience=3 if few else 2,
            stop=8 if few else 4,
            least=min(0.1, LEAST_RATE / tuning.optim().lr),
            batch=tuning.batch,
        ),
    )


def _copy(base: Grounder, mode: Mode) -> Grounder:
    return adapt(copy.deepcopy(base), mode)
