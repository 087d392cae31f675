"""X-VLM and captioning on a few thousand real photos from pretrained encoders, for a machine with two cores."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from wordregion.data.captions import CaptionCollator
from wordregion.data.collate import Collator
from wordregion.data.datasets.flickr import Flickr30kEntities
from wordregion.data.regions import RegionTexts
from wordregion.data.tokens import Tokenizer, WordMasking
from wordregion.evaluate.boxes import evaluate_boxes
from wordregion.evaluate.caption import evaluate_captions
from wordregion.evaluate.retrieval import evaluate_retrieval
from wordregion.evaluate.several import evaluate_several
from wordregion.models.fusion import FusionModel
from wordregion.models.store import start_from
from wordregion.models.zoo import for_boxes, for_captioning, with_places
from wordregion.objectives import Box, Contrast, MaskedWords, Match
from wordregion.recipes.flickr_small import flickr_small, small_model
from wordregion.recipes.recipe import Recipe, Run
from wordregion.recipes.tuning import without_teacher
from wordregion.schema import Dataset
from wordregion.tasks.caption import Caption


def xvlm_flickr_small(
    start: Path | None = None,
    data: Path = Path("data/flickr30k_entities"),
    weights: Path = Path("weights"),
    tokens: Path | None = None,
    regions: int = 3,
    region_weight: float | None = 0.1,
) -> Recipe:
    """X-VLM on captions, phrases and boxes of Flickr30k Entities: frozen ResNet-50 and BERT, two fusion layers.

    Measured by the boxes of the validation photos' phrases and by retrieval.

    Args:
        start: None = from untrained projections, at ten times the rate; a run of `flickr_frozen` = from its own.
        data: as for `flickr_frozen`.
        weights: as for `flickr_frozen`.
        tokens: as for `flickr_frozen`.
        regions: phrases with boxes drawn of each photo, beside a caption; 0 = the same without regions and box head's
            training, to compare with.
        region_weight: of `Contrast` and `Match`.
    """
    base = flickr_small(Path(), data, weights, tokens)
    tokenizer = partial(Tokenizer, weights / "bert" / "vocab.txt", max_tokens=20)
    contrast = Contrast(same_image_positives=True, region_weight=region_weight)
    new = () if start else (("image_proj.", 5.0), ("text_proj.", 5.0))
    match = Match(hardness=0.5, ramp_steps=1000, region_weight=region_weight)
    return replace(
        base,
        name="xvlm_flickr_small",
        model=partial(_located, weights, start),
        task=replace(
            without_teacher(contrast, match, MaskedWords(weight=0.1), *((Box(),) if regions else ())),
            keep_image_tokens=tokens or True,
            keep_text_states=True,
        ),
        data=replace(
            base.data,
            train=partial(_phrases, data, "train"),
            collator=lambda: Collator(
                tokenizer(),
                WordMasking(),
                regions=regions + 1 if regions else 0,
            ),
        ),
        optim=replace(base.optim, lr_scale=(("places", 4.0), *new, *base.optim.lr_scale)),
        run=replace(base.run, steps=600, batch=24),
        evaluation=partial(evaluate_several, evaluations=(evaluate_boxes, partial(evaluate_retrieval, k=32)))
        if regions
        else partial(evaluate_retrieval, k=32),
    )


def caption_flickr_small(
    start: Path = Path("runs/xvlm_flickr_small"),
    data: Path = Path("data/flickr30k_entities"),
    weights: Path = Path("weights"),
    tokens: Path | None = None,
) -> Recipe:
    """Captions of Flickr30k's photos, from a run of `xvlm_flickr_small`; frozen ResNet-50.

    Args:
        start: run whose model learns to write.
        data: as for `flickr_frozen`.
        weights: as for `flickr_frozen`.
        tokens: as for `flickr_frozen`.
    """
    base = flickr_small(start, data, weights, tokens)
    train = partial(Flickr30kEntities, data, "train")
    return replace(
        base,
        name="caption_flickr_small",
        model=partial(_writing, weights, start),
        task=Caption(smoothing=0.1, keep_image_tokens=tokens or True),
        data=replace(
            base.data,
            collator=lambda: CaptionCollator(Tokenizer(weights / "bert" / "vocab.txt", max_tokens=30)),
        ),
        optim=replace(base.optim, freeze=("vision.",)),
        run=Run(steps=600, batch=64, precision="bf16", clip=5.0, workers=1, log_every=10, save_every=200),
        evaluation=partial(evaluate_captions, max_tokens=25, neighbours=train),
    )


def _phrases(data: Path, split: str) -> Dataset:
    return RegionTexts(Flickr30kEntities(data, split))


def _located(weights: Path, start: Path | None) -> FusionModel:
    model = for_boxes(with_places(small_model(weights)))
    if start is not None:
        start_from(model, start, new=("places", "heads.match.", "heads.box."))
    return model


def _writing(weights: Path, start: Path) -> FusionModel:
    model = for_captioning(with_places(small_model(weights)))
    start_from(model, start)
    return model
