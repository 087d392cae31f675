"""GLIP on the built-in scenes from nothing, and its adaptation to names that it never read: for one core."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from wordregion.data.datasets.opening import open_source
from wordregion.data.ground_collate import GroundCollator
from wordregion.data.ground_transforms import GroundEvalTransform, GroundTransform, Prompter
from wordregion.data.mix import Mix
from wordregion.data.prompts import DetectionPrompts, FixedPrompts, PromptSampling
from wordregion.data.scene_detections import Names, SceneDetections, scene_classes
from wordregion.data.tokens import Tokenizer
from wordregion.evaluate.detection import evaluate_detection
from wordregion.models.adapt import Mode, adapt
from wordregion.models.grounder import Grounder
from wordregion.models.store import load_model
from wordregion.models.zoo import glip_micro
from wordregion.recipes.recipe import AdamW, Data, Recipe, Run
from wordregion.schema import Dataset
from wordregion.tasks.ground import Ground

PIXELS = 96
CENTRED = (0.5, 0.5, 0.5)
CLASSES = 20
"""Classes a prompt, at most: what training shows."""
TOKENS = 64
"""Longest prompt: 20 classes of three tokens, or the ten renamed ones by their letters."""
TUNING: dict[Mode, AdamW] = {
    "prompt": AdamW(lr=0.05, weight_decay=0.25, warmup=10, final=0.01),
    "linear": AdamW(lr=2e-3, weight_decay=1e-4, warmup=10, final=0.01),
    "full": AdamW(lr=5e-4, weight_decay=1e-4, betas=(0.9, 0.98), warmup=10, final=0.01),
}
"""Prompt: rate and decay as published. The others suit this small model."""


def glip_scenes(scenes: int = 100_000) -> Recipe:
    """A small GLIP from nothing: boxes of 80 classes such as "red circle", and of the ten shapes by themselves.

    Measured on classes whose names it has read; on others by ``wordregion eval RUN --data scenes:unseen#val`` (new
    pairs of the same words) or ``scenes:renamed#val`` (new words).

    Args:
        scenes: number of different training scenes.
    """
    tokenizer = _tokenizer()
    sampling = PromptSampling(negatives=CLASSES, budget=TOKENS - 2)
    return Recipe(
        name="glip_scenes",
        model=partial(glip_micro, tokenizer.vocab_size, separator=int(tokenizer(["."]).ids[0, 1])),
        task=Ground(),
        data=_data(partial(_pairs_and_shapes, scenes), "shapes", DetectionPrompts(tokenizer, sampling), tokenizer),
        optim=AdamW(lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.98), warmup=100, final=0.01),
        run=Run(steps=1500, batch=16, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=partial(evaluate_detection, per_prompt=CLASSES),
    )


def glip_scenes_adapt(
    start: Path = Path("runs/glip_scenes"), mode: Mode = "prompt", names: Names = "renamed", pictures: int = 200
) -> Recipe:
    """A run of `glip_scenes` adapted to classes whose names it never read, on a few pictures.

    All classes are asked for in one prompt, always the same; a tuned prompt is of use with that one only.

    Args:
        start: run of `glip_scenes`; its files are not changed.
        mode: prompt = only an offset of the text is trained, linear = the head's last maps, full = everything.
        names: renamed, unseen or shapes, as in ``scenes:NAMES``.
        pictures: number of different training pictures.
    """
    tokenizer, train = _tokenizer(), partial(SceneDetections, "train", pictures, seed=1, names=names)
    return Recipe(
        name=f"glip_scenes_{mode}",
        model=partial(_adapted, start, mode),
        task=Ground(),
        data=_data(train, names, FixedPrompts(scene_classes(names), tokenizer), tokenizer),
        optim=TUNING[mode],
        run=Run(steps=200, batch=16, clip=1.0, workers=1, log_every=10, save_every=500),
        evaluation=partial(evaluate_detection, per_prompt=CLASSES),
    )


def _data(train: Callable[[], Dataset], names: Names, prompter: Prompter, tokenizer: Tokenizer) -> Data:
    return Data(
        train=train,
        transform=GroundTransform(prompter, (PIXELS,), PIXELS, flip=0.0, mean=CENTRED, std=CENTRED),
        collator=partial(GroundCollator, tokenizer),
        evaluate=partial(open_source, f"scenes:{names}#val"),
        eval_transform=GroundEvalTransform(PIXELS, PIXELS, CENTRED, CENTRED),
    )


def _tokenizer() -> Tokenizer:
    return Tokenizer("scenes", max_tokens=TOKENS, clean=False)


def _pairs_and_shapes(scenes: int) -> Dataset:
    return Mix(
        (SceneDetections("train", scenes, names="seen"), 1), (SceneDetections("train", scenes, names="shapes"), 1)
    )


def _adapted(start: Path, mode: Mode) -> Grounder:
    return adapt(load_model(start, Grounder), mode)
