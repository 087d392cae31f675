"""ALBEF's tasks on small real data sets, each from the run of `flickr_small`, ``wide`` or not, on two cores.

The image encoder stays frozen and pictures are changed in a few ways at most, so each is encoded a few times at most.
With ``text_only`` the pictures are empty: what the words alone tell.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordregion.data.blank import Blank
from wordregion.data.datasets.daquar import Daquar
from wordregion.data.datasets.nlvr import Nlvr
from wordregion.data.datasets.snli_ve import SnliVe
from wordregion.data.few_shot import Subset
from wordregion.data.sentences import SentenceCollator
from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform, TrainTransform
from wordregion.data.variants import Variants
from wordregion.evaluate.common import evaluating, over_batches
from wordregion.evaluate.entailment import evaluate_entailment
from wordregion.evaluate.nlvr import evaluate_nlvr
from wordregion.evaluate.vqa import Vqa, evaluate_vqa
from wordregion.models.components import on_components
from wordregion.models.fusion import FusionModel
from wordregion.models.questions import encode_distinct, word_prior
from wordregion.models.store import image_size_of, load_model
from wordregion.models.zoo import for_entailment, for_questions, for_statements
from wordregion.nn.word_prior import WordPrior
from wordregion.recipes.flickr_small import FUSION_LAYERS, KERAS_MEAN, KERAS_STD
from wordregion.recipes.recipe import AdamW, Data, Evaluation, Recipe, Run, TaskSettings
from wordregion.schema import Batch, Dataset
from wordregion.tasks.answer import Answer
from wordregion.tasks.classify import Classify

PHOTOS = 400
"""From so many photos the principal components are computed."""
VARIANTS = 16
"""So many crops of 224 pixels are drawn, fewer of larger ones in so much work; the same ones for all photos, some
mirrored; each is encoded once."""


def entail_small(
    start: Path = Path("runs/flickr_small"),
    data: Path = Path("data/snli_ve"),
    images: Path = Path("data/flickr30k_entities"),
    vocab: Path = Path("weights/bert/vocab.txt"),
    text_only: bool = False,
    tokens: Path | None = None,
) -> Recipe:
    """Visual entailment on a few thousand SNLI-VE pairs.

    Args:
        start: run of `flickr_small`.
        data: holds ``snli_ve_train.jsonl`` and ``snli_ve_dev.jsonl``.
        images: folder of the photos' tars.
        vocab: BERT vocabulary.
        text_only: hide the photos: the baseline.
        tokens: folder for the photos' tokens, which further runs share; None = encode them in each run.
    """
    return _small(
        "entail_small",
        start,
        for_entailment,
        Classify("entail", distill=0.0, keep_image_tokens=tokens or True),
        partial(SnliVe, data / "snli_ve_train.jsonl", images),
        partial(SnliVe, data / "snli_ve_dev.jsonl", images),
        lambda: SentenceCollator(Tokenizer(vocab, max_tokens=30), needs=("label",)),
        evaluate_entailment,
        text_only,
        steps=280,
    )


def vqa_small(
    start: Path = Path("runs/flickr_small"),
    data: Path = Path("data/daquar"),
    vocab: Path = Path("weights/bert/vocab.txt"),
    text_only: bool = False,
    tokens: Path | None = None,
    components: int = 48,
) -> Recipe:
    """Questions of DAQUAR about photos of rooms; a fifth of the photos is held out.

    Of a photo the model sees few principal components alone, of crops and mirror images: it would learn 635 photos by
    heart otherwise. It learns best to look after it has learnt to read: first with `text_only`, then from that run with
    photos. What the summaries alone tell of words, the same for all questions about a photo, is fitted before it begins
    to look (`WordPrior`).

    Args:
        start: run of `flickr_small`, or one of this recipe with `text_only`, which then goes on with photos.
        data: holds ``qa_train.txt`` and ``images_train.tar``.
        vocab: BERT vocabulary.
        text_only: hide the photos: the baseline.
        tokens: folder for the photos' tokens, which further runs share; None = encode them in each run.
        components: how many; a run of this recipe goes on with its own.
    """
    source = partial(Daquar, data / "qa_train.txt", data / "images_train.tar")
    pixels = image_size_of(start)
    plain = EvalTransform(pixels, KERAS_MEAN, KERAS_STD)
    crop = TrainTransform(pixels, (0.4, 1.0), randaugment=None, mean=KERAS_MEAN, std=KERAS_STD)
    crops = Variants(crop, max(1, VARIANTS * 224**2 // max(224, pixels) ** 2))
    looking = tuple(f"fusion.layers.{layer}.cross." for layer in range(FUSION_LAYERS))

    def collator() -> SentenceCollator:
        return SentenceCollator(Tokenizer(vocab, max_tokens=25), answers=Tokenizer(vocab, max_tokens=20, clean=False))

    def answering(begun: FusionModel) -> FusionModel:
        if "answer" not in begun.heads:
            begun = for_questions(_on_components(begun, components, source("train"), plain, collator()), layers=2)
        if not text_only:  # a new run fits it
            begun.heads["prior"] = WordPrior(begun.vision.width, begun.text.vocab_size)
        return begun

    def fit_prior(model: FusionModel) -> None:
        prior = word_prior(model)
        assert prior is not None
        prior.fit(*_seen_and_said(model, source("train"), plain, collator()))

    def evaluate(model: FusionModel, *given: Any, k: int = 128, **settings: Any) -> Vqa:
        """Ranks the answers of the training part."""
        return evaluate_vqa(model, *given, candidates=source("train").answers(), k=k, **settings)

    recipe = _small(
        "vqa_small",
        start,
        answering,
        Answer(distill=0.0, keep_image_tokens=tokens or True),
        partial(source, "train"),
        partial(source, "val"),
        collator,
        evaluate,
        text_only,
        steps=500,
    )
    optim = replace(
        recipe.optim,
        lr_scale=(("heads.", 4.0), *(() if text_only else ((name, 20.0) for name in looking))),
        # keys and values of photos start at 0, and stay there for a run that goes on with photos
        freeze=("vision.", "text.", *((f"{name}kv." for name in looking) if text_only else ())),
    )
    return replace(
        recipe,
        data=replace(recipe.data, transform=Blank(crops) if text_only else crops),
        optim=optim,
        prepare=None if text_only else fit_prior,
    )


def nlvr_small(
    start: Path = Path("runs/flickr_small"),
    data: Path = Path("data/nlvr"),
    vocab: Path = Path("weights/bert/vocab.txt"),
    text_only: bool = False,
    tokens: Path | None = None,
) -> Recipe:
    """Statements about NLVR's drawings.

    Args:
        start: run of `flickr_small`.
        data: holds ``train.json``, ``dev.json`` and the tars of their drawings.
        vocab: BERT vocabulary.
        text_only: hide the drawings: the baseline.
        tokens: folder for the drawings' tokens, which further runs share; None = encode them in each run.
    """
    return _small(
        "nlvr_small",
        start,
        for_statements,
        Classify("nlvr", distill=0.0, keep_image_tokens=tokens or True),
        partial(Nlvr, data / "train.json"),
        partial(Nlvr, data / "dev.json"),
        lambda: SentenceCollator(Tokenizer(vocab, max_tokens=30), needs=("label",)),
        evaluate_nlvr,
        text_only,
        steps=280,
    )


def _on_components(
    model: FusionModel, components: int, dataset: Dataset, transform: EvalTransform, collator: SentenceCollator
) -> FusionModel:
    """The model on the principal components of photos of a data set (`PHOTOS` records, evenly spaced)."""
    few = Subset(dataset, range(0, len(dataset), max(1, len(dataset) // PHOTOS)))
    return on_components(model, _seen_and_said(model, few, transform, collator)[0], components)


def _seen_and_said(
    model: FusionModel, dataset: Dataset, transform: EvalTransform, collator: SentenceCollator
) -> tuple[Tensor, list[list[int]]]:
    """For each question the summary of its photo, and the ids of its words and of its answers'."""

    @torch.no_grad()
    def rows(batch: Batch) -> list[tuple[list[float], list[int]]]:
        words = [ids[real].tolist() for ids, real in zip(batch.token_ids, batch.token_mask, strict=True)]
        answers = (batch.target[name] for name in ("answer_text", "answer_ids", "answer_mask"))
        for question, ids, real in zip(*answers, strict=True):
            words[question] += ids[real].tolist()
        return list(zip(encode_distinct(model, batch.image)[:, 0].tolist(), words, strict=True))

    with evaluating(model) as device:
        found = over_batches(rows, dataset, transform, collator, batch=32, device=device, title="questions' photos")
    return torch.tensor([summary for summary, _ in found]), [words for _, words in found]


def _small(
    name: str,
    start: Path,
    fit: Callable[[FusionModel], FusionModel],
    task: TaskSettings,
    train: Callable[[], Dataset],
    val: Callable[[], Dataset],
    collator: Callable[[], SentenceCollator],
    evaluation: Evaluation,
    text_only: bool,
    steps: int,
) -> Recipe:
    plain = EvalTransform(image_size_of(start), KERAS_MEAN, KERAS_STD)
    transform = Blank(plain) if text_only else plain
    return Recipe(
        name=name,
        model=lambda: fit(load_model(start)),
        task=task,
        data=Data(train=train, transform=transform, collator=collator, evaluate=val, eval_transform=transform),
        optim=AdamW(lr=1e-4, warmup=20, final=0.02, lr_scale=(("heads.", 4.0), ("text.", 0.5)), freeze=("vision.",)),
        run=Run(steps=steps, batch=64, precision="bf16", clip=5.0, workers=1, log_every=10, save_every=1000),
        evaluation=evaluation,
    )
