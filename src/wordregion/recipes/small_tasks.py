"""ALBEF's tasks on small real data sets, each from the run of `flickr_small`, ``wide`` or not, on two cores.

The image encoder stays frozen and pictures are changed in a few ways at most, so each is encoded a few times at most.
With ``text_only`` the pictures are empty: what the words alone tell.

Shape letters: R records, F width of a photo's summary.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
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
from wordregion.models.questions import encode_for_prior, word_prior
from wordregion.models.store import image_size_of, load_model
from wordregion.models.zoo import for_entailment, for_questions, for_statements
from wordregion.nn.word_prior import WordPrior
from wordregion.recipes.flickr_small import FUSION_LAYERS, KERAS_MEAN, KERAS_STD
from wordregion.recipes.recipe import AdamW, Data, Evaluation, Recipe, Run, TaskSettings
from wordregion.schema import Batch, Dataset
from wordregion.tasks.answer import Answer
from wordregion.tasks.classify import Classify
from wordregion.tasks.image_tokens import at_once

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

    Of a photo the model sees few principal components alone, of crops and mirror images: it would learn 628 photos by
    heart otherwise. It learns best to look after it has learnt to read: first with `text_only`, then from that run with
    photos. What the whole summaries tell of the answers' words, the same for all questions about a photo, is fitted
    before it begins to look (`WordPrior`).

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

    def answer_words(dataset: Daquar) -> set[int]:
        return set().union(*_ids(collator().answers, dataset.answers()))

    def answering(begun: FusionModel) -> FusionModel:
        train = source("train")
        if "answer" not in begun.heads:
            few = Subset(train, range(0, len(train), max(1, len(train) // PHOTOS)))
            summary = _over_photos(lambda image: begun.encode_image(image)[:, 0], begun, few, plain, collator())
            begun = on_components(begun, summary, components)
            begun = for_questions(begun, layers=2)
        if not text_only:  # a new run fits it
            words = len(answer_words(train))
            begun.heads["prior"] = WordPrior(begun.vision.full_width, len(train.photos()), words)
        elif word_prior(begun) is not None:
            del begun.heads["prior"]
        return begun

    def fit_prior(model: FusionModel) -> None:
        train, prior = source("train"), word_prior(model)
        assert prior is not None
        photos = train.photos().values()
        _, questions, answers = zip(*map(train.words, range(len(train))), strict=True)
        asked, answered = _ids(collator().tokenizer, questions), _ids(collator().answers, answers)
        said = [set().union(*(asked[index] | answered[index] for index in about)) for about in photos]
        seen = Subset(train, [first for first, *_ in photos])
        summary = _over_photos(lambda image: encode_for_prior(model, image)[1], model, seen, plain, collator())
        prior.fit(answer_words(train), summary, said)

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


def _over_photos(
    summarise: Callable[[Tensor], Tensor],
    model: FusionModel,
    dataset: Dataset,
    transform: EvalTransform,
    collator: SentenceCollator,
) -> Float[Tensor, "R F"]:
    """The summary of each record's photo, as `summarise` makes them by the model."""

    @torch.no_grad()
    def rows(batch: Batch) -> list[list[float]]:
        return summarise(batch.image).tolist()

    with evaluating(model) as device:
        found = over_batches(rows, dataset, transform, collator, batch=at_once(device), device=device, title="photos")
    return torch.tensor(found)


def _ids(tokenizer: Tokenizer | None, texts: Iterable[str]) -> list[set[int]]:
    """Of each text the ids of its words."""
    assert tokenizer is not None
    encoded = tokenizer(list(texts))
    marks = {tokenizer.cls_id, tokenizer.sep_id}
    return [set(ids[real].tolist()) - marks for ids, real in zip(encoded.ids, encoded.mask, strict=True)]


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
